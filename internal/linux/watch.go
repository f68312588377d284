package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// EventKind is what a change was about.
type EventKind string

// The kinds of events.
const (
	LinkChanged      EventKind = "link"
	AddressChanged   EventKind = "address"
	RouteChanged     EventKind = "route"
	NeighbourChanged EventKind = "neighbour"
	RulesChanged     EventKind = "rules"
	// Lost says that changes went by unseen: anything may be different.
	Lost EventKind = "lost"
)

// Event says that something on the host changed: look again. Equal events that
// nobody has taken yet are one.
type Event struct {
	Kind EventKind
	// Link is the link that it was about, "" if not known or none.
	Link string
	// Who did it, as `name (pid N)`; "" if it was the kernel itself, or a program
	// that does not say.
	Who string
}

// groups are the multicast groups of each kind of event.
var groups = map[EventKind][]uint32{
	LinkChanged:      {unix.RTNLGRP_LINK},
	AddressChanged:   {unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR},
	RouteChanged:     {unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE},
	NeighbourChanged: {unix.RTNLGRP_NEIGH},
}

const (
	// eventBuffer is the socket's: some 20 000 events while the reader is away.
	eventBuffer = 8 << 20
	// maxPending is the number of different events that are kept for a slow
	// receiver; beyond, looking at everything is cheaper for it anyway.
	maxPending = 1024
	// redialPause is how long to wait before trying again to hear of changes.
	redialPause = time.Second
)

// Watch tells of changes that others make, until ctx ends; then the channel is
// closed. Our own changes, those by this Host, are left out. Without kinds it is
// everything but neighbours, which change by the second where guests talk. What
// comes faster than it is taken is joined; what was lost on the way is one event
// of kind Lost, which is always told.
func (h *Host) Watch(ctx context.Context, kinds ...EventKind) (<-chan Event, error) {
	if len(kinds) == 0 {
		kinds = []EventKind{LinkChanged, AddressChanged, RouteChanged, RulesChanged}
	}
	w := &watch{host: h, kinds: kinds, wake: make(chan struct{}, 1), out: make(chan Event)}
	var rules <-chan nftEvent
	if slices.Contains(kinds, RulesChanged) {
		var err error
		if rules, err = h.rules.watch(ctx); err != nil {
			return nil, fmt.Errorf("watch rules: %w", err)
		}
	}
	if err := w.dial(); err != nil {
		return nil, err
	}
	go w.readRules(ctx, rules)
	go w.read(ctx)
	go w.deliver(ctx)
	return w.out, nil
}

// watch is one subscription: a reader that never waits, and a deliverer.
type watch struct {
	host  *Host
	kinds []EventKind
	conn  *netlink.Conn
	// names are links by index, for messages that have only that; read and
	// written by the reader alone.
	names map[int]string

	mu      sync.Mutex
	pending []Event
	wake    chan struct{}
	out     chan Event
}

// dial subscribes, and only then lists the links: one that comes in between is
// in both.
func (w *watch) dial() error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("watch the network: %w", err)
	}
	// Refused without privileges: then the default size has to do.
	_ = conn.SetReadBuffer(eventBuffer)
	// Links in any case: other messages have the index only, and need the name.
	for _, kind := range append([]EventKind{LinkChanged}, w.kinds...) {
		for _, group := range groups[kind] {
			if err := conn.JoinGroup(group); err != nil {
				return errors.Join(fmt.Errorf("watch %s changes: %w", kind, err), conn.Close())
			}
		}
	}
	links, err := w.host.rtnl.links()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	w.conn, w.names = conn, map[int]string{}
	for _, l := range links {
		w.names[l.index] = l.Name
	}
	return nil
}

func (w *watch) read(ctx context.Context) {
	for {
		stop := context.AfterFunc(ctx, func() { w.conn.Close() })
		w.receive(ctx)
		if !stop() {
			return
		}
		w.conn.Close()
		for w.dial() != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(redialPause):
			}
		}
		w.put(Event{Kind: Lost})
	}
}

// receive reads until the socket breaks. An overflow does not break it: the
// kernel says once that it dropped messages, and goes on.
func (w *watch) receive(ctx context.Context) {
	for {
		msgs, err := w.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS):
			w.put(Event{Kind: Lost})
			continue
		case err != nil:
			return
		}
		for _, m := range msgs {
			e, ok := w.event(m)
			if ok && slices.Contains(w.kinds, e.Kind) && m.Header.PID != w.host.rtnl.conn.PID() {
				e.Who = whoSent(m.Header.PID)
				w.put(e)
			}
		}
	}
}

// event reads as much of a message as a hint needs, and keeps the names.
func (w *watch) event(m netlink.Message) (Event, bool) {
	if len(m.Data) < 8 {
		return Event{}, false
	}
	e := Event{}
	index := int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
	switch uint16(m.Header.Type) {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		e.Kind = LinkChanged
		l, err := parseLink(m)
		if err != nil {
			return e, false
		}
		w.names[index] = l.Name
		e.Link = l.Name
		// In the family of bridges this only means that it left one.
		if uint16(m.Header.Type) == unix.RTM_DELLINK && m.Data[0] == unix.AF_UNSPEC {
			delete(w.names, index)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		e.Kind, e.Link = AddressChanged, w.names[index]
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		e.Kind, e.Link = NeighbourChanged, w.names[index]
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		e.Kind = RouteChanged
		if r, err := parseRoute(m, w.names); err == nil {
			e.Link = r.Link
		}
	default:
		return e, false
	}
	return e, true
}

// whoSent names the sender of a change by its netlink port, which is the
// process id for the first socket of a process (netlink_autobind in
// net/netlink/af_netlink.c); further sockets have numbers from above 2³¹.
func whoSent(port uint32) string {
	if port == 0 || port > 1<<22 || int(port) == os.Getpid() { // PID_MAX_LIMIT
		return ""
	}
	return processByPID(int(port)).String()
}

func (w *watch) readRules(ctx context.Context, rules <-chan nftEvent) {
	for rules != nil {
		for e := range rules {
			if e.Lost {
				w.put(Event{Kind: Lost})
				continue
			}
			who := ""
			if e.PID != 0 {
				who = Process{PID: int(e.PID), Comm: e.Process}.String()
			}
			w.put(Event{Kind: RulesChanged, Who: who})
		}
		rules = nil
		for rules == nil && ctx.Err() == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(redialPause):
				rules, _ = w.host.rules.watch(ctx)
			}
		}
	}
}

// put queues an event without ever waiting.
func (w *watch) put(e Event) {
	w.mu.Lock()
	switch {
	case slices.Contains(w.pending, e):
	case len(w.pending) >= maxPending:
		w.pending = append(w.pending[:0], Event{Kind: Lost})
	default:
		w.pending = append(w.pending, e)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watch) take() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.pending
	w.pending = nil
	return taken
}

func (w *watch) deliver(ctx context.Context) {
	defer close(w.out)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		for _, e := range w.take() {
			select {
			case <-ctx.Done():
				return
			case w.out <- e:
			}
		}
	}
}
