package engine

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// EventKind is what an event is about.
type EventKind string

// The kinds of events, and what their actions are.
const (
	// NetworkEvent: created, changed, started, stopped, removed; held if something
	// foreign keeps it from running, free once that is over.
	NetworkEvent EventKind = "network"
	// PortEvent: plugged, unplugged; changed if its hairpin mode was.
	PortEvent EventKind = "port"
	// LeaseEvent: the state of the lease: bound, released and so on.
	LeaseEvent EventKind = "lease"
	// ForwardEvent: added, changed, removed, ended by the clock; follows if it leads
	// to another address of its guest now.
	ForwardEvent EventKind = "forward"
	// ReservationEvent: added, changed, removed.
	ReservationEvent EventKind = "reservation"
	// ChangeEvent: the phase that the change entered.
	ChangeEvent EventKind = "change"
	// DriftEvent: seen, or failed if it could not be put back.
	DriftEvent EventKind = "drift"
	// RepairEvent: repaired.
	RepairEvent EventKind = "repair"
	// ServicesEvent: answering, gone.
	ServicesEvent EventKind = "services"
	// ForeignEvent: what another program changed: link, address, route, rules.
	ForeignEvent EventKind = "foreign"
)

// EventKinds lists them all.
var EventKinds = []EventKind{
	NetworkEvent, PortEvent, LeaseEvent, ForwardEvent, ReservationEvent, ChangeEvent, DriftEvent, RepairEvent, ServicesEvent, ForeignEvent,
}

// Event tells watchers that something happened; Text is a whole sentence.
type Event struct {
	// Time of the wall clock; set when it is told, unless it is set before.
	Time time.Time
	Kind EventKind
	// Action is what happened, one word of those that the kind has.
	Action string
	// Network that it is about; "" if it is about none, or about many.
	Network spec.NetworkName
	// Object names what it is about: a network, a tap, an address, a change.
	Object string
	Text   string
	// Who did it, in words; "" if that is not known.
	Who string
}

// watchers are those who listen to events.
type watchers struct {
	mu   sync.Mutex
	last int
	subs map[int]func(Event)
}

// Watch calls f for every event from now on, in their order, one at a time, until
// stop is called. f must not wait for anything, and must not call the engine.
func (e *Engine) Watch(f func(Event)) (stop func()) {
	w := &e.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subs == nil {
		w.subs = map[int]func(Event){}
	}
	w.last++
	mine := w.last
	w.subs[mine] = f
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, mine)
	}
}

func (e *Engine) tell(ev Event) {
	w := &e.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	if ev.Time.IsZero() {
		ev.Time = e.Now() // here, so that times are in the order of events
	}
	for _, f := range w.subs {
		f(ev)
	}
}

// Tell passes on an event that happened elsewhere, such as a new lease.
func (e *Engine) Tell(ev Event) { e.tell(ev) }

// manyEvents is how many things of one sort a change may tell of one by one; of
// more, one event tells the number.
const manyEvents = 64

// tellDocument tells what became of networks, reservations and forwards.
func (e *Engine) tellDocument(had, want spec.Document, who string) {
	for _, name := range had.Names() {
		if _, stays := want.Networks[name]; !stays {
			e.tell(Event{Kind: NetworkEvent, Action: "removed", Network: name, Object: string(name), Who: who, Text: fmt.Sprintf("network %s removed", name)})
		}
	}
	for _, name := range want.Names() {
		old, there := had.Networks[name]
		now := want.Networks[name]
		for _, action := range becomes(old, now, there) {
			e.tell(Event{Kind: NetworkEvent, Action: action, Network: name, Object: string(name), Who: who, Text: fmt.Sprintf("network %s %s", name, action)})
		}
		if !there {
			old = spec.Network{}
		}
		e.tellSome(ReservationEvent, reservationEvents(name, old, now), name, who)
		e.tellSome(ForwardEvent, forwardEvents(name, old, now), name, who)
	}
}

// tellSome tells events of one sort, or their number if they are too many.
func (e *Engine) tellSome(kind EventKind, list []Event, network spec.NetworkName, who string) {
	if len(list) > manyEvents {
		list = []Event{{Action: "changed", Object: string(network), Text: fmt.Sprintf("%d %ss of network %s changed", len(list), kind, network)}}
	}
	for _, ev := range list {
		ev.Kind, ev.Network, ev.Who = kind, network, who
		e.tell(ev)
	}
}

// becomes says what happened to a network.
func becomes(old, now spec.Network, there bool) []string {
	if !there && now.Started {
		return []string{"created", "started"}
	} else if !there {
		return []string{"created"}
	}
	var all []string
	// Forwards and reservations have events of their own.
	a, b := old, now
	a.Started, a.Forwards, a.Reservations = b.Started, b.Forwards, b.Reservations
	if !a.Equal(b) {
		all = append(all, "changed")
	}
	switch {
	case now.Started && !old.Started:
		all = append(all, "started")
	case old.Started && !now.Started:
		all = append(all, "stopped")
	}
	return all
}

func reservationEvents(name spec.NetworkName, old, now spec.Network) []Event {
	var all []Event
	say := func(r spec.Reservation, action string) {
		all = append(all, Event{Action: action, Object: r.MAC, Text: fmt.Sprintf("reservation of %s for %s on network %s %s", r.Addr, r.MAC, name, action)})
	}
	before := map[string]spec.Reservation{}
	for _, r := range old.Reservations {
		before[r.MAC] = r
	}
	for _, r := range now.Reservations {
		was, there := before[r.MAC]
		delete(before, r.MAC)
		switch {
		case !there:
			say(r, "added")
		case was != r:
			say(r, "changed")
		}
	}
	for _, r := range old.Reservations {
		if _, gone := before[r.MAC]; gone {
			say(r, "removed")
		}
	}
	return all
}

func forwardEvents(name spec.NetworkName, old, now spec.Network) []Event {
	var all []Event
	for was, is := range old.Forwards.Changes(now.Forwards) {
		ev := Event{Action: "changed"}
		switch {
		case was == nil:
			ev.Action = "added"
		case is == nil:
			ev.Action, is = "removed", was
		}
		ev.Object = is.Key()
		ev.Text = fmt.Sprintf("forward %s to %s %s", is.Key(), is.Target, ev.Action)
		all = append(all, ev)
	}
	return all
}

// tellPhase tells which phase a change entered, and what became of the document
// once it is confirmed. What happens by itself has events of its own.
func (e *Engine) tellPhase(t txn.Txn) {
	had, known := e.begun.over(t)
	if t.By.Kind != txn.ByRepair && t.By.Kind != txn.ByFollow {
		ev := Event{Kind: ChangeEvent, Action: string(t.Phase), Object: t.ID, Who: t.By.String(), Text: fmt.Sprintf("%s: %s", t.Title, t.Phase)}
		if t.Phase == txn.Waiting {
			ev.Text += fmt.Sprintf(", taken back in %d s unless: drawbridge change confirm %s", (t.Deadline-e.Boottime())/int64(time.Second), t.ID)
		}
		if t.Proof != "" {
			ev.Text += ", as " + t.Proof
		}
		if t.Problem != "" {
			ev.Text += " (" + t.Problem + ")"
		}
		if known {
			if touched := touchedNetworks(had, t.Doc); len(touched) == 1 {
				ev.Network = touched[0]
			}
		}
		e.tell(ev)
	}
	if known && t.Phase == txn.Confirmed {
		e.tellDocument(had, t.Doc, t.By.String())
	}
}

// touchedNetworks lists the networks that differ.
func touchedNetworks(had, want spec.Document) []spec.NetworkName {
	var all []spec.NetworkName
	for name, n := range want.Networks {
		if old, there := had.Networks[name]; !there || !old.Equal(n) {
			all = append(all, name)
		}
	}
	for name := range had.Networks {
		if _, stays := want.Networks[name]; !stays {
			all = append(all, name)
		}
	}
	return all
}

// begun remembers what the document was before each change that is under way.
type begun struct {
	mu  sync.Mutex
	had map[string]spec.Document
}

func (b *begun) note(id string, had spec.Document) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.had == nil {
		b.had = map[string]spec.Document{}
	}
	b.had[id] = had
}

func (b *begun) forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.had, id)
}

// over returns the document from before a change, and forgets it with the end of
// the change. A change that another daemon began is not known.
func (b *begun) over(t txn.Txn) (had spec.Document, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	had, known = b.had[t.ID]
	if t.Phase == txn.Confirmed || t.Phase == txn.RolledBack {
		delete(b.had, t.ID)
	}
	return had, known
}

// tellSteps tells of drift or its repair: one event for each network, and one for
// what belongs to none.
func (e *Engine) tellSteps(kind EventKind, action string, steps []plan.Step, who, format string) {
	at := txn.NetworksByBridge(e.Store.Document())
	parts := map[spec.NetworkName][]host.Key{}
	for _, s := range steps {
		name, _ := txn.NetworkOf(s.Key(), at)
		parts[name] = append(parts[name], s.Key())
	}
	var names []spec.NetworkName
	for name := range parts {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) > manyEvents {
		names = []spec.NetworkName{""}
		parts = map[spec.NetworkName][]host.Key{"": keysOf(steps)}
	}
	for _, name := range names {
		keys := parts[name]
		what := keys[0].String()
		if len(keys) > 1 {
			what = fmt.Sprintf("%s and %d more", what, len(keys)-1)
		}
		e.tell(Event{Kind: kind, Action: action, Network: name, Object: keys[0].String(), Who: who, Text: fmt.Sprintf(format, what)})
	}
}

// tellHeld tells which networks cannot run any more, or can again.
func (e *Engine) tellHeld(had, held map[spec.NetworkName]string) {
	for name, why := range held {
		if had[name] != why {
			e.tell(Event{Kind: NetworkEvent, Action: "held", Network: name, Object: string(name), Text: fmt.Sprintf("network %s cannot run: %s", name, why)})
		}
	}
	for name := range had {
		if _, still := held[name]; !still {
			e.tell(Event{Kind: NetworkEvent, Action: "free", Network: name, Object: string(name), Text: fmt.Sprintf("nothing keeps network %s from running any more", name)})
		}
	}
}

// tellForeign tells what other programs changed, each thing once.
func (e *Engine) tellForeign(burst []Hint) {
	told := map[Hint]bool{}
	at := txn.NetworksByBridge(e.Store.Document())
	for _, h := range burst {
		if h.Who == "" || h.Kind == "" || told[h] {
			continue
		}
		if told[h] = true; len(told) > manyEvents {
			break
		}
		what := h.Kind
		if h.Object != "" {
			what += " of " + h.Object
			if h.Kind == "link" {
				what = "link " + h.Object
			}
		}
		ev := Event{
			Kind: ForeignEvent, Action: h.Kind, Object: h.Object, Who: h.Who, Network: at[h.Object],
			Text: fmt.Sprintf("%s changed by another program", what),
		}
		e.tell(ev)
		e.keepForeign(ev)
	}
}

func (e *Engine) tellPort(action string, p host.Port, by txn.Actor) {
	text := fmt.Sprintf("%s plugged into %s as %s", nameOr(p.Guest, p.Tap), p.Bridge, p.Tap)
	if action == "unplugged" {
		text = fmt.Sprintf("%s unplugged from %s", nameOr(p.Guest, p.Tap), p.Bridge)
	}
	who := by.String()
	if who == "" {
		who = p.Made
	}
	e.keepPort(p, by, text)
	e.tell(Event{Kind: PortEvent, Action: action, Network: spec.NetworkName(p.Network), Object: p.Tap, Text: text, Who: who})
}
