package main

import (
	"context"
	"net/netip"

	"drawbridge/internal/engine"
	"drawbridge/internal/linux"
	"drawbridge/internal/spec"
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
type doors struct{}

// scanned is up to how many ports of a range are looked at one by one.
const scanned = 64

func (doors) Listeners(_ context.Context, proto spec.Proto, first, last uint16) ([]engine.Listener, error) {
	var out []engine.Listener
	for i := range min(int(last-first)+1, scanned) {
		list, err := linux.ListenersOn(first + uint16(i))
		if err != nil {
			return nil, err
		}
		for _, l := range list {
			if l.Proto == string(proto) {
				out = append(out, engine.Listener{Addr: netip.AddrPortFrom(l.Addr, l.Port), PID: l.Process.PID, Process: l.Process.Comm})
			}
		}
	}
	return out, nil
}
