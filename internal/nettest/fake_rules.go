package nettest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"drawbridge/internal/host"
)

func (f *Fake) deleteTable(t host.Table) {
	for k, r := range f.state {
		var in host.Table
		switch r := r.(type) {
		case host.Set:
			in = r.Table
		case host.Chain:
			in = r.Table
		case host.Element:
			in = r.Table
		case host.Accept:
			in = r.Table
		default:
			continue
		}
		if in == t {
			delete(f.state, k)
			delete(f.born, k)
		}
	}
	f.drop(t.Key())
}

// userOf finds a chain or an element that would be left pointing at nothing.
func (f *Fake) userOf(k host.Key) *host.Key {
	for other, r := range f.state {
		switch r := r.(type) {
		case host.Chain, host.Element:
			if e, ok := r.(host.Element); ok && host.SetKey(e.Table, e.Set) == k {
				continue // it goes with its set
			}
			for _, need := range r.Needs() {
				if need == k {
					return &other
				}
			}
		}
	}
	return nil
}

func (f *Fake) checkChain(want host.Chain) error {
	if (want.Hook == "") != (want.Type == "") {
		return errors.New("a base chain has a type and a hook")
	}
	if there, ok := f.state[want.Key()].(host.Chain); ok {
		if there.Hook != want.Hook || there.Type != want.Type {
			return errors.New("the hook of a chain cannot be changed")
		}
	}
	return nil
}

func (f *Fake) checkElement(want host.Element) error {
	set := f.state[host.SetKey(want.Table, want.Set)].(host.Set)
	if (set.Value != "") != (want.Data != "") {
		return fmt.Errorf("an element of %s, which holds %q and yields %q", set.Key(), set.Type, set.Value)
	}
	if n := len(strings.Split(set.Type, " . ")); n != len(strings.Split(want.Value, " . ")) {
		return fmt.Errorf("an element of %s has %d parts", set.Key(), n)
	}
	if !set.Interval {
		return nil
	}
	for k, r := range f.state {
		e, ok := r.(host.Element)
		if ok && e.Table == want.Table && e.Set == want.Set && k != want.Key() && overlap(e.Value, want.Value) {
			return fmt.Errorf("it overlaps with %s", e.Value)
		}
	}
	return nil
}

// overlap says whether two elements of an interval set match one packet: each
// part is equal, or two prefixes or ranges that meet.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, " . "), strings.Split(b, " . ")
	for i := range min(len(as), len(bs)) {
		if as[i] == bs[i] {
			continue
		}
		a1, a2, ok := bounds(as[i])
		b1, b2, ok2 := bounds(bs[i])
		if !ok || !ok2 || a2.Less(b1) || b2.Less(a1) {
			return false
		}
	}
	return true
}

// bounds reads an address, a prefix or a range of addresses.
func bounds(s string) (first, last netip.Addr, ok bool) {
	if from, to, ranged := strings.Cut(s, "-"); ranged {
		first, err := netip.ParseAddr(from)
		last, err2 := netip.ParseAddr(to)
		return first, last, err == nil && err2 == nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a, a, true
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return first, last, false
	}
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	return p.Masked().Addr(), last, true
}
