package engine

import (
	"context"
	"fmt"
	"sync"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// leavers are the ports that wait to be detached. Deleting a link costs the
// kernel a grace period (11 to 36 ms measured), deleting many in one message
// little more: who comes while others are being detached goes with the next lot.
type leavers struct {
	mu      sync.Mutex
	waiting []leaver
}

type leaver struct {
	tap  string
	done chan error
}

func (l *leavers) add(one leaver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, one)
}

func (l *leavers) take() []leaver {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.waiting
	l.waiting = nil
	return all
}

// DetachPort unplugs and deletes a tap that AttachPort made. Calls that come at
// the same time are carried out together.
func (e *Engine) DetachPort(ctx context.Context, tap string) error {
	mine := leaver{tap, make(chan error, 1)}
	e.leaving.add(mine)
	e.mu.Lock()
	e.detach(ctx, e.leaving.take()) // without mine, if somebody took it along
	e.mu.Unlock()
	return <-mine.done
}

// detach unplugs all of them together, or if that fails one by one, so that
// nobody fails for another's port.
func (e *Engine) detach(ctx context.Context, all []leaver) {
	var ports []host.Port
	var fit []leaver
	twice := map[string]bool{}
	for _, l := range all {
		p, live := e.live[l.tap]
		switch {
		case !live || twice[l.tap]:
			l.done <- fmt.Errorf("port %q: %w", l.tap, spec.ErrNotFound)
		case !p.Persistent:
			l.done <- fmt.Errorf("port %q belongs to a running program and goes with it: %w", l.tap, spec.ErrInUse)
		default:
			twice[l.tap] = true
			ports, fit = append(ports, p), append(fit, l)
		}
	}
	if len(ports) == 0 {
		return
	}
	err := e.unplug(ctx, ports)
	for i, l := range fit {
		if err != nil && len(ports) > 1 {
			l.done <- e.unplug(ctx, ports[i:i+1])
			continue
		}
		l.done <- err
	}
}
