package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// TallyStore keeps counts over restarts: small entries, whatever they mean.
type TallyStore interface {
	LoadTally() (map[string][]byte, error)
	// SaveTally writes entries, and deletes those without a value: all of them or
	// none, and on disk when it returns.
	SaveTally(entries map[string][]byte) error
}

const (
	// tallyPause is between two listings of the live connections, each followed
	// by saving what changed.
	tallyPause = 10 * time.Second
	// tallyShare bounds what listings cost: a share of one in so many.
	tallyShare = 50
	// tallyFresh is how old a listing may be to answer a question.
	tallyFresh = time.Second
	// tallyRetry is how long to wait before following connections again.
	tallyRetry = time.Second
	// tallyFarewell bounds the last listing and saving.
	tallyFarewell = 3 * time.Second
)

// Tally counts what goes through each forward, over changes of the rules and
// restarts of the daemon. Counts come from the kernel's own: of a connection that
// ended when that is told, of a live one when they are asked for. What is not
// known: connections that began and ended while the daemon was away, or while
// their news was lost under load, and what others sent after the last saving
// before they ended so. Without net/netfilter/nf_conntrack_acct there are
// connections only.
type Tally struct {
	flows Flows
	store TallyStore
	log   *slog.Logger
	now   func() time.Time
	// again asks for a listing: news was lost.
	again chan struct{}

	// lists is held while flows are listed, saves while counts are saved.
	lists, saves sync.Mutex

	mu     sync.Mutex // over all below
	count  *count
	listed time.Time
	cost   time.Duration
}

// NewTally begins with what is saved. lookup finds the key of the forward that a
// flow came through; it is called for every flow, from several goroutines, and
// must not wait for a lock that is held while Tally is asked. What cannot be read
// is an error beside a tally that begins with nothing.
func NewTally(flows Flows, store TallyStore, lookup func(Flow) (string, bool), log *slog.Logger, now func() time.Time) (*Tally, error) {
	t := &Tally{flows: flows, store: store, log: log, now: now, again: make(chan struct{}, 1), count: newCount(lookup)}
	saved, err := store.LoadTally()
	if err == nil {
		err = t.count.restore(saved)
	}
	if err != nil {
		t.count = newCount(lookup)
		return t, fmt.Errorf("load counts of forwards: %w", err)
	}
	return t, nil
}

// Run follows connections and saves, until ctx ends; then it saves once more.
func (t *Tally) Run(ctx context.Context) {
	var following sync.WaitGroup
	following.Go(func() { t.follow(ctx) })
	for wait := tallyPause; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			continue
		case <-t.again:
			// The first one of a subscription too: what was before is listed.
		case <-time.After(wait):
		}
		if err := t.Round(ctx); err != nil && ctx.Err() == nil {
			t.log.Warn("counts of forwards are behind", "err", err)
		}
		t.mu.Lock()
		wait = max(tallyPause, tallyShare*t.cost)
		t.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(tallyFresh): // news may be lost again and again
		}
	}
	following.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), tallyFarewell)
	defer cancel()
	if err := t.Round(last); err != nil {
		t.log.Warn("counts of forwards were not saved", "err", err)
	}
}

func (t *Tally) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if err := t.flows.Watch(ctx, false, t.hear); err != nil && ctx.Err() == nil {
			t.log.Warn("connections are not counted for a moment", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(tallyRetry):
			}
		}
	}
}

func (t *Tally) hear(e FlowEvent) {
	switch e.Kind {
	case FlowEnded:
		t.mu.Lock()
		t.count.end(e.Flow)
		t.mu.Unlock()
	case FlowsLost:
		select {
		case t.again <- struct{}{}:
		default:
		}
	}
}

// Round lists the live connections and saves what changed.
func (t *Tally) Round(ctx context.Context) error {
	return errors.Join(t.list(ctx, 0), t.save())
}

// list looks at all translated flows, unless that was done a moment ago.
func (t *Tally) list(ctx context.Context, fresh time.Duration) error {
	t.lists.Lock()
	defer t.lists.Unlock()
	t.mu.Lock()
	begin := t.now()
	if fresh > 0 && !t.listed.IsZero() && begin.Sub(t.listed) < fresh {
		t.mu.Unlock()
		return nil
	}
	l := t.count.beginListing()
	lookup := t.count.lookup
	t.mu.Unlock()
	err := t.flows.List(ctx, FlowQuery{DNAT: true}, func(f Flow) bool {
		if forward, ok := lookup(f); ok {
			l.add(f, forward)
		}
		return true
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.count.endListing(nil, begin)
		return fmt.Errorf("count connections: %w", err)
	}
	t.listed = t.now()
	t.cost = t.listed.Sub(begin)
	t.count.endListing(l, t.listed)
	return nil
}

// save writes what changed. What changes while it is written is written by the
// next call.
func (t *Tally) save() error {
	t.saves.Lock()
	defer t.saves.Unlock()
	t.mu.Lock()
	entries, err := t.count.unsaved()
	changed := t.count.changed
	t.count.changed = map[string]bool{}
	t.mu.Unlock()
	if err == nil && len(entries) > 0 {
		err = t.store.SaveTally(entries)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		for forward := range changed {
			t.count.changed[forward] = true
		}
		return fmt.Errorf("save counts of forwards: %w", err)
	}
	t.count.wasSaved(entries)
	return nil
}

// Totals are the counts of forwards, live connections included as they were at
// most a second ago. A forward that nothing came through has zero counts.
func (t *Tally) Totals(ctx context.Context, forwards ...string) (map[string]Counts, error) {
	err := t.list(ctx, tallyFresh)
	t.mu.Lock()
	defer t.mu.Unlock()
	totals := make(map[string]Counts, len(forwards))
	for _, f := range forwards {
		totals[f] = t.count.total(f)
	}
	return totals, err
}

// Forget drops the counts of a forward that was removed, once its connections
// are cut and lookup does not find it any more.
func (t *Tally) Forget(forward string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count.forget(forward)
}

// Retain drops the counts of all forwards that keep does not want: those that
// went while the daemon was away.
func (t *Tally) Retain(keep func(forward string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.count.known() {
		if !keep(f) {
			t.count.forget(f)
		}
	}
}
