// Package render compiles the document into what has to be on the host.
//
// It owns the modes, one file each, the ruleset, and the choices that people
// leave open (free subnets, bridge names, addresses). It does not know what is
// there now, except through Facts, nor how anything is done.
//
// Start reading at Mode and Modes below, then nat.go; rules.go has the ruleset.
// A new mode is a file with a type that implements Mode, and its name in Modes.
package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Mode is what one word in Network.Mode means.
type Mode interface {
	// Name is the word.
	Name() spec.ModeName
	// Summary says in one clause what guests get.
	Summary() string
	// Chains are the rules that networks of this mode jump to; they are there
	// whether or not such a network is, so that starting one changes elements only.
	Chains() []chain
	// Validate checks what is special to the mode in a settled network.
	Validate(spec.Network) error
	// Render says what a running network of this mode needs on the host.
	Render(spec.Network, Facts) (host.Wish, []Note, error)
}

// Modes is the only registration there is.
var Modes = []Mode{nat{}, isolated{}, bridged{}, direct{}}

// DefaultMode is what a network gets that names none.
const DefaultMode = spec.ModeName("nat")

// Note is a remark for the person who asked for a change, one line.
type Note string

// ModeOf finds the mode of a network; *spec.InvalidError if there is no such word.
func ModeOf(name spec.ModeName) (Mode, error) {
	var known []string
	for _, m := range Modes {
		if m.Name() == name {
			return m, nil
		}
		known = append(known, string(m.Name()))
	}
	return nil, &spec.InvalidError{Field: "mode", Reason: fmt.Sprintf("%q is not one of %s", name, strings.Join(known, ", "))}
}

// Validate checks a settled document: every network by itself, and all
// together for names and subnets that collide.
func Validate(d spec.Document) error {
	if err := d.ForwardConflict(); err != nil {
		return err
	}
	bridges, uplinks := map[string]spec.NetworkName{}, map[string]spec.NetworkName{}
	domains := map[string]spec.NetworkName{}
	names := d.Names()
	for i, name := range names {
		n := d.Networks[name]
		if err := ValidateNetwork(n); err != nil {
			return err
		}
		if other, taken := bridges[n.Bridge]; taken && n.Bridge != "" {
			return &spec.InvalidError{Field: "bridge", Reason: fmt.Sprintf("%q is the bridge of network %q already", n.Bridge, other)}
		}
		if other, taken := domains[n.Domain]; taken && n.Domain != "" {
			return &spec.InvalidError{Field: "domain", Reason: fmt.Sprintf("%q is the domain of network %q already", n.Domain, other)}
		}
		for _, u := range n.Uplinks {
			if other, taken := uplinks[u]; taken {
				return &spec.InvalidError{Field: "uplink", Reason: fmt.Sprintf("%q is an uplink of network %q already", u, other)}
			}
			uplinks[u] = name
		}
		bridges[n.Bridge], domains[n.Domain] = name, name
		for _, earlier := range names[:i] {
			if err := disjoint(n, d.Networks[earlier]); err != nil {
				return err
			}
		}
	}
	return nil
}

// ValidateNetwork checks a settled network by itself.
func ValidateNetwork(n spec.Network) error {
	mode, err := ModeOf(n.Mode)
	if err != nil {
		return err
	}
	if err := n.Validate(); err != nil {
		return err
	}
	if _, joins := mode.(joiner); !joins && (len(n.Uplinks) > 0 || n.Adopt || n.STP) {
		return &spec.InvalidError{Field: "uplink", Reason: fmt.Sprintf("a network of mode %s has a switch of its own; uplinks, adopted bridges and spanning tree are for mode bridged, or uplinks for mode direct", n.Mode)}
	}
	if !n.Tags.IsZero() && !IsDirect(n) {
		if err := TakesVLANs(n); err != nil {
			return err
		}
	}
	return mode.Validate(n)
}

func disjoint(a, b spec.Network) error {
	for _, s := range a.Subnets {
		for _, o := range b.Subnets {
			if s.Prefix.Overlaps(o.Prefix) {
				return &spec.InvalidError{Field: "subnet", Reason: fmt.Sprintf("%s overlaps %s of network %q", s.Prefix, o.Prefix, b.Name)}
			}
		}
	}
	return nil
}

// PortNames is what guests' ports are called, by this program and by libvirt.
const PortNames = "vnet*"

// Wish compiles all started networks of a valid document. The ruleset is part
// of it as soon as one network runs.
func Wish(d spec.Document, f Facts) (host.Wish, []Note, error) {
	all := host.NewWish()
	var notes []Note
	add := func(n spec.Network, w host.Wish, said []Note, err error) error {
		if err != nil {
			return fmt.Errorf("network %q: %w", n.Name, err)
		}
		maps.Copy(all.Present, w.Present)
		maps.Copy(all.Absent, w.Absent)
		maps.Copy(all.Given, w.Given)
		for _, note := range said {
			if !slices.Contains(notes, note) {
				notes = append(notes, note)
			}
		}
		return nil
	}
	f.ours, f.onLAN = bridgesOf(d), map[string]spec.NetworkName{}
	for name, n := range d.Networks {
		if n.Mode == (bridged{}).Name() {
			f.onLAN[n.Bridge] = name
		}
	}
	for _, n := range f.Leaving {
		mode, err := ModeOf(n.Mode)
		if err != nil {
			return all, nil, err
		}
		if j, joins := mode.(joiner); joins {
			w, said, err := j.Leave(n, f)
			if err := add(n, w, said, err); err != nil {
				return all, nil, err
			}
		}
	}
	for _, name := range d.Names() {
		n := d.Networks[name]
		if !n.Started {
			continue
		}
		mode, err := ModeOf(n.Mode)
		if err != nil {
			return all, nil, err
		}
		if f.HandsOff {
			all.Present.Add(host.Unmanaged{Links: PortNames})
		}
		w, said, err := mode.Render(n, f)
		if err := add(n, w, said, err); err != nil {
			return all, nil, err
		}
	}
	if len(all.Present) > 0 {
		all.Present.Add(Ruleset()...)
	}
	return all, notes, nil
}

// Ruleset is everything of the tables that does not depend on which networks
// there are.
func Ruleset() []host.Resource {
	rs := []host.Resource{routed, switched}
	for _, s := range sets {
		rs = append(rs, s)
	}
	for _, c := range allChains() {
		rs = append(rs, c.resource())
	}
	return rs
}

func allChains() []chain {
	chains := slices.Clone(baseChains)
	for _, m := range Modes {
		chains = append(chains, m.Chains()...)
	}
	return chains
}

// PortRules are the elements that guard a guest's tap on its switch.
func PortRules(tap string) []host.Resource {
	return []host.Resource{element(switched, setPorts, tap, "")}
}
