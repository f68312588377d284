package nettest

import (
	"context"
	"slices"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/txn"
)

// Opinion is a second look at the host, by other means than the one under test:
// it reports what is wanted and not there, and what is there and should be gone.
type Opinion func(t *testing.T, present host.State, absent []host.Key)

// scene is one case of the contract: steps that must succeed, one call of Apply
// after the other, and what is there afterwards.
type scene struct {
	name  string
	calls [][]plan.Step
	// refused is a call that must fail after the others.
	refused []plan.Step
	present []host.Resource
	absent  []host.Key
}

// Contract checks what everyone relies on from a txn.Host: that what is made is
// seen exactly as it was asked for, that steps may be done twice, what the
// kernel does by itself, and what it refuses. newHost gives a host that may be
// changed at will; the contract takes away what it made. opinion may be nil.
func Contract(t *testing.T, newHost func(*testing.T) txn.Host, opinion Opinion) {
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) { s.play(t, newHost(t), opinion) })
	}
	t.Run("everything is listed", func(t *testing.T) { listsAll(t, newHost(t)) })
}

func (s scene) play(t *testing.T, h txn.Host, opinion Opinion) {
	ctx := context.Background()
	t.Cleanup(func() { s.strike(t, h) })
	for i, steps := range s.calls {
		if err := h.Apply(ctx, steps); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if s.refused != nil {
		if err := h.Apply(ctx, s.refused); err == nil {
			t.Errorf("not refused: %v", s.refused)
		}
	}
	s.check(t, h, opinion, "at first")
	if n := len(s.calls); n > 0 && s.refused == nil {
		if err := h.Apply(ctx, s.calls[n-1]); err != nil {
			t.Fatalf("the last call again: %v", err)
		}
		s.check(t, h, opinion, "done twice")
	}
}

func (s scene) check(t *testing.T, h txn.Host, opinion Opinion, when string) {
	t.Helper()
	present := host.NewState(s.present...)
	seen, err := h.Observe(context.Background(), append(present.Keys(), s.absent...)...)
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range present {
		if !host.Same(seen[k], want) {
			t.Errorf("%s: want %+v\n see %+v", when, want, seen[k])
		}
	}
	for _, k := range s.absent {
		if there, ok := seen[k]; ok {
			t.Errorf("%s: %s is there: %+v", when, k, there)
		}
	}
	if opinion != nil {
		opinion(t, present, s.absent)
	}
}

// strike takes away the links, rules, tables and zones that a scene made, and with
// them all that is in and on them.
func (s scene) strike(t *testing.T, h txn.Host) {
	made := host.State{}
	for _, steps := range append(s.calls, s.refused) {
		for _, step := range steps {
			if k := step.Key().Kind; step.After != nil && slices.Contains([]host.Kind{host.KindLink, host.KindTable, host.KindRule, host.KindInZone}, k) {
				made.Add(step.After)
			}
		}
	}
	seen, err := h.Observe(context.Background(), append(made.Keys(), host.LinkKey("lo"))...)
	if err != nil {
		t.Fatal(err)
	}
	for k, r := range seen {
		if k == host.LinkKey("lo") {
			continue
		}
		if err := h.Apply(context.Background(), []plan.Step{{Before: r}}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	}
}

func listsAll(t *testing.T, h txn.Host) {
	s := scene{present: []host.Resource{theBridge, aTap("ctap0"), address4, table, set, element}}
	s.calls = [][]plan.Step{makes(s.present...)}
	t.Cleanup(func() { s.strike(t, h) })
	if err := h.Apply(context.Background(), s.calls[0]); err != nil {
		t.Fatal(err)
	}
	seen, err := h.Observe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append(s.present, subnetRoute(address4), localRoute(address4)) {
		if !host.Same(seen[want.Key()], want) {
			t.Errorf("want %+v\n see %+v", want, seen[want.Key()])
		}
	}
	if _, ok := seen[host.LinkKey("lo")]; !ok {
		t.Error("links of others are not listed: lo is missing")
	}
}

// makes and drops write steps that create and delete.
func makes(rs ...host.Resource) []plan.Step {
	var steps []plan.Step
	for _, r := range rs {
		steps = append(steps, plan.Step{After: r})
	}
	return steps
}

func drops(rs ...host.Resource) []plan.Step {
	var steps []plan.Step
	for _, r := range rs {
		steps = append(steps, plan.Step{Before: r})
	}
	return steps
}

// changes writes the steps that lead from one version of a thing to the next.
func changes(versions ...host.Resource) []plan.Step {
	var steps []plan.Step
	for i := 1; i < len(versions); i++ {
		steps = append(steps, plan.Step{Before: versions[i-1], After: versions[i]})
	}
	return steps
}

func keysOf(rs ...host.Resource) []host.Key { return host.NewState(rs...).Keys() }
