package txn

import (
	"context"
	"testing"

	"drawbridge/internal/host"
)

// looking is a part that says itself what is the same.
type looking struct {
	Host
	sight *host.Sight
}

func (l *looking) Look(context.Context) (*host.Sight, error) { return l.sight, nil }

// observed is one that can only be observed.
type observed struct {
	Host
	state host.State
}

func (o *observed) Observe(context.Context, ...host.Key) (host.State, error) {
	return host.NewState(o.state[host.LinkKey("b")]), nil
}

func TestMuxLook(t *testing.T) {
	a := &looking{sight: &host.Sight{State: host.NewState(host.Link{Name: "a"})}}
	b := &observed{state: host.NewState(host.Link{Name: "b"})}
	m := NewMux()
	m.Handle(a, host.KindRoute)
	m.Handle(b, host.KindLink)
	look := func() *host.Sight {
		t.Helper()
		s, err := m.Look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := look()
	if len(first.State) != 2 || look() != first {
		t.Errorf("a look shows %v, and another one is another", first.State)
	}
	b.state = host.NewState(host.Link{Name: "b", MTU: 9})
	second := look()
	if second == first || second.State[host.LinkKey("b")] != host.Resource(host.Link{Name: "b", MTU: 9}) {
		t.Errorf("what was observed anew is not shown: %v", second.State)
	}
	if first.State[host.LinkKey("b")] != host.Resource(host.Link{Name: "b"}) {
		t.Error("what was seen before was changed")
	}
	a.sight = &host.Sight{State: host.State{}}
	if third := look(); third == second || len(third.State) != 1 || look() != third {
		t.Errorf("what went is shown: %v", third.State)
	}
}
