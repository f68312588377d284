package engine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// gate lets no change pass while it is shut, and refuses to delete the link in
// broken.
type gate struct {
	txn.Host
	shut    chan struct{}
	reached chan struct{}
	broken  string
	applied atomic.Int32
}

var errBroken = errors.New("the kernel will not")

func (g *gate) Apply(ctx context.Context, steps []plan.Step) error {
	g.applied.Add(1)
	if g.shut != nil {
		g.reached <- struct{}{}
		<-g.shut
	}
	for _, s := range steps {
		if s.After == nil && s.Key() == host.LinkKey(g.broken) {
			return errBroken
		}
	}
	return g.Host.Apply(ctx, steps)
}

// attached is an engine with n persistent ports and the gate before its host.
func attached(t *testing.T, n int) (*machine, *engine.Engine, *gate, []string) {
	m := newMachine(t)
	g := &gate{Host: m.fake}
	e := m.start(g)
	if _, err := e.Do(t.Context(), network("default"), engine.Options{}); err != nil {
		t.Fatal(err)
	}
	var taps []string
	for i := range n {
		p, err := e.AttachPort(t.Context(), engine.PortRequest{Network: "default", Guest: fmt.Sprintf("g%d", i), Owner: -1, Made: "attach"})
		if err != nil {
			t.Fatal(err)
		}
		taps = append(taps, p.Tap)
	}
	g.applied.Store(0)
	return m, e, g, taps
}

func TestPortsDetachedAtOnceGoTogether(t *testing.T) {
	const n = 20
	m, e, g, taps := attached(t, n)
	g.shut, g.reached = make(chan struct{}), make(chan struct{}, n)
	answers := make(chan error, n+2)
	go func() { answers <- e.DetachPort(t.Context(), taps[0]) }()
	<-g.reached
	for _, tap := range taps[1:] {
		go func() { answers <- e.DetachPort(t.Context(), tap) }()
	}
	go func() { answers <- e.DetachPort(t.Context(), taps[1]) }() // a second time
	go func() { answers <- e.DetachPort(t.Context(), "vnet999") }()
	for e.Leaving() < n+1 {
		runtime.Gosched() // go test's own limit if it never comes
	}
	close(g.shut)
	unknown := 0
	for range n + 2 {
		switch err := <-answers; {
		case errors.Is(err, spec.ErrNotFound):
			unknown++
		case err != nil:
			t.Error(err)
		}
	}
	if unknown != 2 {
		t.Errorf("%d of the calls named no port, want 2", unknown)
	}
	if got := g.applied.Load(); got != 2 {
		t.Errorf("%d ports were detached in %d changes, want 2", n, got)
	}
	for _, tap := range taps {
		if _, there := m.state()[host.LinkKey(tap)]; there {
			t.Errorf("%s is still there", tap)
		}
	}
}

func TestOnePortThatCannotBeDetachedHoldsUpNoOther(t *testing.T) {
	m, e, g, taps := attached(t, 5)
	g.shut, g.reached = make(chan struct{}), make(chan struct{}, 20)
	answers := map[string]chan error{}
	for i, tap := range taps {
		answer := make(chan error, 1)
		answers[tap] = answer
		go func() { answer <- e.DetachPort(t.Context(), tap) }()
		if i == 0 {
			<-g.reached
		}
	}
	for e.Leaving() < len(taps)-1 {
		runtime.Gosched()
	}
	g.broken = taps[2]
	close(g.shut)
	for i, tap := range taps {
		err := <-answers[tap]
		if i == 2 != errors.Is(err, errBroken) {
			t.Errorf("%s: %v", tap, err)
		}
		if _, there := m.state()[host.LinkKey(tap)]; there != (i == 2) {
			t.Errorf("%s is there: %v", tap, there)
		}
	}
	g.broken = ""
	if err := e.DetachPort(t.Context(), taps[2]); err != nil {
		t.Errorf("once the kernel will: %v", err)
	}
}
