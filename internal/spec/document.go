// Package spec holds the words in which people ask for networks: the document,
// its networks, their subnets and reservations, and what makes them valid.
//
// It owns the meaning and the validity of what is wanted. It does not know
// kernels, faces or files, nor what a mode makes of a network (that is render).
// Everything is a value: an edit returns a new document and never changes the
// one it was given.
//
// Start reading at Document in document.go, then Network in network.go.
package spec

import (
	"maps"
	"slices"
)

// Document is all that is wanted of one host. The zero value is an empty
// document. Treat it as a value: With and Without return a new document that
// shares nothing mutable with the old one.
type Document struct {
	// Revision counts the committed changes; it only ever grows.
	Revision uint64
	// Networks by name. Never nil in a document made by this package.
	Networks map[NetworkName]Network
}

// Network returns the named network, or ErrNotFound.
func (d Document) Network(name NetworkName) (Network, error) {
	n, ok := d.Networks[name]
	if !ok {
		var there []string
		for other := range d.Networks {
			there = append(there, string(other))
		}
		return Network{}, missing("network", string(name), there)
	}
	return n.Clone(), nil
}

// Names lists the networks in a stable order.
func (d Document) Names() []NetworkName { return slices.Sorted(maps.Keys(d.Networks)) }

// With returns a copy of the document in which n stands under its name,
// whether or not one was there before.
func (d Document) With(n Network) Document {
	out := d.Clone()
	out.Networks[n.Name] = n.Clone()
	return out
}

// Without returns a copy that does not hold the named network.
func (d Document) Without(name NetworkName) Document {
	out := d.Clone()
	delete(out.Networks, name)
	return out
}

// Clone returns a copy that shares nothing mutable with d.
func (d Document) Clone() Document {
	out := Document{Revision: d.Revision, Networks: make(map[NetworkName]Network, len(d.Networks))}
	for name, n := range d.Networks {
		out.Networks[name] = n.Clone()
	}
	return out
}

// Equal says whether two documents ask for the same; the revision does not count.
func (d Document) Equal(o Document) bool {
	return maps.EqualFunc(d.Networks, o.Networks, Network.Equal)
}
