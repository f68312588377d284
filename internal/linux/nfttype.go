package linux

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// nftDatatype is one of nft's data types: how a value is written and what the
// kernel gets. The kernel knows only lengths; the numbers are nft's own
// (include/datatype.h) and make `nft list` show words.
type nftDatatype struct {
	name string
	id   uint32
	size int
	// native values are in the processor's byte order, all others big endian;
	// only those have an order that intervals can use.
	native bool
	parse  func(string) ([]byte, error)
	format func([]byte) string
}

// nftTypeBits is how many bits of a concatenation's number each member has
// (TYPE_BITS in nft's include/datatype.h).
const nftTypeBits = 6

// typeVerdict is nft's number for verdicts; the kernel has its own, 0xffffff00
// (NFT_DATA_VERDICT).
const typeVerdict = "verdict"

var (
	typeIPv4       = &nftDatatype{name: "ipv4_addr", id: 7, size: 4, parse: parseAddr(4), format: formatAddr}
	typeIPv6       = &nftDatatype{name: "ipv6_addr", id: 8, size: 16, parse: parseAddr(16), format: formatAddr}
	typeEther      = &nftDatatype{name: "ether_addr", id: 9, size: 6, parse: parseMAC, format: func(b []byte) string { return net.HardwareAddr(b).String() }}
	typeEtherType  = namedNumbers("ether_type", 10, 2, false, 16, nftName{"ip", 0x0800}, nftName{"arp", 0x0806}, nftName{"ip6", 0x86dd})
	typeARPOp      = namedNumbers("arp_op", 11, 2, false, 10, nftName{"request", 1}, nftName{"reply", 2})
	typeProto      = namedNumbers("inet_proto", 12, 1, false, 10, nftName{"icmp", 1}, nftName{"tcp", 6}, nftName{"udp", 17}, nftName{"dccp", 33}, nftName{"ipv6-icmp", 58}, nftName{"icmpv6", 58}, nftName{"sctp", 132}, nftName{"udplite", 136})
	typePort       = namedNumbers("inet_service", 13, 2, false, 10)
	typeICMP       = namedNumbers("icmp_type", 14, 1, false, 10, nftName{"echo-reply", 0}, nftName{"destination-unreachable", 3}, nftName{"redirect", 5}, nftName{"echo-request", 8}, nftName{"time-exceeded", 11}, nftName{"parameter-problem", 12})
	typeMark       = namedNumbers("mark", 19, 4, true, 16)
	typeCtState    = namedNumbers("ct_state", 26, 4, true, 16, nftName{"invalid", 1}, nftName{"established", 2}, nftName{"related", 4}, nftName{"new", 8}, nftName{"untracked", 64})
	typeCtDir      = namedNumbers("ct_dir", 27, 1, true, 10, nftName{"original", 0}, nftName{"reply", 1})
	typeCtStatus   = namedNumbers("ct_status", 28, 4, true, 16, nftName{"expected", 1}, nftName{"seen-reply", 2}, nftName{"assured", 4}, nftName{"confirmed", 8}, nftName{"snat", 16}, nftName{"dnat", 32}, nftName{"dying", 512})
	typeICMPv6     = namedNumbers("icmpv6_type", 29, 1, false, 10, nftName{"destination-unreachable", 1}, nftName{"packet-too-big", 2}, nftName{"time-exceeded", 3}, nftName{"parameter-problem", 4}, nftName{"echo-request", 128}, nftName{"echo-reply", 129}, nftName{"mld-listener-query", 130}, nftName{"mld-listener-report", 131}, nftName{"mld-listener-done", 132}, nftName{"nd-router-solicit", 133}, nftName{"nd-router-advert", 134}, nftName{"nd-neighbor-solicit", 135}, nftName{"nd-neighbor-advert", 136}, nftName{"nd-redirect", 137}, nftName{"mld2-listener-report", 143})
	typePktType    = namedNumbers("pkt_type", 31, 1, true, 10, nftName{"host", 0}, nftName{"broadcast", 1}, nftName{"multicast", 2}, nftName{"other", 3})
	typeFibAddr    = namedNumbers("fib_addrtype", 38, 4, true, 10, nftName{"unspec", 0}, nftName{"unicast", 1}, nftName{"local", 2}, nftName{"broadcast", 3}, nftName{"anycast", 4}, nftName{"multicast", 5}, nftName{"blackhole", 6}, nftName{"unreachable", 7}, nftName{"prohibit", 8})
	typeName       = &nftDatatype{name: "ifname", id: 41, size: 16, native: true, parse: parseName, format: cString}
	typeNFProto    = namedNumbers("nf_proto", 2, 1, true, 10, nftName{"ipv4", 2}, nftName{"ipv6", 10})
	allTypes       = []*nftDatatype{typeIPv4, typeIPv6, typeEther, typeEtherType, typeARPOp, typeProto, typePort, typeICMP, typeMark, typeCtState, typeCtDir, typeCtStatus, typeICMPv6, typePktType, typeFibAddr, typeName, typeNFProto}
	bitmaskOfWords = []*nftDatatype{typeCtState, typeCtStatus}
)

// isBitmask says whether several words of a type are or-ed together.
func (t *nftDatatype) isBitmask() bool { return slices.Contains(bitmaskOfWords, t) }

// typesNamed reads a set's type, "ifname . ipv4_addr".
func typesNamed(s string) ([]*nftDatatype, error) {
	var types []*nftDatatype
	for name := range strings.SplitSeq(s, " . ") {
		i := slices.IndexFunc(allTypes, func(t *nftDatatype) bool { return t.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown nftables type %q", name)
		}
		types = append(types, allTypes[i])
	}
	if len(types) > 32/nftTypeBits {
		return nil, fmt.Errorf("nftables type %q has more than %d members", s, 32/nftTypeBits)
	}
	return types, nil
}

// typesNumbered reads the number of a type as nft packs it.
func typesNumbered(id uint32) ([]*nftDatatype, error) {
	var types []*nftDatatype
	for rest := id; rest != 0; rest >>= nftTypeBits {
		one := rest & (1<<nftTypeBits - 1)
		i := slices.IndexFunc(allTypes, func(t *nftDatatype) bool { return t.id == one })
		if i < 0 {
			return nil, fmt.Errorf("unknown nftables type number %d", id)
		}
		types = append([]*nftDatatype{allTypes[i]}, types...)
	}
	if len(types) == 0 {
		return nil, fmt.Errorf("no nftables type")
	}
	return types, nil
}

func numberOf(types []*nftDatatype) (id uint32) {
	for _, t := range types {
		id = id<<nftTypeBits | t.id
	}
	return id
}

func nameOf(types []*nftDatatype) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.name
	}
	return strings.Join(names, " . ")
}

// widthOf is the length of a key: each member of a concatenation is padded to
// whole 32-bit registers, a single one is not.
func widthOf(types []*nftDatatype) int {
	if len(types) == 1 {
		return types[0].size
	}
	n := 0
	for _, t := range types {
		n += align4(t.size)
	}
	return n
}

type nftName struct {
	text  string
	value uint32
}

// namedNumbers makes a type whose values are numbers, some of which have names. The
// first name of a value is the one that is written. Base is 10, or 16 for
// numbers written 0x….
func namedNumbers(name string, id uint32, size int, native bool, base int, names ...nftName) *nftDatatype {
	return &nftDatatype{name: name, id: id, size: size, native: native,
		parse: func(s string) ([]byte, error) {
			v, err := strconv.ParseUint(s, 0, size*8)
			if i := slices.IndexFunc(names, func(w nftName) bool { return w.text == s }); i >= 0 {
				v, err = uint64(names[i].value), nil
			}
			if err != nil || hasLeadingZero(s) {
				return nil, fmt.Errorf("%q is not a %s", s, name)
			}
			return uintBytes(v, size, native), nil
		},
		format: func(b []byte) string {
			v := valueOf(b, native)
			if i := slices.IndexFunc(names, func(w nftName) bool { return uint64(w.value) == v }); i >= 0 {
				return names[i].text
			}
			if base == 16 {
				return fmt.Sprintf("0x%0*x", size*2, v)
			}
			return strconv.FormatUint(v, 10)
		}}
}

// hasLeadingZero catches numbers that Go would read as octal and nft not.
func hasLeadingZero(s string) bool {
	return len(s) > 1 && s[0] == '0' && s[1] != 'x' || strings.Contains(s, "_")
}

// uintBytes encodes v in size bytes: 1, 2 or 4.
func uintBytes(v uint64, size int, native bool) []byte {
	b := binary.BigEndian.AppendUint64(nil, v)[8-size:]
	if native && isLittleEndian {
		slices.Reverse(b)
	}
	return b
}

func valueOf(b []byte, native bool) (v uint64) {
	b = slices.Clone(b)
	if native && isLittleEndian {
		slices.Reverse(b)
	}
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

var isLittleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func parseAddr(size int) func(string) ([]byte, error) {
	return func(s string) ([]byte, error) {
		a, err := netip.ParseAddr(s)
		if err != nil || a.BitLen() != size*8 || a.Zone() != "" {
			return nil, fmt.Errorf("%q is not an address of %d bits", s, size*8)
		}
		return a.AsSlice(), nil
	}
}

func formatAddr(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

func parseMAC(s string) ([]byte, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("%q is not an Ethernet address", s)
	}
	return mac, nil
}

// parseName reads an interface name: at most 15 bytes (IFNAMSIZ with its NUL).
func parseName(s string) ([]byte, error) {
	if s == "" || len(s) > 15 || strings.ContainsAny(s, "*\" /\x00") {
		return nil, fmt.Errorf("%q is not an interface name", s)
	}
	return append([]byte(s), make([]byte, 16-len(s))...), nil
}
