package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// noVLANs is what takes VLANs away from a network.
const noVLANs = "none"

func setVLAN(n *spec.Network, v string) error {
	n.Tags.VLAN = 0
	if v == "" || v == noVLANs {
		return nil
	}
	id, err := spec.ParseVLAN("vlan", v)
	n.Tags.VLAN = id
	return err
}

func setTrunk(n *spec.Network, v string) error {
	n.Tags.Trunk = ""
	if v == "" || v == noVLANs {
		return nil
	}
	trunk, err := spec.ParseVLANs("vlan-trunk", v)
	n.Tags.Trunk = trunk
	return err
}

func tagsOf(p host.Port) spec.Tags { return spec.Tags{VLAN: p.VLAN, Trunk: spec.VLANs(p.Trunk)} }

// membersOf are the VLANs of a port as host.Link has them: its own, else the network's.
func membersOf(p host.Port, n spec.Network) string {
	if own := tagsOf(p); !own.IsZero() {
		return render.Members(own)
	}
	return render.Members(n.Tags)
}

// findTags adds to the facts what is to be known where VLANs are in use.
func (e *Engine) findTags(ctx context.Context, doc spec.Document, facts *render.Facts) error {
	facts.Had, facts.PortTags = e.Store.Document(), map[spec.NetworkName][]spec.Tags{}
	for _, p := range e.live {
		if own := tagsOf(p); !own.IsZero() {
			name := spec.NetworkName(p.Network)
			facts.PortTags[name] = append(facts.PortTags[name], own)
		}
	}
	tagged := func(n spec.Network) bool { return n.Started && !n.Tags.IsZero() }
	if len(facts.PortTags) == 0 && !slices.ContainsFunc(slices.Collect(maps.Values(doc.Networks)), tagged) {
		return nil
	}
	more, err := e.Host.Observe(ctx, host.FeatureKey(host.BridgeVLANs))
	if err != nil {
		return fmt.Errorf("look at the host: %w", err)
	}
	maps.Copy(facts.Seen, more)
	return nil
}

// trunk has a network's bridge and uplinks carry the VLANs of a new port, before
// there is one: nothing is done where they do already.
func (e *Engine) trunk(ctx context.Context, n spec.Network, own spec.Tags) error {
	if own.IsZero() && n.Tags.IsZero() {
		return nil
	}
	if err := own.Validate(); err != nil {
		return err
	}
	if err := render.TakesVLANs(n); err != nil {
		return err
	}
	facts, err := e.look(ctx)
	if err != nil {
		return err
	}
	if err := e.findTags(ctx, e.Store.Document(), &facts); err != nil {
		return err
	}
	feature, err := e.Host.Observe(ctx, host.FeatureKey(host.BridgeVLANs))
	if err != nil {
		return err
	}
	maps.Copy(facts.Seen, feature)
	if !own.IsZero() {
		facts.PortTags[n.Name] = append(facts.PortTags[n.Name], own)
	}
	goal, err := render.Trunk(n, facts)
	if err != nil {
		return err
	}
	seen := facts.Seen.Only(goal.Keys())
	steps := plan.Diff(goal, seen)
	if len(steps) == 0 {
		return nil
	}
	if err := e.Host.Apply(ctx, steps); err != nil {
		return err
	}
	after, err := e.Host.Observe(ctx, goal.Keys()...)
	if err != nil {
		return err
	}
	if left := plan.Diff(goal, after); len(left) > 0 {
		return fmt.Errorf("%s did not take the VLANs", left[0].Key())
	}
	return nil
}

// tagOthers puts ports that other programs plugged into a network into its VLANs,
// unless they chose some themselves. Nothing is ours but that; see disownPorts.
func (e *Engine) tagOthers(wish *host.Wish, doc spec.Document, ledger host.Ledger, seen host.State) (foreign []host.Key) {
	for _, n := range doc.Networks {
		br, _ := seen[host.LinkKey(n.Bridge)].(host.Link)
		if !n.Started || n.Tags.IsZero() || !br.Filter {
			continue
		}
		for k, r := range seen {
			l, ok := r.(host.Link)
			if _, ours := e.live[l.Name]; !ok || ours || l.Master != n.Bridge || l.VLANs != "" || render.IsUplink(n, l) {
				continue
			}
			l.VLANs = render.Members(n.Tags)
			wish.Present[k] = l
			ledger[k] = host.Claim{Kind: host.Made}
			foreign = append(foreign, k)
		}
	}
	return foreign
}
