package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"drawbridge/internal/spec"
)

// Doors looks at the host for what else answers on a port.
type Doors interface {
	// Listeners lists the programs that listen on ports of a protocol.
	Listeners(ctx context.Context, proto spec.Proto, first, last uint16) ([]Listener, error)
	// LocalAddrs are the addresses that the host has.
	LocalAddrs(ctx context.Context) (map[netip.Addr]bool, error)
}

// Listener is a program that listens on a port of the host.
type Listener struct {
	Addr netip.AddrPort
	// V6Only sockets on every address do not hear IPv4.
	V6Only  bool
	PID     int
	Process string
}

// ObstacleError refuses a forward that would not do what was asked for, or take
// a port from somebody.
type ObstacleError struct {
	Texts []string
	// Force says that --force goes on regardless.
	Force bool
}

// Error names the obstacles.
func (e *ObstacleError) Error() string {
	text := join(e.Texts)
	if e.Force {
		text += "; --force forwards it all the same"
	}
	return text
}

// inTheWay refuses forwards that collide with somebody else's; the notes are
// remarks about what is merely doubtful, or was forced.
func (e *Engine) inTheWay(ctx context.Context, list []spec.Forward, r ForwardRequest) ([]string, error) {
	if e.Doors == nil {
		return nil, nil
	}
	var notes []string
	locals, err := e.Doors.LocalAddrs(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for the host's addresses: %w", err)
	}
	for _, f := range list {
		if note, err := notThisHost(f, locals, r.ListenAnyway); err != nil {
			return nil, err
		} else if note != "" {
			notes = append(notes, note)
		}
		texts, err := e.obstacles(ctx, f)
		if err != nil {
			return nil, err
		}
		if len(texts) == 0 {
			continue
		}
		if !r.Force {
			return nil, &ObstacleError{Texts: texts, Force: true}
		}
		for _, t := range texts {
			notes = append(notes, "forced although "+t)
		}
	}
	return notes, nil
}

func notThisHost(f spec.Forward, locals map[netip.Addr]bool, anyway bool) (string, error) {
	if f.Everywhere() || f.Listen.IsLoopback() || locals[f.Listen] {
		return "", nil
	}
	if !anyway {
		return "", &spec.InvalidError{Field: "listen", Reason: fmt.Sprintf("%s is not an address of this host; add it first, or say --listen-anyway", f.Listen)}
	}
	return fmt.Sprintf("%s is not an address of this host: the forward works for what is routed here", f.Listen), nil
}

// obstacles lists what is in the way of a forward.
func (e *Engine) obstacles(ctx context.Context, f spec.Forward) (sure []string, err error) {
	if f.Proto != spec.ProtoAll {
		listeners, err := e.Doors.Listeners(ctx, f.Proto, f.First, f.Last)
		if err != nil {
			return nil, fmt.Errorf("look for programs that listen on %s: %w", f.Ports(), err)
		}
		for _, l := range listeners {
			if meets(f, l) {
				sure = append(sure, fmt.Sprintf("%s (pid %d) listens on %s/%s and would not be reached any more", nameOr(l.Process, "a program"), l.PID, f.Proto, l.Addr))
			}
		}
	}
	slices.Sort(sure)
	return slices.Compact(sure), nil
}

// meets says whether a program would lose what a forward takes.
func meets(f spec.Forward, l Listener) bool {
	addr := l.Addr.Addr().Unmap()
	switch {
	case addr.Is6() && addr.IsUnspecified() && f.Listen.Is4():
		return !l.V6Only
	case addr.Is4() != f.Listen.Is4():
		return false
	}
	return f.Everywhere() || addr.IsUnspecified() || addr == f.Listen
}
