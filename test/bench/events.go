package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"drawbridge/internal/api"
)

func eventsGroup() Group {
	return Group{"events", "A hundred listeners to a thousand events a second", `
Events come from 250 changes a second through the API, each of which tells four: a reservation of a stopped network is added and removed
in turn, so that the kernel has no part in it. A hundred connections of this program listen to ` + "`GET /v1/events`" + ` and count what they read. What
the listeners cost is the processor time of the daemon (user and system) with them less that without them, at the same pace of changes, in
percent of one core; the two take turns.`, runEvents}
}

const (
	listeners       = 100
	changesEach     = 4 * time.Millisecond
	eventsPerChange = 4
	// enoughEvents is from how many events a second on the figure means something.
	enoughEvents = 900
)

func runEvents(ctx context.Context, b *Bench) (err error) {
	h, err := newOurs(ctx, b, "ours-events")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if _, err := h.run(ctx, "network", "create", "lab", "--subnet", "10.9.0.0/24", "--no-start"); err != nil {
		return err
	}
	during := time.Duration(b.runs(10, 2)) * time.Second
	var alone, with, cost, rate, missed Series
	for round := range b.runs(5, 1) {
		without, err := eventLoad(ctx, h, during, 0)
		if err != nil {
			return err
		}
		heard, err := eventLoad(ctx, h, during, listeners)
		if err != nil {
			return err
		}
		alone.Counted(Percent, without.share)
		with.Counted(Percent, heard.share)
		cost.Counted(Percent, heard.share-without.share)
		rate.Counted(Rate, heard.rate)
		missed.Counted(Events, float64(heard.missed))
		b.say("round %d: %.1f %% without, %.1f %% with %d listeners, %.0f events/s", round+1, without.share, heard.share, listeners, heard.rate)
	}
	row := Row{Work: fmt.Sprintf("what %d listeners cost, of one core", listeners), Ours: cost, Target: below(5, Percent),
		Notes: []string{fmt.Sprintf("the daemon in all: %s without listeners, %s with them", alone, with)}}
	if rate.Median() < enoughEvents {
		row.Failed = fmt.Sprintf("the machine was too busy to make a thousand events a second: %s", rate)
	}
	b.add(row)
	b.add(Row{Work: "events told", Ours: rate})
	b.add(Row{Work: "events that a listener did not get", Ours: missed, Target: none(Events)})
	return nil
}

type eventRun struct {
	share  float64 // of one core, in percent
	rate   float64 // events a second
	missed int64
}

// eventLoad makes changes at a steady pace while n listen.
func eventLoad(ctx context.Context, h *Host, during time.Duration, n int) (r eventRun, err error) {
	listening, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	var heard atomic.Int64
	ready := make(chan error, n)
	for range n {
		all.Go(func() { listenTo(listening, h, &heard, ready) })
	}
	// Each has heard one event before the time begins.
	if err := greet(ctx, h, ready, n); err != nil {
		return r, err
	}
	heard.Store(0)
	pid := h.daemon.Process.Pid
	before, err := cpuTime(pid)
	if err != nil {
		return r, err
	}
	began := time.Now()
	changes := 0
	tick := time.NewTicker(changesEach)
	defer tick.Stop()
	for time.Since(began) < during {
		if err := toggle(ctx, h, changes%2 == 0); err != nil {
			return r, err
		}
		changes++
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-tick.C:
		}
	}
	took := time.Since(began)
	after, err := cpuTime(pid)
	if err != nil {
		return r, err
	}
	if changes%2 == 1 {
		err = toggle(ctx, h, false)
		changes++
	}
	want := int64(n * changes * eventsPerChange)
	for deadline := time.Now().Add(10 * time.Second); heard.Load() < want && time.Now().Before(deadline); {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return r, err
		}
	}
	return eventRun{
		share: (after - before).Seconds() / took.Seconds() * 100, rate: float64(changes*eventsPerChange) / took.Seconds(), missed: want - heard.Load(),
	}, err
}

// toggle adds a reservation, or removes it.
func toggle(ctx context.Context, h *Host, add bool) error {
	const mac = "52:54:00:00:00:09"
	if add {
		_, err := h.client.Reserve(ctx, "lab", api.Reservation{MAC: mac, IP: "10.9.0.9"}, api.Options{})
		return err
	}
	_, err := h.client.Unreserve(ctx, "lab", mac, api.Options{})
	return err
}

// listenTo counts events until ctx ends, and says on ready when the first came.
func listenTo(ctx context.Context, h *Host, heard *atomic.Int64, ready chan<- error) {
	first := true
	_, err := h.client.Watch(ctx, api.WatchOptions{Kinds: []string{"change", "reservation"}}, func(api.Event) error {
		if first {
			first = false
			ready <- nil
		}
		heard.Add(1)
		return nil
	})
	if first {
		ready <- err
	}
}

// greet makes changes until all listen, and then lets the last events arrive.
func greet(ctx context.Context, h *Host, ready <-chan error, n int) error {
	left := n
	for left > 0 {
		if err := errors.Join(toggle(ctx, h, true), toggle(ctx, h, false)); err != nil {
			return err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		for more := true; more && left > 0; {
			select {
			case err := <-ready:
				if err != nil {
					return fmt.Errorf("listen: %w", err)
				}
				left--
			default:
				more = false
			}
		}
	}
	return sleep(ctx, 500*time.Millisecond)
}
