package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// leavers are the ports that wait to be detached. Deleting a link costs the
// kernel a grace period (11 to 36 ms measured), deleting many in one message
// little more: who comes while others are being detached goes with the next lot.
type leavers struct {
	mu      sync.Mutex
	waiting []leaver
	// served says that somebody is detaching those that wait.
	served bool
}

type leaver struct {
	tap  string
	by   txn.Actor
	done chan error
}

// add says whether the one who adds has to see to it that they are served.
func (l *leavers) add(one leaver) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, one)
	first, l.served = !l.served, true
	return first
}

// take takes all that wait; none means that they are no longer served.
func (l *leavers) take() []leaver {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.waiting
	l.waiting, l.served = nil, len(all) > 0
	return all
}

// DetachPort unplugs and deletes a tap that AttachPort made. Calls that come at
// the same time are carried out together.
func (e *Engine) DetachPort(ctx context.Context, tap string) error {
	mine := leaver{tap, txn.ActorOf(ctx), make(chan error, 1)}
	if e.leaving.add(mine) {
		go e.seeOff(context.WithoutCancel(ctx))
	}
	return <-mine.done
}

// seeOff detaches lot after lot, until nobody waits.
func (e *Engine) seeOff(ctx context.Context) {
	for {
		e.mu.Lock()
		all := e.leaving.take()
		e.detach(ctx, all)
		e.mu.Unlock()
		if len(all) == 0 {
			return
		}
	}
}

// detach unplugs all of them together, or if that fails one by one, so that
// nobody fails for another's port.
func (e *Engine) detach(ctx context.Context, all []leaver) {
	var ports []host.Port
	var fit []leaver
	twice, by := map[string]bool{}, map[string]txn.Actor{}
	for _, l := range all {
		p, live := e.live[l.tap]
		switch {
		case !live || twice[l.tap]:
			l.done <- fmt.Errorf("port %q: %w%s", l.tap, spec.ErrNotFound, spec.Meant(l.tap, slices.Collect(maps.Keys(e.live))))
		case !p.Persistent:
			l.done <- fmt.Errorf("port %q belongs to a running program and goes with it: %w", l.tap, spec.ErrInUse)
		default:
			twice[l.tap], by[l.tap] = true, l.by
			ports, fit = append(ports, p), append(fit, l)
		}
	}
	if len(ports) == 0 {
		return
	}
	err := e.unplug(ctx, ports, by)
	for i, l := range fit {
		if err != nil && len(ports) > 1 {
			l.done <- e.unplug(ctx, ports[i:i+1], by)
			continue
		}
		l.done <- err
	}
}
