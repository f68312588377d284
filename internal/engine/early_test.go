package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/store"
	"drawbridge/internal/txn"
)

// lateGuard stands, or says why it does not, when the test says so.
type lateGuard struct {
	idleGuard
	stands chan error
}

func (g lateGuard) Arm(context.Context, txn.Txn) error { return <-g.stands }

// watched is the fake host, and what was done to it in which order.
type watched struct {
	txn.Host
	did chan string
}

func (w watched) Apply(ctx context.Context, steps []plan.Step) error {
	err := w.Host.Apply(ctx, steps)
	for _, s := range steps {
		w.did <- s.Verb() + " " + s.Key().String()
	}
	return err
}

func (w watched) Prepare(context.Context, []plan.Step) { w.did <- "prepare" }

// TestBeforeTheGuardStands: while it is still starting, only what harms nobody is
// done, and if it does not come that is taken back.
func TestBeforeTheGuardStands(t *testing.T) {
	for name, failure := range map[string]error{"it comes": nil, "it does not": errors.New("no memory")} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			before := m.state()
			s, err := store.Open(m.dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			ports, err := store.OpenPorts(m.dir)
			if err != nil {
				t.Fatal(err)
			}
			g, w := lateGuard{stands: make(chan error)}, watched{m.fake, make(chan string, 1000)}
			e := engine.New(engine.Config{
				Host: w, Store: s, Ports: ports, Taps: &fakeTaps{m: m}, Services: noLeases{}, Log: slog.New(slog.DiscardHandler),
				Seed: "seed", BootID: m.boot, Boottime: func() int64 { return 1 }, Guard: g,
			})
			if err := e.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			answer := make(chan error, 1)
			go func() {
				_, err := e.Do(t.Context(), bridgedLAN(), engine.Options{Within: time.Minute})
				answer <- err
			}()
			var early []string
			for len(early) == 0 || early[len(early)-1] != "prepare" {
				select {
				case did := <-w.did:
					early = append(early, did)
				case err := <-answer:
					t.Fatalf("it did not wait for the guard: %v, after %v", err, early)
				case <-time.After(30 * time.Second):
					t.Fatalf("nothing is done before the guard stands but %v", early)
				}
			}
			if !slices.Contains(early, "create link br0") {
				t.Errorf("before the guard stands: %v", early)
			}
			for k, was := range before {
				if is := m.state()[k]; !host.Same(was, is) {
					t.Errorf("before the guard stands %s is %+v, was %+v", k, is, was)
				}
			}
			for k, r := range m.state() {
				if a, ok := r.(host.Address); ok && before[k] == nil {
					t.Errorf("before the guard stands there is %+v", a)
				}
			}
			g.stands <- failure
			err = <-answer
			if failure == nil {
				if l, _ := m.state()[host.LinkKey("enp6s18")].(host.Link); err != nil || l.Master != "br0" {
					t.Errorf("%v; the NIC is %+v", err, l)
				}
				return
			}
			var unguarded *txn.UnguardedError
			if !errors.As(err, &unguarded) || !strings.Contains(err.Error(), "no memory") {
				t.Errorf("without a guard: %v", err)
			}
			for k, r := range m.state() {
				if before[k] == nil {
					t.Errorf("without a guard there is %s %+v", k, r)
				}
			}
			if left := e.Changes(); len(left) != 0 {
				t.Errorf("without a guard there is a change: %+v", left)
			}
		})
	}
}
