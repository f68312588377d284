package rest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
)

// fakeDoctor knows facts, and remembers what it was told to mend.
type fakeDoctor struct {
	mu    sync.Mutex
	facts diagnose.Facts
	fixed []string
}

func (d *fakeDoctor) Facts(context.Context) (*diagnose.Facts, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.facts
	f.Document = f.Document.Clone()
	return &f, nil
}

func (d *fakeDoctor) Ground(context.Context, int) (diagnose.Ground, error) {
	return diagnose.Ground{}, nil
}

func (d *fakeDoctor) Fix(_ context.Context, title string, fix diagnose.Fix, o engine.Options) (engine.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !o.DryRun {
		d.fixed = append(d.fixed, title)
		n := d.facts.Document.Networks[fix.Edit.Unreserve.Network]
		d.facts.Document = d.facts.Document.With(n.Clone().Unreserve(fix.Edit.Unreserve.MAC))
	}
	return engine.Result{Title: title, DryRun: o.DryRun}, nil
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick, late := time.NewTicker(5*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !f() {
		select {
		case <-late:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// What doctor finds is in the picture without anybody asking doctor, and goes with
// its fix.
func TestFindingsAreInThePicture(t *testing.T) {
	f := newFake()
	n := network(t, "default")
	f.doc = f.doc.With(n)
	f.view.Networks = map[spec.NetworkName]engine.NetworkView{"default": {Running: true}}
	d := &fakeDoctor{facts: diagnose.Facts{Document: f.doc.With(n.Clone().Reserve(spec.Reservation{MAC: "52:54:00:00:00:01", Addr: netip.MustParseAddr("203.0.113.7")}))}}
	_, client := serve(t, f, func(c *Config) { c.Doctor, c.LookOut = d, true })
	bridge := func() api.Node {
		g, err := client.Topology(t.Context(), api.View{})
		if err != nil {
			t.Fatal(err)
		}
		return g.Nodes[slices.IndexFunc(g.Nodes, func(n api.Node) bool { return n.Kind == "bridge" })]
	}
	var found api.Finding
	eventually(t, "the finding is in the picture", func() bool {
		for _, x := range bridge().Findings {
			found = x
		}
		return found.ID != ""
	})
	if found.ID != found.Code+":default" || found.Fix != "drawbridge reservation rm default 52:54:00:00:00:01" || !found.Automatic {
		t.Errorf("%+v", found)
	}
	dry, err := client.Treat(t.Context(), api.FixRequest{Code: found.Code, About: "default"}, api.Options{DryRun: true, Picture: &api.View{Draw: "graph"}})
	if err != nil || len(dry) != 1 || dry[0].Change.Picture == nil || dry[0].Finding.ID != found.ID || len(d.fixed) != 0 {
		t.Errorf("the dry run: %+v %v", dry, err)
	}
	if _, err := client.Treat(t.Context(), api.FixRequest{Code: found.Code}, api.Options{}); err != nil || len(d.fixed) != 1 {
		t.Errorf("mended %v: %v", d.fixed, err)
	}
	f.watcher(engine.Event{Kind: "change"})
	eventually(t, "the finding is gone", func() bool { return len(bridge().Findings) == 0 })
}

// A busy host is looked at no more often than it rests in between, and a quiet one
// now and then all the same.
func TestLookingIsRestful(t *testing.T) {
	var mu sync.Mutex
	var looks []time.Time
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(looks)
	}
	fail := false
	l := newLookout(func(context.Context) ([]diagnose.Finding, error) {
		mu.Lock()
		defer mu.Unlock()
		looks = append(looks, time.Now())
		if fail {
			return nil, errors.New("cannot be seen just now")
		}
		return []diagnose.Finding{{Code: "x"}}, nil
	}, time.Now)
	l.gather, l.least, l.most = time.Millisecond, 100*time.Millisecond, time.Hour
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { l.run(ctx); close(ended) }()
	eventually(t, "a first look", func() bool { return count() == 1 })
	eventually(t, "events are heard", func() bool { l.stir(); return count() >= 4 })
	mu.Lock()
	for i := 1; i < len(looks); i++ {
		if rest := looks[i].Sub(looks[i-1]); rest < l.least {
			t.Errorf("look %d came %v after the one before", i, rest)
		}
	}
	fail = true
	mu.Unlock()
	had := count()
	eventually(t, "a look that fails", func() bool { l.stir(); return count() > had })
	if got := l.sight(); got.at.IsZero() || len(got.found) != 1 {
		t.Errorf("what was known is lost: %+v", got)
	}
	stop()
	<-ended
	quiet := newLookout(l.look, time.Now)
	quiet.gather, quiet.least, quiet.most = time.Millisecond, time.Millisecond, 10*time.Millisecond
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	go quiet.run(ctx)
	had = count()
	eventually(t, "looks without events", func() bool { return count() > had+2 })
}
