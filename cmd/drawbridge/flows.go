package main

import (
	"context"
	"net/netip"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/linux"
	"drawbridge/internal/spec"
	"drawbridge/internal/store"
)

// flows lets the engine see the kernel's table of connections in its own words.
type flows struct{ linux.Conntrack }

func (f flows) List(ctx context.Context, q engine.FlowQuery, yield func(engine.Flow) bool) error {
	return f.Conntrack.List(ctx, linux.FlowQuery(q), func(l linux.Flow) bool { return yield(engine.Flow(l)) })
}

func (f flows) Cut(ctx context.Context, list []engine.Flow) error {
	theirs := make([]linux.Flow, len(list))
	for i, l := range list {
		theirs[i] = linux.Flow(l)
	}
	return f.Conntrack.Cut(ctx, theirs)
}

func (f flows) Watch(ctx context.Context, began bool, each func(engine.FlowEvent)) error {
	kinds := map[linux.FlowEventKind]engine.FlowEventKind{
		linux.FlowBegan: engine.FlowBegan, linux.FlowEnded: engine.FlowEnded, linux.FlowsLost: engine.FlowsLost,
	}
	return f.Conntrack.Watch(ctx, began, func(e linux.FlowEvent) {
		each(engine.FlowEvent{Kind: kinds[e.Kind], Flow: engine.Flow(e.Flow)})
	})
}

// doors looks for what else answers on the host's ports.
type doors struct{ *linux.Host }

func (doors) Listeners(ctx context.Context, proto spec.Proto, first, last uint16) ([]engine.Listener, error) {
	list, err := linux.Listeners(ctx, string(proto), first, last)
	if err != nil {
		return nil, err
	}
	var out []engine.Listener
	for _, l := range list {
		out = append(out, engine.Listener{Addr: netip.AddrPortFrom(l.Addr, l.Port), V6Only: l.V6Only, Bound: l.Link != 0, PID: l.Process.PID, Process: l.Process.Comm})
	}
	return out, nil
}

// countForwards begins to count what goes through forwards. Counts that cannot
// be read are no reason not to serve guests.
func (d *running) countForwards() error {
	var err error
	if d.counts, err = store.OpenTally(d.stateDir); err != nil {
		return err
	}
	if why := d.counts.Damaged(); why != nil {
		d.log.Warn("counts of forwards begin anew", "err", why)
	}
	tally, err := engine.NewTally(flows{}, d.counts, d.engine.DoorOf, d.log, time.Now)
	if err != nil {
		d.log.Warn("counts of forwards begin anew", "err", err)
	}
	d.engine.Tally = tally
	return nil
}
