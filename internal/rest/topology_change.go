package rest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/topology"
	"drawbridge/internal/txn"
)

// picture draws what a planned change would bring and take away.
func (s *Server) picture(ctx context.Context, res engine.Result, d Drawn) (*api.Topology, error) {
	v, forwards, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	after := v
	after.State, after.Document, after.Networks = afterSteps(v.State, res.Steps), res.Document, nil
	out := d.draw(topology.Compare(
		topology.Build(inputOf(v, forwards)),
		topology.Build(inputOf(after, forwardsAfter(res.Document, forwards, v.Ports)))))
	return &out, nil
}

// unfinishedGraph is what a change that is under way has brought and taken away,
// or will have.
func unfinishedGraph(v engine.View, forwards []engine.ForwardView, t txn.Txn) topology.Graph {
	// What is as wanted before is a problem after, and the other way round.
	v.Networks = nil
	before, after := v, v
	before.State, after.State = put(v.State, t.Scope, t.Snapshot), put(v.State, t.Scope, t.Goal)
	after.Document = t.Doc
	return topology.Compare(
		topology.Build(inputOf(before, forwards)),
		topology.Build(inputOf(after, forwardsAfter(t.Doc, forwards, v.Ports))))
}

// put is a state in which the things of the scope are as given.
func put(seen host.State, scope []host.Key, as host.State) host.State {
	out := maps.Clone(seen)
	for _, k := range scope {
		if r, there := as[k]; there {
			out[k] = r
		} else {
			delete(out, k)
		}
	}
	return unplugged(out)
}

// afterSteps is what a state becomes by steps.
func afterSteps(seen host.State, steps []plan.Step) host.State {
	out := maps.Clone(seen)
	for _, s := range steps {
		if s.After == nil {
			delete(out, s.Key())
		} else {
			out[s.Key()] = s.After
		}
	}
	return unplugged(out)
}

// unplugged takes ports off bridges that are gone, as the kernel does.
func unplugged(s host.State) host.State {
	for k, r := range s {
		if l, ok := r.(host.Link); ok && l.Master != "" && s[host.LinkKey(l.Master)] == nil {
			l.Master = ""
			s[k] = l
		}
	}
	return s
}

// forwardsAfter are the doors of a document: those that are there already as they
// are, others as far as it can be told where they will lead.
func forwardsAfter(doc spec.Document, had []engine.ForwardView, ports []engine.Port) []engine.ForwardView {
	known := map[string]engine.ForwardView{}
	for _, f := range had {
		known[f.Key()] = f
	}
	var out []engine.ForwardView
	for _, name := range doc.Names() {
		n := doc.Networks[name]
		for f := range n.Forwards.All() {
			v, there := known[f.Key()]
			if !there || v.Target != f.Target || v.Network != name || !n.Started {
				v = engine.ForwardView{Network: name, Forward: f}
				v.Address, v.Waiting = leadsTo(n, f, ports)
			}
			v.Forward = f
			out = append(out, v)
		}
	}
	return out
}

func leadsTo(n spec.Network, f spec.Forward, ports []engine.Port) (netip.Addr, string) {
	if !n.Started {
		return netip.Addr{}, fmt.Sprintf("network %s is not running", n.Name)
	}
	if a, ok := f.TargetAddr(); ok {
		return a, ""
	}
	mac, _ := f.TargetMAC()
	for _, p := range ports {
		if p.Network != n.Name || p.Guest != f.Target && (mac == "" || p.MAC != mac) {
			continue
		}
		for _, text := range p.Addresses {
			if a, err := netip.ParseAddr(text); err == nil && a.Is4() == f.Listen.Is4() {
				return a, ""
			}
		}
	}
	return netip.Addr{}, fmt.Sprintf("no guest %s has an address on network %s yet", f.Target, n.Name)
}
