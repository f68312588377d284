package engine

import (
	"context"
	"maps"
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// hairpins finds the ports that must take back what their own guest sent: the
// guest calls itself by a forward while br_netfilter is on, so that the frame is
// translated on the bridge and has to leave by the port that it came in by. Only
// then: such a port also gives a guest its own broadcasts back, which breaks
// duplicate address detection in old guests.
func (e *Engine) hairpins(ctx context.Context, doc spec.Document, seen host.State) map[string]bool {
	filtered4, filtered6 := isOne(seen, bridgeFilters[0]), isOne(seen, bridgeFilters[1])
	if !filtered4 && !filtered6 {
		return nil
	}
	ports := map[string]bool{}
	who := e.guests(ctx, doc)
	for _, n := range doc.Networks {
		if n.Forwards.Len() == 0 || !n.Started {
			continue
		}
		// By names: there may be many more forwards than guests.
		taps := map[string][]string{}
		for _, p := range e.portsOn(ctx, n, seen) {
			for _, name := range slices.Concat(e.namesOf(n, p), who.addrs(n, p.MAC)) {
				taps[name] = append(taps[name], p.Tap)
			}
		}
		if len(taps) == 0 {
			continue
		}
		for f := range n.Forwards.All() {
			if f.Listen.Is6() && !filtered6 || f.Listen.Is4() && !filtered4 {
				continue
			}
			for _, tap := range taps[f.Target] {
				ports[tap] = true
			}
		}
	}
	return ports
}

func isOne(seen host.State, parameter host.Key) bool {
	s, _ := seen[parameter].(host.Sysctl)
	return s.Value == "1"
}

// portsOn are the ports of a network: ours, and those that others plugged in,
// as far as the switch learnt who is behind them.
func (e *Engine) portsOn(ctx context.Context, n spec.Network, seen host.State) []host.Port {
	var ports []host.Port
	for _, p := range e.live {
		if p.Network == string(n.Name) {
			ports = append(ports, p)
		}
	}
	learned, err := e.Taps.Learned(ctx)
	if err != nil {
		return ports // the next look asks again
	}
	silent := silentMACs(spec.Document{Networks: map[spec.NetworkName]spec.Network{n.Name: n}}, maps.Values(e.leases))
	for _, r := range seen {
		l, _ := r.(host.Link)
		if _, ours := e.live[l.Name]; ours || l.Master == "" || l.Master != n.Bridge {
			continue
		}
		macs := learned[l.Name]
		if mac := silent(l, n.Name); mac != "" && len(macs) == 0 {
			macs = []string{mac}
		}
		for _, mac := range macs {
			ports = append(ports, host.Port{Tap: l.Name, MAC: mac, Network: string(n.Name)})
		}
	}
	return ports
}

// namesOf is all that a forward may call the guest behind a port.
func (e *Engine) namesOf(n spec.Network, p host.Port) []string {
	names := []string{p.Guest, p.MAC}
	if l, ok := e.leases[leaseKey{n.Name, p.MAC}]; ok {
		names = append(names, l.Hostname, l.Address)
	}
	for _, r := range n.Reservations {
		if r.MAC == p.MAC {
			names = append(names, r.Hostname, r.Addr.String())
		}
	}
	return names
}

// reflectsNow adds to a change of forwards the ports whose hairpin mode it needs.
func (e *Engine) reflectsNow(ctx context.Context, doc spec.Document, changes []doorChange, seen host.State) host.State {
	goal := host.State{}
	taps := e.targetTaps(ctx, doc, changes)
	if len(taps) == 0 {
		return goal
	}
	reflects := e.hairpins(ctx, doc, seen)
	for _, tap := range taps {
		if l, there := seen[host.LinkKey(tap)].(host.Link); there && l.Hairpin != reflects[tap] {
			l.Hairpin = reflects[tap]
			goal.Add(l)
		}
	}
	return goal
}

// targetTaps are the taps of the guests that changed forwards lead to.
func (e *Engine) targetTaps(ctx context.Context, doc spec.Document, changes []doorChange) []string {
	var taps []string
	who := e.guests(ctx, doc)
	for _, p := range e.live {
		for _, c := range changes {
			if p.Network == string(c.network.Name) && who.isTarget(c, p) {
				taps = append(taps, p.Tap)
				break
			}
		}
	}
	return taps
}

func (g *guests) isTarget(c doorChange, p host.Port) bool {
	names := g.e.namesOf(c.network, p)
	for _, f := range []*spec.Forward{c.old, c.new} {
		if f == nil {
			continue
		}
		if slices.Contains(names, f.Target) {
			return true
		}
		// Neighbours are read only for a guest that chose its address itself.
		if _, fixed := f.TargetAddr(); fixed && slices.Contains(g.addrs(c.network, p.MAC), f.Target) {
			return true
		}
	}
	return false
}
