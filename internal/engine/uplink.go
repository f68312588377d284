package engine

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// findManager asks who manages the uplinks that are to be moved, and who edited the files
// of those that are given back.
func (e *Engine) findManager(ctx context.Context, facts *render.Facts, doc spec.Document) (notes []render.Note, who []Fact, err error) {
	if e.Manager == nil {
		return nil, nil, nil
	}
	for _, n := range facts.Leaving {
		for _, r := range e.Manager.Edited(n.Bridge) {
			notes = append(notes, render.Note(r))
		}
	}
	for name := range facts.Moving {
		n := doc.Networks[name]
		if !render.MovesUplinks(n) {
			continue
		}
		m, err := e.Manager.Of(ctx, n.Uplinks[0])
		if err != nil {
			return nil, nil, fmt.Errorf("uplink %s: %w", n.Uplinks[0], err)
		}
		facts.Manager = m.Name
		who = append(who, Fact{Name: "managed by", Values: []string{m.Words}})
		for _, r := range m.Notes {
			notes = append(notes, render.Note(r))
		}
	}
	return notes, who, nil
}

// probe is what of a change cannot be seen at once: the host's own manager has
// clients that must have got their lease on the bridge.
func (e *Engine) probe(ctx context.Context, t txn.Txn) error {
	for _, s := range t.Steps {
		if p, ok := s.After.(host.Profile); ok && p.Stage == host.Runtime && e.Manager != nil {
			if err := e.Manager.Verify(ctx, p.Bridge); err != nil {
				return err
			}
		}
	}
	return nil
}

// fence keeps a plan away from what it must not touch: what an unfinished change
// is about, and what the host's own manager was told of a bridge, unless just
// that bridge comes or goes. What is beyond stays as it is, and ours if it is.
type fence struct {
	beyond  map[host.Key]bool
	turning map[string]bool
}

func (e *Engine) within(doc spec.Document, facts render.Facts) fence {
	f := fence{e.open.touched(), map[string]bool{}}
	for name := range facts.Moving {
		f.turning[doc.Networks[name].Bridge] = true
	}
	for _, n := range facts.Leaving {
		f.turning[n.Bridge] = true
	}
	return f
}

func (f fence) out(k host.Key) bool {
	if k.Kind == host.KindProfile {
		_, bridge, _ := strings.Cut(k.Name, " ")
		return !f.turning[bridge] || f.beyond[k]
	}
	return f.beyond[k]
}

// make is plan.Make inside of the fence.
func (f fence) make(wish host.Wish, had host.Ledger, seen host.State) (plan.Plan, error) {
	drop := func(k host.Key, _ host.Resource) bool { return f.out(k) }
	maps.DeleteFunc(wish.Present, drop)
	maps.DeleteFunc(wish.Given, drop)
	maps.DeleteFunc(wish.Absent, func(k host.Key, _ bool) bool { return f.out(k) })
	kept := host.Ledger{}
	for k, claim := range had {
		if f.out(k) {
			kept[k] = claim
			delete(had, k)
		}
	}
	if len(f.beyond) > 0 {
		seen = maps.Clone(seen)
		maps.DeleteFunc(seen, drop)
	}
	// What ends with the boot has to be said again in the next.
	for k, r := range reservations(kept, seen) {
		wish.Present[k], had[k] = r, kept[k]
	}
	p, err := plan.Make(wish, had, seen)
	if err == nil {
		maps.Copy(p.Ledger, kept)
	}
	return p, err
}

// reservations are the profiles by which the host's own manager keeps its hands
// off bridges that it knows for good, where that is not said in this boot yet.
func reservations(ours host.Ledger, seen host.State) map[host.Key]host.Profile {
	missing := map[host.Key]host.Profile{}
	for k := range ours {
		stage, bridge, _ := strings.Cut(k.Name, " ")
		if k.Kind != host.KindProfile || stage != host.Reserved || seen[k] != nil {
			continue
		}
		if p, ok := seen[host.ProfileKey(host.Permanent, bridge)].(host.Profile); ok && p.Manager != "" {
			p.Stage = host.Reserved
			missing[k] = p
		}
	}
	return missing
}

// Files lists the files of the host's own configuration that a change will
// change once it is confirmed.
func (e *Engine) Files(ctx context.Context, t txn.Txn) []string { return e.files(ctx, t.After) }

func (e *Engine) files(ctx context.Context, steps []plan.Step) []string {
	if e.Manager == nil {
		return nil
	}
	var files []string
	for _, s := range steps {
		if p, ok := s.After.(host.Profile); ok && p.Stage == host.Permanent {
			files = append(files, e.Manager.Files(ctx, p)...)
		}
	}
	return files
}
