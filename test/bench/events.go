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
Events come from 250 changes a second through the API, each of which tells four: four clients each add and remove a reservation of a stopped
network in turn, so that the kernel has no part in it. A hundred connections of this program listen to ` + "`GET /v1/events`" + ` and count what they read.
What the listeners cost is the processor time of the daemon (user and system) for each event with them less that without them, at a thousand events a
second, in percent of one core; the two take turns. On a busy machine fewer events come, which makes each dearer, as more of them are written by
themselves: the figure is then too high rather than too low.`, runEvents}
}

const (
	listeners       = 100
	makers          = 4
	changesEach     = 4 * time.Millisecond
	eventsPerChange = 4
	// wantedEvents a second is what the target is about; enoughEvents from how many on the
	// figure means something.
	wantedEvents, enoughEvents = 1000, 300
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
	during := time.Duration(b.runs(7, 2)) * time.Second
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
		alone.Counted(Percent, without.share())
		with.Counted(Percent, heard.share())
		cost.Counted(Percent, heard.share()-without.share())
		rate.Counted(Rate, heard.rate)
		missed.Counted(Events, float64(heard.missed))
		b.say("round %d: %.1f %% without, %.1f %% with %d listeners, %.0f events/s", round+1, without.share(), heard.share(), listeners, heard.rate)
	}
	row := Row{Work: fmt.Sprintf("what %d listeners cost, of one core", listeners), Ours: cost, Target: below(5, Percent),
		Notes: []string{fmt.Sprintf("the daemon in all, at a thousand events a second: %s without listeners, %s with them; events came at %s", alone, with, rate)}}
	if rate.Median() < enoughEvents {
		row.Failed = fmt.Sprintf("the machine was too busy to make events: %s", rate)
	}
	b.add(row)
	b.add(Row{Work: "events told", Ours: rate})
	b.add(Row{Work: "events that a listener did not get", Ours: missed, Target: none(Events)})
	return nil
}

type eventRun struct {
	each   time.Duration // processor time of the daemon for each event
	rate   float64       // events a second
	missed int64
}

// share is what a thousand events a second take of one core, in percent.
func (r eventRun) share() float64 { return r.each.Seconds() * wantedEvents * 100 }

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
	changes, err := makeChanges(ctx, h, during)
	took := time.Since(began)
	if err != nil {
		return r, err
	}
	after, err := cpuTime(pid)
	if err != nil {
		return r, err
	}
	want := int64(n * changes * eventsPerChange)
	for deadline := time.Now().Add(10 * time.Second); heard.Load() < want && time.Now().Before(deadline); {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return r, err
		}
	}
	return eventRun{
		each: (after - before) / time.Duration(changes*eventsPerChange), rate: float64(changes*eventsPerChange) / took.Seconds(), missed: want - heard.Load(),
	}, nil
}

// makeChanges makes changes at a steady pace, if the machine keeps up, and says how many:
// several clients do, so that the time until each is answered is not lost.
func makeChanges(ctx context.Context, h *Host, during time.Duration) (int, error) {
	var all sync.WaitGroup
	var made atomic.Int64
	errs := make([]error, makers)
	end := time.Now().Add(during)
	for i := range makers {
		all.Go(func() {
			tick := time.NewTicker(changesEach * makers)
			defer tick.Stop()
			for add := true; errs[i] == nil && (!add || time.Now().Before(end)); add = !add { // ends with it removed
				errs[i] = toggle(ctx, h, i, add)
				made.Add(1)
				select {
				case <-ctx.Done():
					errs[i] = errors.Join(errs[i], ctx.Err())
				case <-tick.C:
				}
			}
		})
	}
	all.Wait()
	return int(made.Load()), errors.Join(errs...)
}

// toggle adds the reservation of a client, or removes it.
func toggle(ctx context.Context, h *Host, client int, add bool) error {
	mac := fmt.Sprintf("52:54:00:00:00:%02x", client+9)
	if add {
		_, err := h.client.Reserve(ctx, "lab", api.Reservation{MAC: mac, IP: fmt.Sprintf("10.9.0.%d", client+9)}, api.Options{})
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
		if err := errors.Join(toggle(ctx, h, 0, true), toggle(ctx, h, 0, false)); err != nil {
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
