package store

import (
	"maps"
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// edit is what turns one document and ledger into others. It is what the journal
// keeps of a change, and what a commit writes, so that neither grows with what
// stays as it is.
type edit struct {
	// Networks that are new or other than before, without their forwards.
	Networks map[spec.NetworkName]spec.Network `json:",omitempty"`
	Removed  []spec.NetworkName                `json:",omitempty"`
	Forwards map[spec.NetworkName]forwardEdit  `json:",omitempty"`
	Claims   host.Ledger                       `json:",omitempty"`
	Dropped  []host.Key                        `json:",omitempty"`
}

// forwardEdit is what becomes of the forwards of a network: those that are new or
// other than before, and the keys of those that are gone.
type forwardEdit struct {
	Put  []spec.Forward `json:",omitempty"`
	Gone []string       `json:",omitempty"`
}

// editOf finds what differs between two documents and two ledgers.
func editOf(had, want spec.Document, owned, owns host.Ledger) edit {
	e := edit{Networks: map[spec.NetworkName]spec.Network{}, Forwards: map[spec.NetworkName]forwardEdit{}, Claims: host.Ledger{}}
	for name, n := range want.Networks {
		old, there := had.Networks[name]
		plain, before := bare(n), bare(old)
		if !there || !plain.Equal(before) {
			e.Networks[name] = plain
		}
		e.forwards(name, old.Forwards, n.Forwards)
	}
	for name, old := range had.Networks {
		if _, stays := want.Networks[name]; !stays {
			e.Removed = append(e.Removed, name)
			e.forwards(name, old.Forwards, spec.Forwards{})
		}
	}
	for key, claim := range owns {
		if old, ok := owned[key]; !ok || old != claim {
			e.Claims[key] = claim
		}
	}
	for key := range owned {
		if _, stays := owns[key]; !stays {
			e.Dropped = append(e.Dropped, key)
		}
	}
	slices.Sort(e.Removed)
	slices.SortFunc(e.Dropped, host.Key.Compare)
	return e
}

// bare is a network without its forwards.
func bare(n spec.Network) spec.Network {
	n.Forwards = spec.Forwards{}
	return n
}

func (e *edit) forwards(name spec.NetworkName, had, want spec.Forwards) {
	var out forwardEdit
	for old, now := range had.Changes(want) {
		if now != nil {
			out.Put = append(out.Put, *now)
		} else {
			out.Gone = append(out.Gone, old.Key())
		}
	}
	if len(out.Put) > 0 || len(out.Gone) > 0 {
		e.Forwards[name] = out
	}
}

// apply makes the edit to a document and a ledger, which stay as they are.
func (e edit) apply(had spec.Document, owned host.Ledger) (spec.Document, host.Ledger) {
	doc, ledger := had.Clone(), owned.Clone()
	for name, n := range e.Networks {
		n.Forwards = doc.Networks[name].Forwards
		doc.Networks[name] = n
	}
	for name, change := range e.Forwards {
		n, there := doc.Networks[name]
		if !there {
			continue // it goes with its network
		}
		list := change.Put
		gone := map[string]bool{}
		for _, key := range change.Gone {
			gone[key] = true
		}
		for _, f := range change.Put {
			gone[f.Key()] = true
		}
		for f := range n.Forwards.All() {
			if !gone[f.Key()] {
				list = append(list, f)
			}
		}
		doc.Networks[name] = n.WithForwards(list)
	}
	for _, name := range e.Removed {
		delete(doc.Networks, name)
	}
	maps.Copy(ledger, e.Claims)
	for _, key := range e.Dropped {
		delete(ledger, key)
	}
	return doc, ledger
}
