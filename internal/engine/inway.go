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
	V6Only bool
	// Bound sockets hear one link only.
	Bound   bool
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
// remarks about what is merely doubtful, or was forced. risky forwards may keep
// whoever asked from coming back.
func (e *Engine) inTheWay(ctx context.Context, n spec.Network, list []spec.Forward, r ForwardRequest, pid int) (notes []string, risky bool, err error) {
	if e.Doors == nil {
		return nil, false, nil
	}
	locals, err := e.Doors.LocalAddrs(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("look for the host's addresses: %w", err)
	}
	for _, f := range list {
		if note, err := notThisHost(f, locals, r.ListenAnyway); err != nil {
			return nil, false, err
		} else if note != "" {
			notes = append(notes, note)
		}
		texts, remarks, err := e.obstacles(ctx, f)
		if err != nil {
			return nil, false, err
		}
		ways, err := e.takesWayIn(ctx, f, pid)
		if err != nil {
			return nil, false, err
		}
		walls, more, err := e.walls(ctx, n, f)
		if err != nil {
			return nil, false, err
		}
		notes = append(append(notes, remarks...), more...)
		texts = append(append(texts, ways...), walls...)
		risky = risky || len(ways) > 0
		if len(texts) > 0 && !r.Force {
			return nil, false, &ObstacleError{Texts: texts, Force: true}
		}
		for _, t := range texts {
			notes = append(notes, "forced although "+t)
		}
	}
	return notes, risky, nil
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

// obstacles lists the programs of the host that a forward would take from those
// who call them. A forward of a whole address must not take one from a program
// that listens just there; those that listen everywhere are only remarked.
func (e *Engine) obstacles(ctx context.Context, f spec.Forward) (sure, remarks []string, err error) {
	protos, first, last := []spec.Proto{f.Proto}, f.First, f.Last
	if f.Proto == spec.ProtoAll {
		protos, first, last = []spec.Proto{spec.TCP, spec.UDP}, 1, 65535
	}
	var everywhere []string
	for _, proto := range protos {
		listeners, err := e.Doors.Listeners(ctx, proto, first, last)
		if err != nil {
			return nil, nil, fmt.Errorf("look for programs that listen on %s: %w", f.Key(), err)
		}
		for _, l := range listeners {
			switch {
			case !meets(f, l):
			case f.Proto == spec.ProtoAll && l.Bound:
				// Guest services on a bridge, which go on for the bridge's own address.
			case f.Proto == spec.ProtoAll && l.Addr.Addr().IsUnspecified():
				everywhere = append(everywhere, nameOr(l.Process, "a program"))
			default:
				sure = append(sure, fmt.Sprintf("%s (pid %d) listens on %s/%s and would not be reached any more", nameOr(l.Process, "a program"), l.PID, proto, l.Addr))
			}
		}
	}
	if slices.Sort(everywhere); len(everywhere) > 0 {
		remarks = append(remarks, fmt.Sprintf("%s: no longer reached at %s", join(slices.Compact(everywhere)), f.Listen))
	}
	slices.Sort(sure)
	return slices.Compact(sure), remarks, nil
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
