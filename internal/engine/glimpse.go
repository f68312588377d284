package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// glimpsed is what is only looked at: who holds taps, what was counted and
// learnt, what was leased. Nothing is decided by it.
type glimpsed struct {
	users      map[string]TapUser
	counters   map[string]Counters
	learned    map[string][]string
	neighbours []Neighbour
	leases     []Lease
	heard      []Heard
	problems   []string // of guest services
	// leaseErr does not keep the rest from being seen.
	err, leaseErr error
}

// glimpse reads all of it at once and sends it when it is there.
func (e *Engine) glimpse(ctx context.Context) <-chan glimpsed {
	done := make(chan glimpsed, 1)
	go func() {
		var g glimpsed
		var all sync.WaitGroup
		var errs [4]error
		each := func(i int, what string, read func() error) {
			all.Go(func() {
				if err := read(); err != nil {
					errs[i] = fmt.Errorf("%s: %w", what, err)
				}
			})
		}
		each(0, "see who uses taps", func() (err error) { g.users, err = e.Taps.TapUsers(ctx); return err })
		each(1, "read counters", func() (err error) { g.counters, err = e.Taps.Counters(ctx); return err })
		each(2, "see who is behind taps", func() (err error) { g.learned, err = e.Taps.Learned(ctx); return err })
		each(3, "see who is on bridges", func() (err error) { g.neighbours, err = e.Taps.Neighbours(ctx); return err })
		all.Go(func() {
			g.leases, g.leaseErr = e.Services.Leases(ctx)
			g.heard, _ = e.Services.Heard(ctx) // else they are not known just now
			g.problems = e.Services.Problems()
		})
		all.Wait()
		g.err = errors.Join(errs[:]...)
		done <- g
	}()
	return done
}
