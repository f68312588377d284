package diagnose

import (
	"fmt"
	"net/netip"
)

// br_netfilter shows frames that a bridge gives up to the host to the IP prerouting
// hook while they are still the bridge's. Where a rule there sends a packet back into
// the same bridge, the bridge keeps it and switches it itself, with all that holds for
// what it switches: isolated ports, and nothing back to the port that it came from
// (br_nf_pre_routing_finish and its IPv6 twin in net/bridge/br_netfilter_*.c).

// shows says whether bridged packets of a family are shown to the IP hooks.
func (c *courier) shows(a netip.Addr) bool {
	return a.Is4() && c.scene.Host.BridgeCalls4 || a.Is6() && c.scene.Host.BridgeCalls6
}

// turn is asked when the way of a packet is known that came out of a port; what it
// returns ends the way, nil lets it go on.
type turn func(p Packet, r RouteAnswer) (end func() bool)

// keptBack is the turn of a frame that br_netfilter shows: it goes up to the host after
// all, or stays on the bridge.
func (c *courier) keptBack(asked netip.Addr, from End, upper string) turn {
	return func(p Packet, r RouteAnswer) func() bool {
		if r.Type != typeUnicast || r.Out != upper || p.Target == asked {
			frame := p
			frame.In, frame.Target = from.Port, asked
			if v := Walk(c.scene.Rules, c.scene.Host, At{Switched, "input"}, frame); v.Kind != Accepted {
				return func() bool { return c.verdict("input", v) }
			}
			return nil
		}
		next := p.Target
		if r.Via.IsValid() {
			next = r.Via
		}
		to := c.endAt(from.Bridge, upper, next)
		in, out := c.scene.Host.Links[from.Port], c.scene.Host.Links[to.Port]
		switch {
		case to.Port == from.Port && !in.Hairpin:
			return func() bool {
				return c.end(Dropped, "port "+from.Port, fmt.Sprintf("ip link set %s type bridge_slave hairpin on", from.Port),
					"br_netfilter leaves it to bridge %s, which sends nothing back to the port that it came from", from.Bridge)
			}
		case to.Port != from.Port && in.Isolated && out.Isolated:
			return func() bool {
				return c.end(Dropped, "port "+to.Port, "ip link set "+to.Port+" type bridge_slave isolated off",
					"br_netfilter leaves it to bridge %s, where both ports are isolated", from.Bridge)
			}
		}
		c.kept = from.Port
		return nil
	}
}
