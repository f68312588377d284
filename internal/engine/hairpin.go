package engine

import (
	"context"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// hairpins finds the ports that must take back what their own guest sent: the
// guest calls itself by a forward while br_netfilter is on, so that the frame is
// translated on the bridge and has to leave by the port that it came in by. Only
// then: such a port also gives a guest its own broadcasts back, which breaks
// duplicate address detection in old guests.
func (e *Engine) hairpins(ctx context.Context, doc spec.Document, seen host.State) map[string]bool {
	filter, _ := seen[host.SysctlKey(bridgeFilter)].(host.Sysctl)
	if filter.Value != "1" {
		return nil
	}
	ports := map[string]bool{}
	for _, n := range doc.Networks {
		if n.Forwards.Len() == 0 || !n.Started {
			continue
		}
		// By names: there may be many more forwards than guests.
		taps := map[string][]string{}
		for _, p := range e.portsOn(ctx, n, seen) {
			for _, name := range e.namesOf(n, p) {
				taps[name] = append(taps[name], p.Tap)
			}
		}
		if len(taps) == 0 {
			continue
		}
		for f := range n.Forwards.All() {
			for _, tap := range taps[f.Target] {
				ports[tap] = true
			}
		}
	}
	return ports
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
	for tap, macs := range learned {
		l, _ := seen[host.LinkKey(tap)].(host.Link)
		if _, ours := e.live[tap]; ours || l.Master != n.Bridge {
			continue
		}
		for _, mac := range macs {
			ports = append(ports, host.Port{Tap: tap, MAC: mac, Network: string(n.Name)})
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
	taps := e.targetTaps(changes)
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
func (e *Engine) targetTaps(changes []doorChange) []string {
	var taps []string
	for _, p := range e.live {
		for _, c := range changes {
			if p.Network == string(c.network.Name) && e.isTarget(c, p) {
				taps = append(taps, p.Tap)
				break
			}
		}
	}
	return taps
}

func (e *Engine) isTarget(c doorChange, p host.Port) bool {
	for _, name := range e.namesOf(c.network, p) {
		if c.old != nil && c.old.Target == name || c.new != nil && c.new.Target == name {
			return true
		}
	}
	return false
}
