package ruleset

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// word is what a register holds, in nft's words.
type word struct {
	text, kind string
	// mask is set after a Bitwise, cut where only the first bytes were loaded.
	mask []byte
	full int
	// constant bytes were loaded, not asked for.
	constant []byte
}

// writer follows a rule's registers to write it down.
type writer struct {
	regs map[int]word
	out  []string
}

func (w *writer) flush() {}

func (w *writer) add(format string, args ...any) { w.out = append(w.out, fmt.Sprintf(format, args...)) }

// field names a header's bytes; wide are those that two fields share.
type field struct {
	base, offset, size int
	text, kind         string
}

var headerFields = []field{
	{LinkHeader, 0, 6, "ether daddr", "mac"}, {LinkHeader, 6, 6, "ether saddr", "mac"}, {LinkHeader, 12, 2, "ether type", "ethertype"},
	{NetworkHeader, 8, 1, "ip ttl", "number"}, {NetworkHeader, 9, 1, "ip protocol", "proto"}, {NetworkHeader, 12, 4, "ip saddr", "addr"},
	{NetworkHeader, 16, 4, "ip daddr", "addr"}, {NetworkHeader, 6, 1, "ip6 nexthdr", "proto"},
	{NetworkHeader, 8, 16, "ip6 saddr", "addr"}, {NetworkHeader, 24, 16, "ip6 daddr", "addr"},
	{TransportHeader, 0, 2, "th sport", "port"}, {TransportHeader, 2, 2, "th dport", "port"},
	{TransportHeader, 0, 1, "icmp type", "number"}, {TransportHeader, 1, 1, "icmp code", "number"}, {TransportHeader, 13, 1, "tcp flags", "hex"},
}

// fieldsAt names the fields that bytes of a header cover, several if they lie
// beside each other.
func fieldsAt(base, offset, size int) []field {
	if size > 0 && base == NetworkHeader && offset == 12 && size <= 4 || base == NetworkHeader && offset == 16 && size < 4 {
		// The first bytes of an address: a prefix.
		i := slices.IndexFunc(headerFields, func(f field) bool { return f.base == base && f.offset == offset })
		return headerFields[i : i+1]
	}
	if base == NetworkHeader && (offset == 8 || offset == 24) && size > 2 && size < 16 {
		i := slices.IndexFunc(headerFields, func(f field) bool { return f.base == base && f.offset == offset && f.size == 16 })
		return headerFields[i : i+1]
	}
	var found []field
	for size > 0 {
		i := slices.IndexFunc(headerFields, func(f field) bool { return f.base == base && f.offset == offset && f.size == size })
		if i < 0 {
			i = slices.IndexFunc(headerFields, func(f field) bool { return f.base == base && f.offset == offset && f.size < size && f.size > 1 })
		}
		if i < 0 {
			return nil
		}
		found = append(found, headerFields[i])
		offset, size = offset+headerFields[i].size, size-headerFields[i].size
	}
	return found
}

var (
	metaWords = map[uint32]word{
		MetaLen: {text: "meta length", kind: "number"}, MetaProtocol: {text: "meta protocol", kind: "ethertype"}, MetaMark: {text: "meta mark", kind: "mark"},
		MetaIIF: {text: "iif", kind: "native"}, MetaOIF: {text: "oif", kind: "native"}, MetaIIFName: {text: "iifname", kind: "name"}, MetaOIFName: {text: "oifname", kind: "name"},
		MetaIIFType: {text: "iiftype", kind: "native"}, MetaOIFType: {text: "oiftype", kind: "native"}, MetaSkUID: {text: "meta skuid", kind: "native"}, MetaSkGID: {text: "meta skgid", kind: "native"},
		MetaNFProto: {text: "meta nfproto", kind: "nfproto"}, MetaL4Proto: {text: "meta l4proto", kind: "proto"}, MetaBridgeIn: {text: "meta ibrname", kind: "name"},
		MetaBridgeOut: {text: "meta obrname", kind: "name"}, MetaPacketType: {text: "meta pkttype", kind: "pkttype"}, MetaIIFGroup: {text: "iifgroup", kind: "native"},
		MetaOIFGroup: {text: "oifgroup", kind: "native"}, MetaIIFKind: {text: "meta iifkind", kind: "name"}, MetaOIFKind: {text: "meta oifkind", kind: "name"}, MetaTrace: {text: "meta nftrace", kind: "native"},
	}
	ctWords = map[uint32]word{
		CtState: {text: "state", kind: "state"}, CtDirection: {text: "direction", kind: "direction"}, CtStatus: {text: "status", kind: "status"}, CtMark: {text: "mark", kind: "mark"},
		CtHelper: {text: "helper", kind: "name"}, CtL3Proto: {text: "l3proto", kind: "nfproto"}, CtProtocol: {text: "protocol", kind: "proto"}, CtSource: {text: "saddr", kind: "addr"}, CtTarget: {text: "daddr", kind: "addr"},
		CtPortFrom: {text: "proto-src", kind: "port"}, CtPortTo: {text: "proto-dst", kind: "port"}, CtZone: {text: "zone", kind: "native"},
		CtSource4: {text: "ip saddr", kind: "addr"}, CtTarget4: {text: "ip daddr", kind: "addr"}, CtSource6: {text: "ip6 saddr", kind: "addr"}, CtTarget6: {text: "ip6 daddr", kind: "addr"},
	}
	comparisons = [...]string{"", "!= ", "< ", "<= ", "> ", ">= "}
)

// load remembers what a register holds; a member of a concatenation lies in a
// register of its own.
func (w *writer) load(dst int, x word) { w.regs[dst] = x }

func (w *writer) write(e Expr) {
	switch e := e.(type) {
	case Payload:
		found := fieldsAt(e.Base, e.Offset, e.Len)
		if found == nil {
			w.load(e.Dst, word{text: fmt.Sprintf("@%s,%d,%d", [...]string{"ll", "nh", "th", "ih"}[e.Base&3], e.Offset*8, e.Len*8), kind: "hex"})
			return
		}
		at := e.Dst
		for _, f := range found {
			w.load(at, word{text: f.text, kind: f.kind, full: f.size})
			at += f.size
		}
	case Meta:
		x, ok := metaWords[e.Key]
		if !ok {
			x = word{text: fmt.Sprintf("meta %d", e.Key), kind: "hex"}
		}
		w.load(e.Dst, x)
	case Ct:
		x, ok := ctWords[e.Key]
		if !ok {
			x = word{text: fmt.Sprintf("%d", e.Key), kind: "hex"}
		}
		direction := map[int]string{0: "original ", 1: "reply "}[e.Direction]
		w.load(e.Dst, word{text: "ct " + direction + x.text, kind: x.kind})
	case Bitwise:
		x := w.regs[e.Src]
		x.mask = e.Mask
		w.load(e.Dst, x)
	case Byteorder:
		w.load(e.Dst, w.regs[e.Src])
	case Immediate:
		w.load(e.Dst, word{constant: e.Data, kind: "hex"})
	case Fib:
		w.load(e.Dst, fibWord(e))
	case Other:
		if e.Dst == NoRegister {
			w.add("%s", e.Name)
		} else {
			w.load(e.Dst, word{text: e.Name, kind: "hex"})
		}
	case Cmp:
		w.compare(e)
	case Range:
		x := w.regs[e.Src]
		w.add("%s %s%s-%s", x.text, map[bool]string{true: "!= "}[e.Invert], format(x, e.From), format(x, e.To))
	case Lookup:
		w.lookup(e)
	default:
		w.act(e)
	}
}

func fibWord(e Fib) word {
	var parts []string
	for bit, name := range []string{"saddr", "daddr", "mark", "iif", "oif"} {
		if e.Flags&(1<<bit) != 0 {
			parts = append(parts, name)
		}
	}
	x := word{text: "fib " + strings.Join(parts, " . ") + " type", kind: "fibtype"}
	switch e.Result {
	case FibResultIndex:
		x = word{text: "fib " + strings.Join(parts, " . ") + " oif", kind: "native"}
	case FibResultName:
		x = word{text: "fib " + strings.Join(parts, " . ") + " oifname", kind: "name"}
	}
	return x
}

// compare writes a comparison; one that covers several fields is written as one
// for each.
func (w *writer) compare(e Cmp) {
	at, data := e.Src, e.Data
	for len(data) > 0 {
		x, ok := w.regs[at]
		if !ok {
			w.add("0x%x", data)
			return
		}
		n := len(data)
		if _, more := w.regs[at+x.full]; more && x.full > 0 && x.full < n {
			n = x.full
		}
		op := comparisons[e.Op%uint32(len(comparisons))]
		// Bits of a state: "not zero under the mask" means any of them.
		if x.mask != nil && e.Op == NotEqual && allZero(data) && (x.kind == "state" || x.kind == "status") {
			w.add("%s %s", x.text, format(word{kind: x.kind}, x.mask))
		} else if x.mask != nil && x.kind != "addr" {
			w.add("%s and %s %s%s", x.text, format(x, x.mask), cmpWord(op), format(x, data[:n]))
		} else {
			w.add("%s %s%s", x.text, op, format(x, data[:n]))
		}
		at, data = at+n, data[n:]
	}
}

func cmpWord(op string) string {
	if op == "" {
		return "== "
	}
	return op
}

func allZero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

// keyWords are the words of the registers that a key of some length covers.
func (w *writer) keyWords(src, n int) []word {
	var found []word
	for at := src; at < src+max(n, 1); at++ {
		if x, ok := w.regs[at]; ok {
			found = append(found, x)
		}
	}
	if len(found) == 0 {
		found = []word{{text: "?", kind: "hex"}}
	}
	return found
}

func (w *writer) lookup(e Lookup) {
	n := 1
	if e.Set != nil {
		n = e.Set.KeyLen
	}
	words := w.keyWords(e.Src, n)
	texts := make([]string, len(words))
	for i, x := range words {
		texts[i] = x.text
	}
	key := strings.Join(texts, " . ")
	set := "@" + e.Name
	if e.Set != nil && e.Set.Anonymous {
		set = "{ " + elementsText(words, e.Set) + " }"
	}
	switch {
	case e.Set != nil && e.Set.Verdicts:
		w.add("%s vmap %s", key, set)
	case e.Set != nil && e.Set.Map:
		w.load(e.Dst, word{text: key + " map " + set, kind: "hex"})
	default:
		w.add("%s %s%s", key, map[bool]string{true: "!= "}[e.Invert], set)
	}
}

// manyElements are more than are written out.
const manyElements = 12

func elementsText(words []word, s *Set) string {
	var parts []string
	// The kernel lists hash sets in an order of its own, another after each boot.
	all, _ := s.All()
	inOrder := slices.SortedFunc(slices.Values(all), func(a, b Element) int { return bytes.Compare(a.First, b.First) })
	for i, e := range inOrder {
		if i == manyElements {
			parts = append(parts, fmt.Sprintf("… %d more", len(inOrder)-i))
			break
		}
		text := "*"
		if !e.Rest {
			text = keyText(words, e)
		}
		if e.Verdict != nil {
			text += " : " + e.Verdict.String()
		} else if e.Data != nil {
			text += fmt.Sprintf(" : 0x%x", e.Data)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func keyText(words []word, e Element) string {
	if len(words) == 1 {
		return span(words[0], e.First, e.Last)
	}
	var parts []string
	at := 0
	for _, x := range words {
		n := sizeOf(x)
		if n == 0 || at+n > len(e.First) || at+n > len(e.Last) {
			return fmt.Sprintf("0x%x", e.First)
		}
		parts = append(parts, span(x, e.First[at:at+n], e.Last[at:at+n]))
		at += (n + 3) &^ 3
	}
	return strings.Join(parts, " . ")
}

// String writes a verdict as nft does.
func (v Verdict) String() string {
	names := map[VerdictKind]string{Drop: "drop", Accept: "accept", Continue: "continue", Return: "return", Jump: "jump", Goto: "goto", Queue: "queue"}
	name, ok := names[v.Kind]
	if !ok {
		name = fmt.Sprintf("verdict %d", v.Kind)
	}
	return strings.TrimSpace(name + " " + v.Chain)
}
