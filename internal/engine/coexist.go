package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// Firewalls knows the rules of other programs on the host.
type Firewalls interface {
	// Exceptions lists what guests of the running networks of a document need in
	// other programs' firewalls just now, whether it is there or not: rules of ours in
	// their chains, bridges in their zones. seen has the links, addresses and routes.
	// late are those that are there and do not help, as somebody put a rule before
	// them since.
	Exceptions(ctx context.Context, doc spec.Document, seen host.State) (needed []host.Resource, late []host.Key, err error)
}

// wishAccepts asks for what lets guests pass other programs' firewalls. With
// Observe nothing is asked for but what a person had put there (Mend), for as long
// as it is needed. If the rules cannot be read, what is there stays: the guests of
// no network shall lose it by that.
func (e *Engine) wishAccepts(ctx context.Context, wish *host.Wish, doc spec.Document, facts render.Facts, ledger host.Ledger) []render.Note {
	if e.Firewalls == nil || len(wish.Present) == 0 {
		return nil
	}
	list, late, err := e.Firewalls.Exceptions(ctx, doc, facts.Seen)
	if err != nil {
		for k, r := range facts.Seen {
			if _, mine := ledger[k]; mine && host.IsException(k.Kind) {
				wish.Present.Add(r)
			}
		}
		return []render.Note{render.Note("other programs' firewall rules could not be read, and may stop guests: " + err.Error())}
	}
	e.lingering.keep(wish, list, late, doc, facts.Seen, ledger, e.Now())
	var notes []render.Note
	for _, a := range list {
		_, mine := ledger[a.Key()]
		switch {
		case !e.Observe || mine:
			wish.Present.Add(a)
		case len(notes) == 0:
			notes = append(notes, "another program's firewall stops guests, and this daemon only observes: see drawbridge doctor")
		}
	}
	return notes
}

// lingerTime is how long a rule in a chain of others stays that nothing needs
// any more. Docker and others take their own chains apart and put them together
// again when they start or reload, for three seconds and more; a rule that went and
// came with each of these steps would be missing in between, and look like a quarrel.
const lingerTime = 10 * time.Second

// lingering are such rules of running networks, since when.
type lingering struct {
	mu    sync.Mutex
	since map[host.Key]time.Time
}

// keep asks for those that are there, are not needed, and have not lingered
// long enough. One that is needed again and comes too late, behind the rule of a
// firewall that came meanwhile, is taken for missing, to be made before that. (A rule
// that somebody puts before one that is needed all the time is left to him.)
func (l *lingering) keep(wish *host.Wish, needed []host.Resource, late []host.Key, doc spec.Document, seen host.State, ledger host.Ledger, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	need, running := map[host.Key]bool{}, map[string]bool{}
	for _, a := range needed {
		need[a.Key()] = true
	}
	for _, n := range doc.Networks {
		running[n.Bridge] = running[n.Bridge] || n.Started
	}
	maps.DeleteFunc(l.since, func(k host.Key, _ time.Time) bool {
		return !slices.Contains(late, k) && (need[k] || seen[k] == nil)
	})
	for _, k := range late {
		if _, lingered := l.since[k]; lingered {
			delete(seen, k)
		}
	}
	for k := range ledger {
		a, there := seen[k]
		if !host.IsException(k.Kind) || !there || need[k] || !running[host.Excepted(a)] {
			continue
		}
		if _, known := l.since[k]; !known {
			l.since[k] = now
		}
		if now.Sub(l.since[k]) < lingerTime {
			wish.Present.Add(a)
		}
	}
}

// next is how long until the first of them has lingered long enough; 0 if none
// waits for that.
func (l *lingering) next(now time.Time) (left time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, since := range l.since {
		if d := lingerTime - now.Sub(since); d > 0 && (left == 0 || d < left) {
			left = d
		}
	}
	return left
}

// Mend turns single things of the host that no document speaks of: a parameter,
// a link's setting, a rule in a chain of others. It holds or is taken back as any
// change does. Things of the host's own stay the host's; rules in chains of others
// are ours from then on, and go with their network.
func (e *Engine) Mend(ctx context.Context, title string, turns []plan.Step, o Options) (Result, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.turn(ctx, title, turns, o)
}

// turn does so for who holds the lock.
func (e *Engine) turn(ctx context.Context, title string, turns []plan.Step, o Options) (Result, error) {
	if busy := e.open.all(); len(busy) > 0 && !o.DryRun {
		return Result{}, &PendingError{Title: title, ID: busy[0].ID, Phase: busy[0].Phase}
	}
	goal, keys := host.State{}, make([]host.Key, 0, len(turns))
	for _, t := range turns {
		keys = append(keys, t.Key())
		if t.After != nil {
			goal.Add(t.After)
		}
	}
	seen, err := e.Host.Observe(ctx, keys...)
	if err != nil {
		return Result{}, fmt.Errorf("%s: look at the host: %w", title, err)
	}
	d := draft{doc: e.Store.Document(), plan: plan.Plan{Steps: plan.Diff(goal, seen), Risk: plan.RiskNone, Ledger: e.Store.Ledger().Clone()}, seen: seen, mends: true}
	for _, k := range keys {
		if _, there := seen[k]; host.IsException(k.Kind) && !there && goal[k] != nil {
			d.plan.Ledger[k] = host.Claim{Kind: host.Made}
		} else if host.IsException(k.Kind) && goal[k] == nil {
			delete(d.plan.Ledger, k)
		}
	}
	res := Result{Title: title, Steps: d.plan.Steps, Risk: d.plan.Risk, DryRun: o.DryRun, Document: d.doc}
	if o.DryRun || len(d.plan.Steps) == 0 {
		return res, nil
	}
	done, err := e.carryOut(ctx, title, d, &o)
	res.ID, res.Phase, res.Deadline = done.ID, done.Phase, done.Deadline
	return res, err
}

// Reload has the host looked at, and puts back what differs from what is wanted.
func (e *Engine) Reload(ctx context.Context, o Options) (Result, error) {
	const title = "put back what is missing"
	e.mu.Lock()
	defer e.mu.Unlock()
	if o.DryRun {
		doc := e.Store.Document()
		facts, err := e.look(ctx)
		if err != nil {
			return Result{}, fmt.Errorf("%s: %w", title, err)
		}
		d, err := e.planFor(ctx, e.without(doc, e.held), facts)
		return Result{Title: title, Steps: d.plan.Steps, Risk: d.plan.Risk, DryRun: true, Document: doc}, err
	}
	if busy := e.open.all(); len(busy) > 0 {
		return Result{}, &PendingError{Title: title, ID: busy[0].ID, Phase: busy[0].Phase}
	}
	steps, err := e.reconcile(ctx, title, e.Store.Document(), "")
	res := Result{Title: title, Steps: steps, Document: e.Store.Document()}
	if len(steps) > 0 {
		res.ID = newID()
	}
	return res, err
}

// Examination is what doctor needs to know of the engine beyond the View.
type Examination struct {
	View
	// Missing are the steps to what is wanted.
	Missing []plan.Step
	// Held are networks that cannot run, and why.
	Held map[spec.NetworkName]string
	// Live are the ports that drawbridge made.
	Live []host.Port
	// Learned are the hardware addresses seen behind each port.
	Learned    map[string][]string
	Neighbours []Neighbour
	// Quarrel says who keeps undoing what; "" in peace.
	Quarrel string
	// Silent says why the guest services do not answer; nil if they do.
	Silent error
	// Observe: other programs' rules are left alone.
	Observe bool
}
