package linux

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// span is one element's key: everything from first to last, both included; a
// single value has the two equal. Members are padded as in widthOf.
type span struct {
	first, last []byte
}

// parseSpan reads a key of the given types: members joined by " . ", each a
// value, a prefix or a range. Only one spelling of a key is accepted, the one
// that formatSpan writes, so that what is wanted and what is seen are equal.
func parseSpan(types []*nftDatatype, interval bool, text string) (span, error) {
	members := strings.Split(text, " . ")
	if len(members) != len(types) {
		return span{}, fmt.Errorf("%q has %d members, %q has %d", text, len(members), nameOf(types), len(types))
	}
	var s span
	for i, t := range types {
		first, last, err := parseMember(t, interval, members[i])
		if err != nil {
			return span{}, err
		}
		if len(types) > 1 {
			first, last = pad(first), pad(last)
		}
		s.first, s.last = append(s.first, first...), append(s.last, last...)
	}
	if canon := formatSpan(types, s); canon != text {
		return span{}, fmt.Errorf("%q is written %q", text, canon)
	}
	return s, nil
}

func parseMember(t *nftDatatype, interval bool, text string) (first, last []byte, err error) {
	if t == typeName || !interval {
		first, err = t.parse(text)
		return first, first, err
	}
	if strings.Contains(text, "/") {
		return parsePrefix(t, text)
	}
	if from, to, ok := strings.Cut(text, "-"); ok && to != "" {
		if first, err = t.parse(from); err == nil {
			last, err = t.parse(to)
		}
		if err == nil {
			if t.native || bytes.Compare(first, last) > 0 {
				return nil, nil, fmt.Errorf("%q is not a range of %s", text, t.name)
			}
			return first, last, nil
		}
		// A word such as echo-request: not a range after all.
	}
	first, err = t.parse(text)
	return first, first, err
}

func parsePrefix(t *nftDatatype, text string) (first, last []byte, err error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().BitLen() != t.size*8 || t != typeIPv4 && t != typeIPv6 {
		return nil, nil, fmt.Errorf("%q is not a prefix of %s", text, t.name)
	}
	if p.Masked() != p {
		return nil, nil, fmt.Errorf("prefix %q has host bits", text)
	}
	first = p.Addr().AsSlice()
	mask := maskOf(p.Bits(), t.size)
	last = slices.Clone(first)
	for i := range last {
		last[i] |= ^mask[i]
	}
	return first, last, nil
}

// formatSpan writes a key as nft does: a prefix where the range is one.
func formatSpan(types []*nftDatatype, s span) string {
	members := make([]string, len(types))
	at := 0
	for i, t := range types {
		members[i] = formatMember(t, s.first[at:at+t.size], s.last[at:at+t.size])
		at += align4(t.size)
	}
	return strings.Join(members, " . ")
}

func formatMember(t *nftDatatype, first, last []byte) string {
	if bytes.Equal(first, last) {
		return t.format(first)
	}
	if t == typeIPv4 || t == typeIPv6 {
		if bits, ok := prefixLength(first, last); ok {
			return fmt.Sprintf("%s/%d", t.format(first), bits)
		}
	}
	return t.format(first) + "-" + t.format(last)
}

// prefixLength says how many leading bits a range holds fixed, if it is exactly
// all values with those bits.
func prefixLength(first, last []byte) (int, bool) {
	for bits := range len(first) * 8 {
		mask := maskOf(bits, len(first))
		same := true
		for i, m := range mask {
			same = same && first[i]&^m == 0 && last[i] == first[i]|^m
		}
		if same {
			return bits, true
		}
	}
	return 0, false
}

func maskOf(bits, size int) []byte {
	mask := make([]byte, size)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

func pad(b []byte) []byte { return append(slices.Clip(b), make([]byte, align4(len(b))-len(b))...) }

// after is the key that follows b in order; false if there is none.
func after(b []byte) ([]byte, bool) {
	b = slices.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return b, true
		}
	}
	return b, false
}

// before is the key that precedes b in order; false if there is none.
func before(b []byte) ([]byte, bool) {
	b = slices.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			return b, true
		}
	}
	return b, false
}
