package linux

import (
	"strings"
	"testing"

	"drawbridge/internal/host"
)

// FuzzCompileRule: whatever the text, the compiler answers, and what it takes
// it compiles to the same again, fits a netlink attribute, and is found again
// in the rule's user data.
func FuzzCompileRule(f *testing.F) {
	for where, rules := range grammar {
		for _, r := range rules {
			f.Add(strings.HasPrefix(where, "bridge"), r+` comment "why"`)
		}
	}
	f.Add(false, lineAdded+"meta raw AAAA.AAAA")
	lookup := grammarSet
	f.Fuzz(func(t *testing.T, inBridge bool, line string) {
		if _, err := parseForeignLine(line); err != nil && !strings.HasPrefix(line, "#") {
			t.Errorf("not a foreign line: %v", err)
		}
		family := host.FamilyInet
		if inBridge {
			family = host.FamilyBridge
		}
		rule, err := compileRule(family, line, lookup)
		if err != nil {
			return
		}
		one, err := rule.canonical(family)
		if err != nil {
			t.Fatalf("%q compiles and cannot be encoded: %v", line, err)
		}
		again, err := compileRule(family, joinComment(rule.text, rule.why), lookup)
		if err != nil {
			t.Fatalf("%q does not compile from its own parts: %v", line, err)
		}
		if two, err := again.canonical(family); err != nil || two != one {
			t.Errorf("%q compiles to\n%s\nand then to\n%s (%v)", line, one, two, err)
		}
		udata, err := rule.userData()
		if err != nil || len(udata) > udataMax {
			t.Fatalf("%q: %d bytes of user data, %v", line, len(udata), err)
		}
		text, why, hash := readUserData(udata)
		if why != rule.why || hash == "" && text != rule.text {
			t.Errorf("%q became %q, %q in user data", line, text, why)
		}
	})
}

// FuzzKernelAnswers: what others put into our tables is decoded without harm.
func FuzzKernelAnswers(f *testing.F) {
	rule, err := compileRule(host.FamilyInet, "ip daddr { 224.0.0.0/4, 255.255.255.255 } counter return", nil)
	if err != nil {
		f.Fatal(err)
	}
	exprs, err := rule.expressions(host.FamilyInet)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(exprs)
	set := rule.anonymousSets()[0]
	f.Add(set.encode())
	f.Add(set.encodeElements(set.elements)[0])
	f.Add([]byte{0, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		readUserData(b)
		decodeGeneration(b)
		foreignLine("", "", b, b)
		if _, err := canonicalRule(b, func(string) (*nftSet, error) { return set, nil }); err != nil {
			t.Errorf("comparing: %v", err)
		}
		decodeChain(inetTable, b)
		s := decodeSet(inetTable, b)
		s.resource()
		if s.oddity != "" || s.keys == nil {
			s = set
		}
		var raws []rawElement
		for item := range nftAttrs(b) {
			if raw, err := s.decodeItem(item.data); err == nil {
				raws = append(raws, raw)
			}
		}
		for _, e := range s.assemble(raws) {
			formatSpan(s.keys, e.span)
		}
	})
}

// FuzzSpan: what is taken as a key is written the same again.
func FuzzSpan(f *testing.F) {
	for _, k := range []string{"virbr0", "192.168.122.0/24", "10.0.0.1-10.0.0.9", "fd00::/64", "52:54:00:00:00:01", "80-90", "tcp", "0x00000010", "virbr0 . 10.0.0.0/8 . 80-90"} {
		for _, typ := range []string{"ifname", "ipv4_addr", "ipv6_addr", "ether_addr", "inet_service", "inet_proto", "mark", "ifname . ipv4_addr . inet_service"} {
			f.Add(typ, k, true)
		}
	}
	f.Fuzz(func(t *testing.T, typ, key string, interval bool) {
		types, err := typesNamed(typ)
		if err != nil {
			return
		}
		s, err := parseSpan(types, interval, key)
		if err != nil {
			return
		}
		if len(s.first) != widthOf(types) || len(s.last) != widthOf(types) {
			t.Fatalf("%q is %d and %d bytes, want %d", key, len(s.first), len(s.last), widthOf(types))
		}
		if got := formatSpan(types, s); got != key {
			t.Errorf("%q is written %q", key, got)
		}
	})
}
