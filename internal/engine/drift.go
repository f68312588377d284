package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/txn"
)

// Hint says that something on the host changed. It is no news, only a reason
// to look again; so a lost one costs nothing.
type Hint struct {
	// Kind is what it was about, if it is known that somebody changed something:
	// link, address, route, rules. Object is the link, if there is one.
	Kind, Object string
	// Who did it, if the kernel tells: a process name and id.
	Who string
}

// The debounce: events come in bursts, and a look at a large host takes tens of
// milliseconds.
const (
	settleTime = 5 * time.Millisecond
	// restFactor bounds the share of time spent looking, while events keep
	// coming, to a fifth.
	restFactor = 4
	// inAdvance is how much looking is done at once before it rests: a firewall that
	// reloads shuts guests out once before and once after it has its rules, and a rest
	// after the first look would leave them shut out after the second.
	inAdvance = 250 * time.Millisecond
	// briefRest goes before that: where a look takes seconds (a slow machine, or
	// a change that it waits for), what is missing shall not be so for minutes.
	briefRest = 250 * time.Millisecond
	// tick is how often the host is looked at without a hint: for what gives
	// none, such as a parameter changed under /proc/sys.
	tick = 5 * time.Second
)

// Follow repairs drift until ctx ends or hints is closed: whatever disappears
// or is changed behind our back is put back. Meanwhile changes confirm themselves
// that were asked to.
func (e *Engine) Follow(ctx context.Context, hints <-chan Hint) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go e.followReach(ctx)
	timer := time.NewTimer(tick)
	defer timer.Stop()
	var who string
	var rested time.Time
	looks := looking{credit: inAdvance, at: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return
		case h, ok := <-hints:
			if !ok {
				return
			}
			burst, more := drain(ctx, hints, h, max(settleTime, time.Until(rested), e.echo()))
			if !more {
				return
			}
			for _, h := range burst {
				who = cmp.Or(h.Who, who)
			}
			e.tellForeign(burst)
		case <-timer.C:
		}
		began := time.Now()
		if !e.glance(ctx) {
			e.repair(ctx, who)
		}
		rested, who = time.Now().Add(looks.rest(began, time.Now())), ""
		timer.Reset(e.nextEnd(min(tick, e.nextTry())))
	}
}

// looking is the time that may be spent on looks at once: it grows while there is
// none, up to inAdvance.
type looking struct {
	credit time.Duration
	at     time.Time
}

// rest is how long to rest after a look from began to now.
func (l *looking) rest(began, now time.Time) time.Duration {
	l.credit = min(l.credit+began.Sub(l.at)/restFactor, inAdvance) - now.Sub(began)
	l.at = now
	// What goes beyond one rest is forgiven.
	l.credit = max(l.credit, -briefRest/restFactor)
	return restFactor * max(-l.credit, 0)
}

// mostHints bounds what is kept of a burst of hints.
const mostHints = 1024

// drain waits for a burst of hints to end, at most a while.
func drain(ctx context.Context, hints <-chan Hint, first Hint, wait time.Duration) (burst []Hint, more bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	burst = []Hint{first}
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case h, ok := <-hints:
			if !ok {
				return nil, false
			}
			if len(burst) < mostHints {
				burst = append(burst, h)
			}
		case <-timer.C:
			return burst, true
		}
	}
}

// repair looks once and puts back what differs.
func (e *Engine) repair(ctx context.Context, who string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attend(ctx)
	e.endForwards(ctx)
	e.forgetOrphans(ctx)
	if e.quarrel.resting() {
		return
	}
	ctx = txn.By(ctx, txn.Actor{Kind: txn.ByRepair, Name: who})
	steps, err := e.reconcile(ctx, "repair", e.Store.Document(), who)
	if raced(err) {
		steps, err = e.reconcile(ctx, "repair", e.Store.Document(), who)
	}
	if err != nil {
		if ctx.Err() == nil {
			e.Log.Error("repair", "err", err)
			e.tell(Event{Kind: DriftEvent, Action: "failed", Who: who, Text: "could not be put back: " + err.Error()})
			e.quarrel.note(keysOf(steps), who)
		}
		return
	}
	if len(steps) == 0 {
		e.quarrel.calm()
		return
	}
	e.repairs++
	e.quarrel.note(keysOf(steps), who)
	by := who
	if by == "" {
		by = "somebody"
	}
	e.Log.Info("put back", "steps", len(steps), "first", steps[0].Key().String(), "who", by)
	e.tellSteps(RepairEvent, "repaired", steps, by, "put back: %s")
}

// raced says that others may have taken away meanwhile what was to be mended, as a
// firewall does with its own table while it reloads.
func raced(err error) bool {
	var differs *txn.NotVerifiedError
	return errors.Is(err, fs.ErrNotExist) || errors.As(err, &differs)
}

func keysOf(steps []plan.Step) []host.Key {
	var keys []host.Key
	for _, s := range steps {
		keys = append(keys, s.Key())
	}
	return keys
}

// quarrel notices when another program keeps undoing what we put back, and
// makes us back off instead of fighting at full speed.
type quarrel struct {
	now   func() time.Time
	seen  map[host.Key][]time.Time
	rest  time.Duration
	until time.Time
	about string
	with  string
	// own: it is a guest service, which lives in a process of ours. If that hangs or
	// keeps ending it is backed off from too, and no other program is to blame.
	own bool
	// changed is when we last changed the host.
	changed time.Time
}

// One repair of a thing in a while is repair; quarrelCount within
// quarrelWindow is a fight.
const (
	quarrelWindow = 30 * time.Second
	quarrelCount  = 10
	shortestRest  = 2 * time.Second
	longestRest   = 2 * time.Minute
)

// note records that keys had to be put back, undone by who.
func (q *quarrel) note(keys []host.Key, who string) {
	now := q.now()
	for _, k := range keys {
		recent := slices.DeleteFunc(q.seen[k], func(t time.Time) bool { return now.Sub(t) > quarrelWindow })
		q.seen[k] = append(recent, now)
		if len(q.seen[k]) < quarrelCount {
			continue
		}
		q.rest = min(max(2*q.rest, shortestRest), longestRest)
		q.until, q.about, q.own = now.Add(q.rest), k.String(), slices.Contains(serviceKinds, k.Kind)
		if who != "" {
			q.with = who
		}
		q.seen = map[host.Key][]time.Time{k: q.seen[k][len(q.seen[k])-quarrelCount+1:]}
		return
	}
}

// calm is told that all was well; after a window of peace the rest is forgotten.
func (q *quarrel) calm() {
	if !q.until.IsZero() && q.now().Sub(q.until) > quarrelWindow {
		*q = quarrel{now: q.now, seen: map[host.Key][]time.Time{}, changed: q.changed}
	}
}

func (q *quarrel) resting() bool { return q.now().Before(q.until) }

// serviceKinds are what the process of the guest services holds.
var serviceKinds = []host.Kind{host.KindPool, host.KindReservation, host.KindRouter, host.KindZone, host.KindGuest, host.KindSnoop}

// problem is the line for status, "" in peace.
func (q *quarrel) problem() string {
	if q.until.IsZero() || q.own {
		return ""
	}
	who := "another program"
	if q.with != "" {
		who = q.with
	}
	return strings.TrimSpace(fmt.Sprintf("%s keeps undoing %s; it is put back every %s only: stop %s from managing it", who, q.about, q.rest, who))
}

// nextTry is how long until the next look is due.
func (e *Engine) nextTry() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := tick
	if left := e.quarrel.until.Sub(e.Now()); left > 0 {
		next = left
	}
	if left := e.lingering.next(e.Now()); left > 0 {
		next = min(next, left)
	}
	for _, t := range e.open.all() {
		if t.Phase == txn.Waiting {
			next = min(next, max(time.Duration(t.Deadline-e.Boottime()), 0))
		}
	}
	return max(next, settleTime)
}
