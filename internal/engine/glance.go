package engine

import (
	"context"
	"maps"
	"time"

	"drawbridge/internal/host"
)

// ownEcho is how long after a change of ours a look waits: the events that ask
// for it are mostly of our own doing, which was verified by itself, and the next
// command shall not have to wait for the look.
const ownEcho = 30 * time.Millisecond

// echo is how long a look has to wait because of a change of ours.
func (e *Engine) echo() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Until(e.quarrel.changed.Add(ownEcho))
}

// glance says whether all is as it should be, without keeping commands waiting
// as repair does: a look at a thousand ports takes 40 ms. What changes while it
// looks can make it say no, and then repair looks again; what changes later has
// an event of its own.
func (e *Engine) glance(ctx context.Context) bool {
	e.mu.Lock()
	busy := len(e.open.all()) > 0 || len(e.held) > 0 || e.orphans || e.quarrel.resting()
	still := e.still()
	still.live, still.leases = maps.Clone(e.live), maps.Clone(e.leases) // as they are now
	e.mu.Unlock()
	if busy {
		return false
	}
	want := e.Store.Document()
	if anyOver(want, e.Now().Unix()) {
		return false
	}
	facts, err := still.look(ctx)
	if err != nil {
		return false
	}
	if free, err := still.released(ctx); err != nil || len(free) > 0 {
		return false
	}
	for tap := range still.live {
		if _, there := facts.Seen[host.LinkKey(tap)]; !there {
			return false
		}
	}
	d, err := still.planFor(ctx, want, facts)
	if err != nil || len(d.plan.Steps) > 0 || !maps.Equal(d.plan.Ledger, e.Store.Ledger()) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.known = d.known
	e.quarrel.calm()
	return true
}
