package txn

import (
	"slices"
	"strings"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// EntryKind is what an entry of the record is about.
type EntryKind string

// The kinds of entries.
const (
	// EntryChange: somebody changed the document, or the daemon started.
	EntryChange EntryKind = "change"
	// EntryRepair: what others changed was put back.
	EntryRepair EntryKind = "repair"
	// EntryPort: a guest's NIC was plugged or unplugged, or forwards followed a guest.
	EntryPort EntryKind = "port"
	// EntryForeign: another program changed something of the host's network.
	EntryForeign EntryKind = "foreign"
	// EntryDamaged: it cannot be read; Problem says why.
	EntryDamaged EntryKind = "damaged"
)

// The most of one change that its entry holds. A larger one, such as ten thousand
// forwards applied at once, has the numbers alone, and cannot be undone.
const (
	mostSteps   = 500
	mostObjects = 1000
)

// Entry is what is kept for good of something that happened.
type Entry struct {
	// Number in the record, counting up; given by the store.
	Number uint64
	Kind   EntryKind
	// ID of the change; "" for what is no change.
	ID    string `json:",omitempty"`
	Began time.Time
	Ended time.Time
	By    Actor
	// Title is the command, or what happened, in words.
	Title string
	// Networks that it was about.
	Networks []spec.NetworkName `json:",omitempty"`
	// Mends is Txn.Mends: the steps themselves are what can be undone.
	Mends bool `json:",omitempty"`
	// Phase that a change ended in: Confirmed, RolledBack or Stuck.
	Phase   Phase  `json:",omitempty"`
	Problem string `json:",omitempty"`
	// Steps and Objects, and how many there were; fewer are held of a large change.
	Steps       []plan.Step `json:",omitempty"`
	StepCount   int         `json:",omitempty"`
	Objects     []Object    `json:",omitempty"`
	ObjectCount int         `json:",omitempty"`
	// Times is how often the same happened meanwhile; 0 means once.
	Times int `json:",omitempty"`
}

// Whole says whether the entry holds all that was changed in the document.
func (e Entry) Whole() bool { return len(e.Objects) == e.ObjectCount }

// About says whether an entry is about a network.
func (e Entry) About(name spec.NetworkName) bool { return slices.Contains(e.Networks, name) }

// Entry is what remains of a change that turned had into t.Doc, or tried to.
func (t Txn) Entry(had spec.Document) Entry {
	e := Entry{
		Kind: EntryChange, ID: t.ID, Began: t.Began, By: t.By, Title: t.Title, Mends: t.Mends, Phase: t.Phase, Problem: t.Problem,
		Steps: slices.Concat(t.Steps, t.After), Objects: Objects(had, t.Doc),
	}
	switch t.By.Kind {
	case ByRepair:
		e.Kind = EntryRepair
	case ByFollow:
		e.Kind = EntryPort
	}
	e.StepCount, e.ObjectCount = len(e.Steps), len(e.Objects)
	named := map[spec.NetworkName]bool{}
	for _, o := range e.Objects {
		named[o.Network] = true
	}
	at := NetworksByBridge(had, t.Doc)
	for _, s := range e.Steps {
		if name, ok := NetworkOf(s.Key(), at); ok {
			named[name] = true
		}
	}
	for name := range named {
		e.Networks = append(e.Networks, name)
	}
	slices.Sort(e.Networks)
	if len(e.Steps) > mostSteps {
		e.Steps = e.Steps[:mostSteps]
	}
	if len(e.Objects) > mostObjects {
		e.Objects = e.Objects[:mostObjects]
	}
	return e
}

// Empty says that nothing was done that anybody would ask about.
func (e Entry) Empty() bool { return e.StepCount == 0 && e.ObjectCount == 0 && e.Phase == Confirmed }

// NetworksByBridge finds networks by the name of their bridge, or of the NIC that
// guests share; those of later documents first.
func NetworksByBridge(docs ...spec.Document) map[string]spec.NetworkName {
	at := map[string]spec.NetworkName{}
	for _, doc := range docs {
		for name, n := range doc.Networks {
			if on := n.GuestLink(); on != "" {
				at[on] = name
			}
		}
	}
	return at
}

// NetworkOf finds the network whose bridge is in the name of a thing: the link
// itself, its addresses, parameters, elements of sets and guest services.
func NetworkOf(k host.Key, at map[string]spec.NetworkName) (spec.NetworkName, bool) {
	for word := range strings.FieldsFuncSeq(k.Name, func(r rune) bool { return r == ' ' || r == '/' }) {
		if name, ok := at[word]; ok {
			return name, true
		}
	}
	return "", false
}

// Object is one thing in the document, before and after a change; nil is absent.
// Exactly one of the pairs is there.
type Object struct {
	Network spec.NetworkName
	// Bare is the network without its reservations and forwards.
	Bare        *Pair[spec.Network]     `json:",omitempty"`
	Reservation *Pair[spec.Reservation] `json:",omitempty"`
	Forward     *Pair[spec.Forward]     `json:",omitempty"`
}

// Pair is a thing before and after.
type Pair[T any] struct{ Before, After *T }

// Objects lists what differs between two documents, in a stable order: networks
// before what is in them.
func Objects(had, want spec.Document) []Object {
	var all []Object
	names := had.Names()
	for _, name := range want.Names() {
		if _, both := had.Networks[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		old, was := had.Networks[name]
		now, is := want.Networks[name]
		a, b := Bare(old), Bare(now)
		if was != is || !a.Equal(b) {
			pair := &Pair[spec.Network]{}
			if was {
				pair.Before = &a
			}
			if is {
				pair.After = &b
			}
			all = append(all, Object{Network: name, Bare: pair})
		}
		all = append(all, reservationObjects(name, old, now)...)
		for from, to := range old.Forwards.Changes(now.Forwards) {
			all = append(all, Object{Network: name, Forward: &Pair[spec.Forward]{from, to}})
		}
	}
	return all
}

// Bare is a network without what has entries of its own.
func Bare(n spec.Network) spec.Network {
	n.Forwards, n.Reservations = spec.Forwards{}, nil
	return n
}

func reservationObjects(name spec.NetworkName, old, now spec.Network) []Object {
	if slices.Equal(old.Reservations, now.Reservations) {
		return nil
	}
	var all []Object
	after := map[string]spec.Reservation{}
	for _, r := range now.Reservations {
		after[r.MAC] = r
	}
	for _, r := range old.Reservations {
		pair := &Pair[spec.Reservation]{Before: &r}
		if to, stays := after[r.MAC]; stays {
			delete(after, r.MAC)
			if to == r {
				continue
			}
			pair.After = &to
		}
		all = append(all, Object{Network: name, Reservation: pair})
	}
	for _, r := range now.Reservations {
		if _, fresh := after[r.MAC]; fresh {
			all = append(all, Object{Network: name, Reservation: &Pair[spec.Reservation]{After: &r}})
		}
	}
	return all
}

// Name is what the object is called within its network; "" for the network.
func (o Object) Name() string {
	switch {
	case o.Reservation != nil && o.Reservation.After != nil:
		return o.Reservation.After.MAC
	case o.Reservation != nil:
		return o.Reservation.Before.MAC
	case o.Forward != nil && o.Forward.After != nil:
		return o.Forward.After.Key()
	case o.Forward != nil:
		return o.Forward.Before.Key()
	}
	return ""
}

// Same says whether two objects are the same thing, at whatever time.
func (o Object) Same(p Object) bool {
	return o.Network == p.Network && (o.Bare == nil) == (p.Bare == nil) && (o.Forward == nil) == (p.Forward == nil) && o.Name() == p.Name()
}
