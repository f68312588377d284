package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// keeper collects entries about what is no change: guests' ports, and what other
// programs do. They are written together a moment later, so that plugging a guest
// waits for no disk and a busy neighbour costs one write a second.
type keeper struct {
	mu      sync.Mutex
	pending []txn.Entry
	// missed counts what there was no room for.
	missed  int
	problem error
	wake    chan struct{}
}

const (
	keepPause   = time.Second
	mostPending = 1000
)

func newKeeper() *keeper { return &keeper{wake: make(chan struct{}, 1)} }

// keep takes an entry; what another program repeats is one entry.
func (k *keeper) keep(e txn.Entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.Kind == txn.EntryForeign {
		for i, p := range k.pending {
			if p.Kind == e.Kind && p.Title == e.Title && p.By == e.By {
				k.pending[i].Times = max(p.Times, 1) + 1
				k.pending[i].Ended = e.Ended
				return
			}
		}
	}
	if len(k.pending) >= mostPending {
		k.missed++
		return
	}
	k.pending = append(k.pending, e)
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// flush writes what was collected; what cannot be written is tried again.
func (k *keeper) flush(write func(...txn.Entry) error, now time.Time) error {
	k.mu.Lock()
	list := k.pending
	if k.missed > 0 {
		list = append(list, txn.Entry{Kind: txn.EntryForeign, Began: now, Ended: now, Title: fmt.Sprintf("%d more things happened than could be written down", k.missed)})
	}
	k.pending, k.missed = nil, 0
	k.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	err := write(list...)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.problem = err
	if err != nil {
		k.pending = append(list, k.pending...)
		if over := len(k.pending) - mostPending; over > 0 {
			k.pending, k.missed = k.pending[:mostPending], k.missed+over
		}
	}
	return err
}

// trouble is the line for status; "" if all is written.
func (k *keeper) trouble() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.problem == nil {
		return ""
	}
	return fmt.Sprintf("what happens to ports, and what other programs do, is not written down just now: %v", k.problem)
}

// Keep writes down what happens beside changes, until ctx ends.
func (e *Engine) Keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			e.keepNow()
			return
		case <-e.keeper.wake:
		}
		select {
		case <-ctx.Done():
		case <-time.After(keepPause):
		}
		if e.keepNow() != nil && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(10 * keepPause):
			}
			select {
			case e.keeper.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (e *Engine) keepNow() error {
	before := e.keeper.trouble()
	err := e.keeper.flush(e.Store.Record, e.Now())
	if err != nil && before == "" {
		e.Log.Error("the record has gaps", "err", err)
	}
	return err
}

func (e *Engine) keepPort(p host.Port, by txn.Actor, text string) {
	now := e.Now()
	e.keeper.keep(txn.Entry{
		Kind: txn.EntryPort, Began: now, Ended: now, By: by, Title: text, Networks: []spec.NetworkName{spec.NetworkName(p.Network)}, StepCount: 1,
	})
}

func (e *Engine) keepForeign(ev Event) {
	now := e.Now()
	entry := txn.Entry{Kind: txn.EntryForeign, Began: now, Ended: now, By: txn.Actor{Kind: txn.ByOther, Name: ev.Who}, Title: ev.Text, StepCount: 1}
	if ev.Network != "" {
		entry.Networks = []spec.NetworkName{ev.Network}
	}
	e.keeper.keep(entry)
}
