package nettest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// ErrPowerCut is the answer of a host whose power was cut; ErrInjected is the
// failure that FailAt orders.
var (
	ErrPowerCut = errors.New("power cut")
	ErrInjected = errors.New("injected failure")
)

// Fake is a host in memory. It does what the kernel does by itself: deleting a
// link deletes its addresses, routes and parameters, deleting a bridge unplugs
// its ports, a link that goes down loses routes and IPv6 addresses, and so on
// (fake_link.go, fake_rules.go). It refuses what the kernel refuses, and passes
// Contract like the real one. In one thing it is harsher: steps about rules are
// not one transaction, so power can be cut between any two of them.
//
// An effect is one change of the host; a step that finds everything as wanted
// has none, one that makes a link has two. Faults are counted in effects from
// the call that orders them.
type Fake struct {
	mu    sync.Mutex
	state host.State
	// born orders things by when they were made: the first address of a subnet
	// is its primary.
	born    map[host.Key]int
	births  int
	effects int
	dead    bool
	// cut, fail and lie are effects still to come until the fault, 0 for none.
	cut, fail, lie int
	// leaving are keys that the present call of Apply deletes later.
	leaving map[host.Key]bool
	// sight is what was last looked at.
	sight *host.Sight
}

// NewFake makes a host that has the given things, foreign ones too: a NIC, its
// addresses, others' rules. They are not checked. Routes to the subnets of the
// addresses come by themselves, and so does loopback.
func NewFake(has ...host.Resource) *Fake {
	f := &Fake{state: host.State{}, born: map[host.Key]int{}}
	f.add(host.Link{Name: "lo", MAC: "00:00:00:00:00:00", MTU: 65536, Up: true})
	for _, r := range has {
		f.add(r)
	}
	for _, r := range has {
		if a, ok := r.(host.Address); ok {
			f.addRoutesOf(a)
		}
	}
	return f
}

// PowerCut cuts the power right after n more effects, with 0 at once: from then
// on every call returns ErrPowerCut, until Restart.
func (f *Fake) PowerCut(after int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut, f.dead = after, after == 0
}

// FailAt makes the nth effect from now (1 is the next) fail with ErrInjected
// without being done.
func (f *Fake) FailAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = n
}

// LieAt makes the nth effect from now (1 is the next) succeed without being
// done.
func (f *Fake) LieAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lie = n
}

// Restart ends a power cut of the program that changes the host, and every other
// fault that is still to come. The host is as the cut left it.
func (f *Fake) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.cut, f.fail, f.lie = false, 0, 0, 0
}

// Reboot is Restart of the whole machine: there is only what the boot brings.
func (f *Fake) Reboot(has ...host.Resource) {
	fresh := NewFake(has...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.born, f.births = fresh.state, fresh.born, fresh.births
	f.dead, f.cut, f.fail, f.lie = false, 0, 0, 0
}

// Effects counts the effects so far, those that were lied about included.
func (f *Fake) Effects() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.effects
}

// Outside carries out steps as another program would: no faults, no effects
// counted.
func (f *Fake) Outside(steps ...plan.Step) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaving = leavingIn(steps)
	for _, s := range steps {
		for {
			change, err := f.next(s)
			if err != nil {
				return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
			}
			if change == nil {
				break
			}
			change()
		}
	}
	return nil
}

// Observe reads the given things, or everything but parameters.
func (f *Fake) Observe(ctx context.Context, keys ...host.Key) (host.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return nil, ErrPowerCut
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	seen := host.State{}
	for _, k := range keys {
		if r := f.get(k); r != nil {
			seen.Add(r)
		}
	}
	if len(keys) == 0 {
		for k, r := range f.state {
			if k.Kind != host.KindSysctl {
				seen[k] = r
			}
		}
	}
	return seen, nil
}

// Look implements txn.Looker.
func (f *Fake) Look(ctx context.Context) (*host.Sight, error) {
	seen, err := f.Observe(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && (f.sight == nil || !maps.Equal(seen, f.sight.State)) {
		f.sight = &host.Sight{State: seen}
	}
	return f.sight, err
}

// Apply carries out steps in order.
func (f *Fake) Apply(ctx context.Context, steps []plan.Step) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaving = leavingIn(steps)
	for _, s := range steps {
		if f.dead {
			return ErrPowerCut
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.step(s); err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	if f.dead {
		return ErrPowerCut
	}
	return nil
}

// step carries out the effects of one step until there is nothing left to do.
func (f *Fake) step(s plan.Step) error {
	for {
		change, err := f.next(s)
		if err != nil || change == nil {
			return err
		}
		if due(&f.fail) {
			return ErrInjected
		}
		f.effects++
		lied := due(&f.lie)
		if !lied {
			change()
		}
		if due(&f.cut) {
			f.dead = true
			return ErrPowerCut
		}
		if lied {
			return nil // the rest of the step hangs on what was not done
		}
	}
}

// due counts an effect against a fault.
func due(countdown *int) bool {
	if *countdown == 0 {
		return false
	}
	*countdown--
	return *countdown == 0
}

func leavingIn(steps []plan.Step) map[host.Key]bool {
	leaving := map[host.Key]bool{}
	for _, s := range steps {
		if s.After == nil {
			leaving[s.Key()] = true
		}
	}
	return leaving
}

// next is the next effect of a step, nil if everything is as the step wants it.
func (f *Fake) next(s plan.Step) (change func(), err error) {
	key := s.Key()
	there := f.get(key)
	if host.Same(s.After, there) {
		return nil, nil
	}
	if s.After == nil {
		return f.nextDelete(there)
	}
	for _, need := range s.After.Needs() {
		if f.get(need) == nil {
			return nil, fmt.Errorf("%s is not there", need)
		}
	}
	switch want := s.After.(type) {
	case host.Link:
		return f.nextLink(want)
	case host.Address:
		return f.nextAddress(want)
	case host.Route:
		return f.nextRoute(want)
	case host.Sysctl:
		return f.nextSysctl(want)
	case host.Chain:
		if err := f.checkChain(want); err != nil {
			return nil, err
		}
	case host.Element:
		if err := f.checkElement(want); err != nil {
			return nil, err
		}
	case host.Accept:
		if chain := host.ChainKey(want.Table, want.Chain); f.get(chain) == nil {
			return nil, fmt.Errorf("%s is not there", chain)
		}
	}
	return func() { f.add(s.After) }, nil
}

func (f *Fake) nextDelete(there host.Resource) (change func(), err error) {
	switch r := there.(type) {
	case host.Link:
		if r.Type == "" {
			return nil, errors.New("a network card cannot be deleted")
		}
		return func() { f.deleteLink(r) }, nil
	case host.Address:
		return func() { f.deleteAddress(r) }, nil
	case host.Sysctl:
		return nil, nil // goes with its link only
	case host.Table:
		return func() { f.deleteTable(r) }, nil
	case host.Set, host.Chain:
		if user := f.userOf(r.Key()); user != nil {
			return nil, fmt.Errorf("%s uses it", *user)
		}
	}
	return func() { f.drop(there.Key()) }, nil
}

// add puts a thing into the host; a new one is the youngest.
func (f *Fake) add(r host.Resource) {
	if _, old := f.state[r.Key()]; !old {
		f.births++
		f.born[r.Key()] = f.births
	}
	f.state.Add(r)
}

// drop takes a thing away, and what only lives with it: the elements of a set,
// our rules in a chain of others, and the guest services of what they served.
func (f *Fake) drop(k host.Key) {
	delete(f.state, k)
	delete(f.born, k)
	for other, r := range f.state {
		switch r := r.(type) {
		case host.Element:
			if host.SetKey(r.Table, r.Set) == k {
				f.drop(other)
			}
		case host.Accept:
			if host.ChainKey(r.Table, r.Chain) == k {
				f.drop(other)
			}
		case host.Pool, host.Reservation, host.Router, host.Zone, host.Guest, host.Resolver:
			for _, need := range r.Needs() {
				if need == k {
					f.drop(other)
				}
			}
		}
	}
}

// get reads a thing as an observer would see it.
func (f *Fake) get(k host.Key) host.Resource {
	if r, ok := f.state[k]; ok {
		return r
	}
	switch k.Kind {
	case host.KindSysctl:
		return f.defaultSysctl(k.Name)
	case host.KindFeature:
		return host.Feature{Name: k.Name}
	case host.KindNIC:
		if l, ok := f.state[host.LinkKey(k.Name)].(host.Link); ok {
			return host.NIC{Link: l.Name, Carrier: l.Up}
		}
	}
	return nil
}
