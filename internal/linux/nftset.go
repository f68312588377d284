package linux

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// Numbers that golang.org/x/sys/unix lacks; include/uapi/linux/netfilter/nf_tables.h.
const (
	nftSetConcat      = 0x80 // NFT_SET_CONCAT
	nftaSetDescConcat = 2    // NFTA_SET_DESC_CONCAT
	nftaSetElemKeyEnd = 10   // NFTA_SET_ELEM_KEY_END
	nftaSetExpr       = 17   // NFTA_SET_EXPR
	nftaSetExprs      = 18   // NFTA_SET_EXPRESSIONS
	nftaSetHandle     = 16   // NFTA_SET_HANDLE
	nftaSetCount      = 20   // NFTA_SET_COUNT, since Linux 6.16
)

// nftSet is a set or map: as it is wanted, or as the kernel described it.
type nftSet struct {
	table    host.Table
	name     string
	keys     []*nftDatatype
	values   []*nftDatatype // what a map yields, nil for sets and verdict maps
	verdict  bool
	interval bool
	// anonymous sets are written in a rule and live with it; id names them
	// within a transaction.
	anonymous bool
	id        uint32
	elements  []nftElement
	// count is how many elements the kernel has, if it tells (counted).
	count   int
	counted bool
	// oddity says what somebody else gave the set that we cannot describe; its
	// elements are not read then.
	oddity string
}

// nftElement is one element. data is what a map yields, in nft's words.
type nftElement struct {
	span
	data string
}

func newSet(s host.Set) (*nftSet, error) {
	set := &nftSet{table: s.Table, name: s.Name, interval: s.Interval, verdict: s.Value == typeVerdict}
	if !isName(s.Name) {
		return nil, fmt.Errorf("%q is not the name of a set", s.Name)
	}
	var err error
	if set.keys, err = typesNamed(s.Type); err != nil {
		return nil, err
	}
	if s.Value != "" && !set.verdict {
		set.values, err = typesNamed(s.Value)
	}
	return set, err
}

// resource is the set as others know it.
func (s *nftSet) resource() host.Set {
	r := host.Set{Table: s.table, Name: s.name, Type: nameOf(s.keys), Interval: s.interval, Value: nameOf(s.values)}
	if s.verdict {
		r.Value = typeVerdict
	}
	if s.oddity != "" {
		r.Type = strings.TrimSpace(r.Type + " # " + s.oddity)
	}
	return r
}

func (s *nftSet) isMap() bool { return s.verdict || s.values != nil }

// ranged sets of one member hold both ends of an interval as two elements; those
// of several members (NFT_SET_CONCAT) hold one element with two keys.
func (s *nftSet) paired() bool   { return s.interval && len(s.keys) == 1 }
func (s *nftSet) twoKeyed() bool { return s.interval && len(s.keys) > 1 }

func (s *nftSet) flags() uint32 {
	var f uint32
	for flag, on := range map[uint32]bool{
		unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT: s.anonymous,
		unix.NFT_SET_INTERVAL:                          s.interval,
		unix.NFT_SET_MAP:                               s.isMap(),
		nftSetConcat:                                   s.twoKeyed(),
	} {
		if on {
			f |= flag
		}
	}
	return f
}

// encode is the body of NFT_MSG_NEWSET.
func (s *nftSet) encode() []byte {
	b := putText(nil, unix.NFTA_SET_TABLE, s.table.Name)
	b = putText(b, unix.NFTA_SET_NAME, s.name)
	b = putU32(b, unix.NFTA_SET_FLAGS, s.flags())
	b = putU32(b, unix.NFTA_SET_KEY_TYPE, numberOf(s.keys))
	b = putU32(b, unix.NFTA_SET_KEY_LEN, uint32(widthOf(s.keys)))
	switch {
	case s.verdict:
		b = putU32(b, unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
	case s.values != nil:
		b = putU32(b, unix.NFTA_SET_DATA_TYPE, numberOf(s.values))
		b = putU32(b, unix.NFTA_SET_DATA_LEN, uint32(widthOf(s.values)))
	}
	var desc []byte
	if s.anonymous {
		desc = putU32(desc, unix.NFTA_SET_DESC_SIZE, uint32(len(s.items(s.elements))))
	}
	if s.twoKeyed() {
		var fields []byte
		for _, t := range s.keys {
			fields = putNest(fields, unix.NFTA_LIST_ELEM, putU32(nil, 1 /* NFTA_SET_FIELD_LEN */, uint32(t.size)))
		}
		desc = putNest(desc, nftaSetDescConcat, fields)
	}
	if desc != nil {
		b = putNest(b, unix.NFTA_SET_DESC, desc)
	}
	b = putU32(b, unix.NFTA_SET_ID, s.id)
	// nft needs the byte orders to print values; the kernel does not care.
	udata := userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, byteOrder(s.keys))
	if s.values != nil {
		udata = userdata.AppendUint32(udata, userdata.NFTNL_UDATA_SET_DATABYTEORDER, byteOrder(s.values))
	}
	return put(b, unix.NFTA_SET_USERDATA, udata)
}

// byteOrder is nft's enum byteorder: 1 the processor's, 2 big endian, 0 for
// concatenations, whose members have their own.
func byteOrder(types []*nftDatatype) uint32 {
	switch {
	case len(types) > 1:
		return 0
	case types[0].native:
		return 1
	}
	return 2
}

// decodeSet reads a NFT_MSG_NEWSET.
func decodeSet(table host.Table, b []byte) *nftSet {
	s := &nftSet{table: table}
	var flags, keyLen, dataType, dataLen uint32
	var odd []string
	for a := range nftAttrs(b) {
		var err error
		switch a.kind {
		case unix.NFTA_SET_NAME:
			s.name = a.text()
		case unix.NFTA_SET_FLAGS:
			flags = a.u32()
		case unix.NFTA_SET_KEY_TYPE:
			s.keys, err = typesNumbered(a.u32())
		case unix.NFTA_SET_KEY_LEN:
			keyLen = a.u32()
		case unix.NFTA_SET_DATA_TYPE:
			dataType = a.u32()
		case unix.NFTA_SET_DATA_LEN:
			dataLen = a.u32()
		case nftaSetExpr, nftaSetExprs:
			odd = append(odd, "statements on elements")
		case nftaSetCount:
			s.count, s.counted = int(a.u32()), true
		case unix.NFTA_SET_DESC:
			if size, ok := find(a.data, unix.NFTA_SET_DESC_SIZE); ok && flags&unix.NFT_SET_ANONYMOUS == 0 {
				odd = append(odd, fmt.Sprintf("size %d", size.u32()))
			}
		}
		if err != nil {
			odd = append(odd, err.Error())
		}
	}
	s.anonymous, s.interval = flags&unix.NFT_SET_ANONYMOUS != 0, flags&unix.NFT_SET_INTERVAL != 0
	if flags&unix.NFT_SET_MAP != 0 {
		var err error
		if s.verdict = dataType == unix.NFT_DATA_VERDICT; !s.verdict {
			s.values, err = typesNumbered(dataType)
		}
		if err != nil || s.values != nil && int(dataLen) != widthOf(s.values) {
			odd = append(odd, fmt.Sprintf("values of type %d, %d bytes", dataType, dataLen))
		}
	}
	if flags != s.flags() {
		odd = append(odd, fmt.Sprintf("flags 0x%x", flags))
	}
	if s.keys != nil && int(keyLen) != widthOf(s.keys) {
		odd = append(odd, fmt.Sprintf("keys of %d bytes", keyLen))
	}
	s.oddity = strings.Join(odd, ", ")
	return s
}

// canonical describes a set written in a rule, for comparison.
func (s *nftSet) canonical() string {
	lines := make([]string, 0, len(s.elements))
	for _, e := range s.elements {
		lines = append(lines, formatSpan(s.keys, e.span)+" : "+e.data)
	}
	slices.Sort(lines)
	r := s.resource()
	return fmt.Sprintf("%s %s %t { %s }", r.Type, r.Value, r.Interval, strings.Join(lines, ", "))
}
