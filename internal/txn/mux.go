package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Mux is a Host made of several, each for its own kinds. They are called by
// several goroutines at a time, as Mux is.
type Mux struct {
	parts  []*part
	byKind map[host.Kind]*part

	looking sync.Mutex
	sight   *host.Sight
}

type part struct {
	host  Host
	sight *host.Sight
}

// NewMux returns a host without any kinds.
func NewMux() *Mux { return &Mux{byKind: map[host.Kind]*part{}} }

// Handle lets h answer for the given kinds.
func (m *Mux) Handle(h Host, kinds ...host.Kind) {
	p := &part{host: h}
	m.parts = append(m.parts, p)
	for _, k := range kinds {
		m.byKind[k] = p
	}
}

// Observe asks every part for its kinds.
func (m *Mux) Observe(ctx context.Context, keys ...host.Key) (host.State, error) {
	all := host.State{}
	ask := map[*part][]host.Key{}
	for _, k := range keys {
		if p, ok := m.byKind[k.Kind]; ok {
			ask[p] = append(ask[p], k)
		}
	}
	var asked []*part
	for _, p := range m.parts {
		if len(keys) == 0 || len(ask[p]) > 0 {
			asked = append(asked, p)
		}
	}
	// At the same time: each waits for another, the kernel or a process.
	var asking sync.WaitGroup
	states, errs := make([]host.State, len(asked)), make([]error, len(asked))
	for i, p := range asked {
		observe := func() { states[i], errs[i] = p.host.Observe(ctx, ask[p]...) }
		if i == len(asked)-1 {
			observe()
		} else {
			asking.Go(observe)
		}
	}
	asking.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, err
		}
		maps.Copy(all, states[i])
	}
	return all, nil
}

// Look looks at every part, at those that are no Looker by observing them. It is the
// same pointer as long as nothing of any part is different.
func (m *Mux) Look(ctx context.Context) (*host.Sight, error) {
	m.looking.Lock()
	defer m.looking.Unlock()
	sights, errs := make([]*host.Sight, len(m.parts)), make([]error, len(m.parts))
	var looking sync.WaitGroup
	for i, p := range m.parts {
		looking.Go(func() { sights[i], errs[i] = p.look(ctx) })
	}
	looking.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	same := m.sight != nil
	for i, p := range m.parts {
		same = same && p.sight == sights[i]
		p.sight = sights[i]
	}
	if !same {
		all := host.State{}
		for _, s := range sights {
			maps.Copy(all, s.State)
		}
		m.sight = &host.Sight{State: all}
	}
	return m.sight, nil
}

func (p *part) look(ctx context.Context) (*host.Sight, error) {
	if l, looks := p.host.(Looker); looks {
		return l.Look(ctx)
	}
	seen, err := p.host.Observe(ctx)
	if err == nil && p.sight != nil && maps.Equal(seen, p.sight.State) {
		return p.sight, nil
	}
	return &host.Sight{State: seen}, err
}

// Apply hands each run of neighbouring steps to the part that knows their kind.
func (m *Mux) Apply(ctx context.Context, steps []plan.Step) error {
	for len(steps) > 0 {
		p, ok := m.byKind[steps[0].Key().Kind]
		if !ok {
			return fmt.Errorf("%s: nobody knows how to change this kind of thing", steps[0].Key())
		}
		n := 1
		for n < len(steps) && m.byKind[steps[n].Key().Kind] == p {
			n++
		}
		if err := p.host.Apply(ctx, steps[:n]); err != nil {
			return err
		}
		steps = steps[n:]
	}
	return nil
}

// Prepare lets every part that can do so make ready for its steps.
func (m *Mux) Prepare(ctx context.Context, steps []plan.Step) {
	for _, p := range m.parts {
		if h, ok := p.host.(Preparer); ok {
			h.Prepare(ctx, slices.DeleteFunc(slices.Clone(steps), func(s plan.Step) bool { return m.byKind[s.Key().Kind] != p }))
		}
	}
}
