package engine

import (
	"context"
	"maps"
	"slices"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// grounds are all that an examination was concluded from. While they are the same,
// so is the conclusion: to compare them takes less than a tenth of the time.
type grounds struct {
	sight *host.Sight
	// asked is what was looked at by itself, and beside how that was.
	asked    map[host.Key]bool
	beside   host.State
	resolved bool

	revision uint64
	ledger   host.Ledger
	live     map[string]host.Port
	followed map[leaseKey]Lease
	held     map[spec.NetworkName]string
	repairs  int
	quarrel  string
	unkept   string

	seen glimpsed
	// until is when some of it is over by itself.
	until time.Time
}

// believed is how long a conclusion is kept at most: what no event tells of, such as
// rules of iptables-legacy, is looked at as often by the repair.
const believed = tick

// ground gathers what is known without planning; ok is false where that is not all: a
// change is under way, or the host cannot tell what did not change.
func (e *Engine) ground(ctx context.Context, doc spec.Document) (g grounds, ok bool, err error) {
	looker, looks := e.Host.(txn.Looker)
	if !looks || len(e.open.all()) > 0 || e.lingering.some() {
		return g, false, nil
	}
	if g.sight, err = looker.Look(ctx); err != nil {
		return g, false, err
	}
	g.asked, g.beside, g.resolved = map[host.Key]bool{}, host.State{}, e.Resolved(ctx)
	g.revision, g.ledger, g.live, g.followed = doc.Revision, e.Store.Ledger(), e.live, e.leases
	g.held, g.repairs, g.quarrel, g.unkept = e.held, e.repairs, e.quarrel.problem(), e.keeper.trouble()
	return g, true, nil
}

// keep makes the grounds last: what is the engine's own is changed in its place.
func (g grounds) keep() grounds {
	g.live, g.followed, g.held = maps.Clone(g.live), maps.Clone(g.followed), maps.Clone(g.held)
	return g
}

// same says whether two grounds lead to the same conclusion, but for what was
// counted. What the older ones were about beside is looked at again.
func (g grounds) same(ctx context.Context, h txn.Host, now grounds, at time.Time) bool {
	if g.sight == nil || g.sight != now.sight || !at.Before(g.until) || g.resolved != now.resolved || g.revision != now.revision ||
		g.repairs != now.repairs || g.quarrel != now.quarrel || g.unkept != now.unkept || !g.seen.same(now.seen) ||
		!maps.Equal(g.ledger, now.ledger) || !maps.Equal(g.live, now.live) || !maps.Equal(g.followed, now.followed) || !maps.Equal(g.held, now.held) {
		return false
	}
	if len(g.asked) == 0 {
		return true
	}
	beside, err := h.Observe(ctx, slices.Collect(maps.Keys(g.asked))...)
	return err == nil && maps.Equal(beside, g.beside)
}

// same says whether the same was glimpsed, but for what was counted.
func (g glimpsed) same(o glimpsed) bool {
	uncounted := func(a, b Counters) bool {
		return a.Index == b.Index && a.NoCarrier == b.NoCarrier && a.SpeedMbit == b.SpeedMbit
	}
	return text(g.leaseErr) == text(o.leaseErr) && maps.Equal(g.users, o.users) && maps.EqualFunc(g.counters, o.counters, uncounted) &&
		maps.EqualFunc(g.learned, o.learned, slices.Equal) && slices.Equal(g.neighbours, o.neighbours) && slices.Equal(g.leases, o.leases) &&
		slices.Equal(g.heard, o.heard) && slices.Equal(g.problems, o.problems)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// planner is an engine that plans by the grounds, and notes there what it asks for
// beside. Where they are not settled, all is looked at anew, by the engine itself.
func (e *Engine) planner(ctx context.Context, g grounds, settled bool) (*Engine, render.Facts, error) {
	if !settled {
		facts, err := e.look(ctx)
		return e, facts, err
	}
	p := e.still()
	p.Host = &asking{Host: e.Host, keys: g.asked, seen: g.beside}
	facts, err := p.lookBeside(ctx, maps.Clone(g.sight.State))
	return p, facts, err
}

// still is what planning needs of an engine.
func (e *Engine) still() *Engine {
	return &Engine{Config: e.Config, live: e.live, leases: e.leases, held: e.held, lingering: e.lingering}
}

// asking is a host that notes which things it is asked for, and how they are.
type asking struct {
	txn.Host
	keys map[host.Key]bool
	seen host.State
}

// Observe implements txn.Host.
func (a *asking) Observe(ctx context.Context, keys ...host.Key) (host.State, error) {
	seen, err := a.Host.Observe(ctx, keys...)
	for _, k := range keys {
		a.keys[k] = true
	}
	maps.Copy(a.seen, seen)
	return seen, err
}

// kept is the last examination.
type kept struct {
	grounds
	found Examination
}

// with fills in what was counted since.
func (k kept) with(counters map[string]Counters) Examination {
	x := k.found
	x.Links, x.Ports = counters, slices.Clone(x.Ports)
	for i := range x.Ports {
		countPort(&x.Ports[i], x.State, counters)
	}
	return x
}

// some says whether there are any.
func (l *lingering) some() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.since) > 0
}
