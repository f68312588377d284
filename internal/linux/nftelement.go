package linux

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// element reads an element as wanted. Data must be in the form that reading
// back gives.
func (s *nftSet) element(e host.Element) (nftElement, error) {
	sp, err := parseSpan(s.keys, s.interval, e.Value)
	if err != nil {
		return nftElement{}, err
	}
	data, err := s.dataText(e.Data)
	if err == nil && data != e.Data {
		err = fmt.Errorf("%q is written %q", e.Data, data)
	}
	return nftElement{sp, data}, err
}

// dataText checks and normalises what an element yields.
func (s *nftSet) dataText(text string) (string, error) {
	switch {
	case s.verdict:
		verb, chain, _ := strings.Cut(text, " ")
		v, err := parseVerdict(verb, chain)
		if err != nil {
			return "", err
		}
		return formatVerdict(v.Kind, v.Chain), nil
	case s.values != nil:
		b, err := s.dataBytes(text)
		return formatSpan(s.values, span{b, b}), err
	case text != "":
		return "", fmt.Errorf("a set yields nothing, not %q", text)
	}
	return "", nil
}

func (s *nftSet) dataBytes(text string) ([]byte, error) {
	members := strings.Split(text, " . ")
	if len(members) != len(s.values) {
		return make([]byte, widthOf(s.values)), fmt.Errorf("%q is not a %s", text, nameOf(s.values))
	}
	var b []byte
	for i, t := range s.values {
		one, err := t.parse(members[i])
		if err != nil {
			return make([]byte, widthOf(s.values)), err
		}
		if len(s.values) > 1 {
			one = pad(one)
		}
		b = append(b, one...)
	}
	return b, nil
}

var verdictWords = map[expr.VerdictKind]string{
	expr.VerdictAccept: "accept", expr.VerdictDrop: "drop", expr.VerdictReturn: "return", expr.VerdictContinue: "continue",
	expr.VerdictJump: "jump", expr.VerdictGoto: "goto",
}

func formatVerdict(kind expr.VerdictKind, chain string) string {
	verb, ok := verdictWords[kind]
	if !ok {
		verb = fmt.Sprintf("verdict %d", int32(kind))
	}
	return strings.TrimSpace(verb + " " + chain)
}

// addBraced adds an element of a set written in a rule, where any spelling goes.
func (s *nftSet) addBraced(key, data string) error {
	members := strings.Split(key, " . ")
	if len(members) != len(s.keys) {
		return fmt.Errorf("%q has %d members, wanted are %d", key, len(members), len(s.keys))
	}
	var e nftElement
	for i, t := range s.keys {
		first, last, err := parseMember(t, true, members[i])
		if err != nil {
			return err
		}
		s.interval = s.interval || !bytes.Equal(first, last)
		if len(s.keys) > 1 {
			first, last = pad(first), pad(last)
		}
		e.first, e.last = append(e.first, first...), append(e.last, last...)
	}
	var err error
	e.data, err = s.dataText(data)
	s.elements = append(s.elements, e)
	return err
}

// checkDistinct refuses braces in which values overlap or touch: nft would join
// them, and then we would not recognise our own rule.
func (s *nftSet) checkDistinct() error {
	slices.SortFunc(s.elements, func(a, b nftElement) int { return bytes.Compare(a.first, b.first) })
	for i := 1; i < len(s.elements); i++ {
		next, ok := after(s.elements[i-1].last)
		apart := ok && bytes.Compare(s.elements[i].first, next) > 0
		if !s.paired() {
			apart = !bytes.Equal(s.elements[i].first, s.elements[i-1].first)
		}
		if !apart {
			return errDuplicate
		}
	}
	return nil
}

// items are elements as the kernel takes them, encoded.
func (s *nftSet) items(elements []nftElement) [][]byte {
	var out [][]byte
	if s.anonymous && s.paired() && len(elements) > 0 && !allZero(elements[0].first) {
		// nft opens a set of intervals with the end of an empty one.
		out = append(out, endItem(make([]byte, widthOf(s.keys))))
	}
	for _, e := range elements {
		b := putNest(nil, unix.NFTA_SET_ELEM_KEY, put(nil, unix.NFTA_DATA_VALUE, e.first))
		if s.twoKeyed() {
			b = putNest(b, nftaSetElemKeyEnd, put(nil, unix.NFTA_DATA_VALUE, e.last))
		}
		if s.isMap() {
			b = putNest(b, unix.NFTA_SET_ELEM_DATA, s.encodeData(e.data))
		}
		end, bounded := after(e.last)
		if s.paired() && !bounded {
			// Tells nft that there is no end: NFTNL_UDATA_SET_ELEM_FLAGS with
			// NFTNL_SET_ELEM_F_INTERVAL_OPEN.
			b = put(b, unix.NFTA_SET_ELEM_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_ELEM_FLAGS, userdata.NFTNL_UDATA_SET_ELEM_F_INTERVAL_OPEN))
		}
		out = append(out, b)
		if s.paired() && bounded {
			out = append(out, endItem(end))
		}
	}
	return out
}

func endItem(key []byte) []byte {
	b := putU32(nil, unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	return putNest(b, unix.NFTA_SET_ELEM_KEY, put(nil, unix.NFTA_DATA_VALUE, key))
}

func (s *nftSet) encodeData(text string) []byte {
	if !s.verdict {
		b, _ := s.dataBytes(text)
		return put(nil, unix.NFTA_DATA_VALUE, b)
	}
	verb, chain, _ := strings.Cut(text, " ")
	v, err := parseVerdict(verb, chain)
	if err != nil {
		return nil
	}
	code := putU32(nil, unix.NFTA_VERDICT_CODE, uint32(int32(v.Kind)))
	if v.Chain != "" {
		code = putText(code, unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	return putNest(nil, unix.NFTA_DATA_VERDICT, code)
}

// listLimit keeps an element list within the 65535 bytes of an attribute.
const listLimit = 60000

// encodeElements makes the bodies of NFT_MSG_NEWSETELEM or DELSETELEM, as many
// as it takes.
func (s *nftSet) encodeElements(elements []nftElement) [][]byte {
	var bodies [][]byte
	var list []byte
	flush := func() {
		b := putText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.table.Name)
		b = putText(b, unix.NFTA_SET_ELEM_LIST_SET, s.name)
		b = putU32(b, unix.NFTA_SET_ELEM_LIST_SET_ID, s.id)
		bodies = append(bodies, putNest(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS, list))
		list = nil
	}
	for _, item := range s.items(elements) {
		if len(list)+len(item)+unix.NLA_HDRLEN > listLimit {
			flush()
		}
		list = putNest(list, unix.NFTA_LIST_ELEM, item)
	}
	if list != nil {
		flush()
	}
	return bodies
}

func allZero(b []byte) bool {
	return bytes.Count(b, []byte{0}) == len(b)
}

var errOddElement = errors.New("element that cannot be described")

// rawElement is one entry of an element list.
type rawElement struct {
	key, keyEnd []byte
	end         bool
	data        string
	oddity      string
}

// decodeItem reads one entry of an element list.
func (s *nftSet) decodeItem(b []byte) (rawElement, error) {
	var r rawElement
	for a := range nftAttrs(b) {
		switch a.kind {
		case unix.NFTA_SET_ELEM_KEY, nftaSetElemKeyEnd:
			v, ok := find(a.data, unix.NFTA_DATA_VALUE)
			if !ok || len(v.data) != widthOf(s.keys) {
				return r, errOddElement
			}
			if a.kind == nftaSetElemKeyEnd {
				r.keyEnd = v.data
			} else {
				r.key = v.data
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			r.end = a.u32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_DATA:
			r.data = s.decodeData(a.data)
		case unix.NFTA_SET_ELEM_TIMEOUT:
			r.oddity += " # timeout"
		case unix.NFTA_SET_ELEM_OBJREF:
			r.oddity += " # object"
		}
	}
	if r.key == nil {
		return r, errOddElement
	}
	return r, nil
}

func (s *nftSet) decodeData(b []byte) string {
	if v, ok := find(b, unix.NFTA_DATA_VALUE); ok && s.values != nil && len(v.data) == widthOf(s.values) {
		return formatSpan(s.values, span{v.data, v.data})
	}
	v, ok := find(b, unix.NFTA_DATA_VERDICT)
	if !ok {
		return fmt.Sprintf("# %x", b)
	}
	code, _ := find(v.data, unix.NFTA_VERDICT_CODE)
	chain, _ := find(v.data, unix.NFTA_VERDICT_CHAIN)
	return formatVerdict(expr.VerdictKind(int32(code.u32())), chain.text())
}

// assemble turns entries into elements; the two entries of an interval are
// found by order, since a set's intervals do not overlap.
func (s *nftSet) assemble(raws []rawElement) []nftElement {
	elements := make([]nftElement, 0, len(raws))
	if !s.paired() {
		for _, r := range raws {
			e := nftElement{span{r.key, r.key}, r.data + r.oddity}
			if r.keyEnd != nil {
				e.last = r.keyEnd
			}
			elements = append(elements, e)
		}
		return elements
	}
	slices.SortFunc(raws, func(a, b rawElement) int {
		if d := bytes.Compare(a.key, b.key); d != 0 {
			return d
		}
		if a.end == b.end {
			return 0
		} else if a.end {
			return -1
		}
		return 1
	})
	for i, r := range raws {
		if r.end {
			continue
		}
		last := bytes.Repeat([]byte{0xff}, len(r.key))
		if i+1 < len(raws) {
			last, _ = before(raws[i+1].key)
		}
		elements = append(elements, nftElement{span{r.key, last}, r.data + r.oddity})
	}
	return elements
}
