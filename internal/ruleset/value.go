package ruleset

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// named are words for numbers.
var named = map[string]map[uint64]string{
	"proto":     {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 50: "esp", 51: "ah", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"},
	"ethertype": {0x800: "ip", 0x806: "arp", 0x86dd: "ip6", 0x8100: "8021q"},
	"nfproto":   {2: "ipv4", 10: "ipv6"},
	"pkttype":   {0: "host", 1: "broadcast", 2: "multicast", 3: "other"},
	"direction": {0: "original", 1: "reply"},
	"fibtype":   {0: "unspec", 1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"},
}

// flags are words for bits.
var flags = map[string][]string{
	"state":  {"invalid", "established", "related", "new", "", "", "untracked"},
	"status": {"expected", "seen-reply", "assured", "confirmed", "snat", "dnat", "", "", "", "dying"},
}

// native kinds are numbers in the processor's byte order.
func native(kind string) bool {
	switch kind {
	case "native", "mark", "state", "status", "fibtype":
		return true
	}
	return false
}

func sizeOf(x word) int {
	switch x.kind {
	case "name":
		return 16
	case "native", "mark", "state", "status", "fibtype":
		return 4
	case "ethertype", "port":
		return 2
	case "proto", "nfproto", "pkttype", "direction":
		return 1
	}
	return x.full
}

func number(kind string, b []byte) (uint64, bool) {
	switch len(b) {
	case 1:
		return uint64(b[0]), true
	case 2:
		if native(kind) {
			return uint64(binary.NativeEndian.Uint16(b)), true
		}
		return uint64(binary.BigEndian.Uint16(b)), true
	case 4:
		if native(kind) {
			return uint64(binary.NativeEndian.Uint32(b)), true
		}
		return uint64(binary.BigEndian.Uint32(b)), true
	}
	return 0, false
}

// format writes a value as nft does.
func format(x word, b []byte) string {
	switch x.kind {
	case "addr":
		if p, ok := prefix(x, b); ok {
			return p
		}
	case "name":
		text := string(b)
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return strconv.Quote(text[:i])
		}
		if len(b) < 16 {
			text += "*" // a comparison of the beginning only
		}
		return strconv.Quote(text)
	case "mac":
		parts := make([]string, len(b))
		for i, one := range b {
			parts[i] = fmt.Sprintf("%02x", one)
		}
		return strings.Join(parts, ":")
	}
	n, ok := number(x.kind, b)
	if !ok {
		return fmt.Sprintf("0x%x", b)
	}
	if text, ok := named[x.kind][n]; ok {
		return text
	}
	if bits := flags[x.kind]; bits != nil {
		return bitWords(bits, n)
	}
	switch x.kind {
	case "port", "number", "native", "proto":
		return strconv.FormatUint(n, 10)
	}
	return fmt.Sprintf("0x%x", n)
}

func bitWords(names []string, n uint64) string {
	var words []string
	for i, name := range names {
		if n&(1<<i) != 0 && name != "" {
			words = append(words, name)
			n &^= 1 << i
		}
	}
	if n != 0 || len(words) == 0 {
		words = append(words, fmt.Sprintf("0x%x", n))
	}
	return strings.Join(words, ",")
}

// prefix writes an address, of which perhaps only the first bytes or those under
// a mask are compared.
func prefix(x word, b []byte) (string, bool) {
	full, bits := 4, len(b)*8
	if x.full == 16 || len(b) > 4 {
		full = 16
	}
	if len(x.mask) == len(b) && x.mask != nil {
		bits = 0
		for _, m := range x.mask {
			for bit := byte(0x80); bit != 0 && m&bit != 0; bit >>= 1 {
				bits++
			}
		}
	}
	a, ok := netip.AddrFromSlice(append(bytes.Clone(b), make([]byte, max(0, full-len(b)))...))
	if !ok {
		return "", false
	}
	if bits == full*8 {
		return a.String(), true
	}
	return netip.PrefixFrom(a, bits).String(), true
}

// span writes an interval: one value, a prefix, or both ends.
func span(x word, first, last []byte) string {
	if bytes.Equal(first, last) {
		return format(x, first)
	}
	if x.kind == "addr" && len(first) == len(last) {
		bits, rest := 0, false
		for i := range first {
			for bit := byte(0x80); bit != 0; bit >>= 1 {
				switch same := first[i]&bit == last[i]&bit; {
				case same && !rest:
					bits++
				case first[i]&bit != 0 || last[i]&bit == 0:
					return format(x, first) + "-" + format(x, last)
				default:
					rest = true
				}
			}
		}
		return fmt.Sprintf("%s/%d", format(x, first), bits)
	}
	return format(x, first) + "-" + format(x, last)
}
