// Package host names the things on a host that a network is made of: links,
// addresses, routes, sysctls, nftables objects, guest services.
//
// It owns one type for each kind of thing, used for what is wanted and for what
// is seen alike, so that comparing, verifying and going back are pure functions.
// It does not know how anything is changed or why it is wanted.
//
// Start reading at Resource below; the kinds are in link.go, address.go, rules.go
// and services.go, the form on disk in json.go.
package host

import (
	"maps"
	"slices"
)

// Kind is the sort of a thing; together with a name it makes a Key.
type Kind string

// The closed set of kinds.
const (
	KindLink        Kind = "link"
	KindAddress     Kind = "address"
	KindRoute       Kind = "route"
	KindRule        Kind = "rule"
	KindNIC         Kind = "nic"
	KindSysctl      Kind = "sysctl"
	KindTable       Kind = "table"
	KindSet         Kind = "set"
	KindChain       Kind = "chain"
	KindElement     Kind = "element"
	KindPool        Kind = "dhcp-pool"
	KindReservation Kind = "reservation"
	KindRouter      Kind = "router-advertisement"
	KindZone        Kind = "dns-zone"
	KindGuest       Kind = "guest"
	KindResolver    Kind = "resolver"
	KindSnoop       Kind = "snoop"
	KindProfile     Kind = "profile"
	KindAccept      Kind = "accept"
	KindInZone      Kind = "firewalld-zone"
	KindUnmanaged   Kind = "unmanaged"
	KindFeature     Kind = "feature"
)

// Key identifies one thing on a host. Name is unique within its kind and is
// what a person would recognise.
type Key struct {
	Kind Kind
	Name string
}

// String writes the key as "kind name".
func (k Key) String() string { return string(k.Kind) + " " + k.Name }

// Compare orders keys by kind, then name.
func (k Key) Compare(o Key) int {
	if k.Kind != o.Kind {
		if k.Kind < o.Kind {
			return -1
		}
		return 1
	}
	switch {
	case k.Name < o.Name:
		return -1
	case k.Name > o.Name:
		return 1
	}
	return 0
}

// Resource is one thing on a host, wanted or seen. The implementations are the
// comparable value types of this package and no others; two resources are the
// same when Same says so, which is == but for time that runs.
type Resource interface {
	// Key identifies the resource; it does not depend on changeable attributes.
	Key() Key
	// Needs lists what must be there before this can be made, and must not be
	// taken away while this stays.
	Needs() []Key
	resource()
}

// State is a set of resources by key: what is wanted, or what is seen.
type State map[Key]Resource

// NewState makes a state of the given resources.
func NewState(rs ...Resource) State {
	s := make(State, len(rs))
	s.Add(rs...)
	return s
}

// Add puts resources into the state, replacing those of the same key.
func (s State) Add(rs ...Resource) {
	for _, r := range rs {
		s[r.Key()] = r
	}
}

// Keys lists the keys in a stable order.
func (s State) Keys() []Key { return slices.SortedFunc(maps.Keys(s), Key.Compare) }

// Only returns the part of the state that has the given keys.
func (s State) Only(keys []Key) State {
	out := make(State, len(keys))
	for _, k := range keys {
		if r, ok := s[k]; ok {
			out[k] = r
		}
	}
	return out
}

// Wish is what a change asks for: things that shall be there as described, and
// things that shall not be there.
type Wish struct {
	Present State
	Absent  map[Key]bool
	// Given are things of the host's own that the change carries from one place
	// to another: each shall be so (or, if nil, not be there) once it is done.
	// Nobody claims them: from then on they are the host's again, and whoever
	// manages the host may change them.
	Given State
}

// NewWish returns an empty wish.
func NewWish() Wish { return Wish{Present: State{}, Absent: map[Key]bool{}, Given: State{}} }

// Has says whether the wish is for the thing to be there.
func (w Wish) Has(k Key) bool { return w.Present[k] != nil || w.Given[k] != nil }

// ClaimKind says by what right we change a thing.
type ClaimKind string

const (
	// Made things did not exist before; when no longer wanted they are deleted.
	Made ClaimKind = "made"
	// Borrowed things were there; when no longer wanted they get back what
	// Claim.Original holds.
	Borrowed ClaimKind = "borrowed"
	// Left things gate the whole host (ip_forward): when no longer wanted they
	// stay, since others may rely on them by now.
	Left ClaimKind = "left"
)

// Claim is the right to one thing. Original is what a borrowed or left thing
// was before; nil for made ones.
type Claim struct {
	Kind     ClaimKind
	Original Resource
}

// Ledger is what we own. It is stored; everything else about the host is read
// from the host.
type Ledger map[Key]Claim

// Clone returns a ledger that can be changed without changing l.
func (l Ledger) Clone() Ledger {
	out := make(Ledger, len(l))
	maps.Copy(out, l)
	return out
}

// Sight is what was seen at one moment. Nobody changes it: whoever gets the same
// pointer again knows that nothing is different.
type Sight struct{ State State }
