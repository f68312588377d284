package linux

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// rtaNextHopID is RTA_NH_ID of linux/rtnetlink.h.
const rtaNextHopID = 30

// oddAttribute names an attribute of a route that is neither carried over nor
// without meaning (padding, statistics); "" for those.
func oddAttribute(typ uint16) string {
	switch typ {
	case rtaNextHopID:
		return "next hop object (nhid)"
	case unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
		return "encapsulation (encap)"
	case unix.RTA_NEWDST:
		return "label (as)"
	case unix.RTA_PAD, unix.RTA_MFC_STATS, unix.RTA_UID, unix.RTA_IIF:
		return ""
	}
	return "attribute " + strconv.Itoa(int(typ))
}

// parseVia reads struct rtvia: an IPv6 next hop of an IPv4 route.
func parseVia(b []byte) netip.Addr {
	if len(b) < 3 {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(b[2:])
	return a
}

func encodeGateway(ae *netlink.AttributeEncoder, gateway netip.Addr, four bool) {
	switch {
	case !gateway.IsValid():
	case gateway.Is6() && four:
		via := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
		ae.Bytes(unix.RTA_VIA, append(via, gateway.AsSlice()...))
	default:
		ae.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
	}
}

// metricNames are the words for RTAX_*, by number (linux/rtnetlink.h).
var metricNames = []string{
	2: "mtu", 3: "window", 4: "rtt", 5: "rttvar", 6: "ssthresh", 7: "cwnd", 8: "advmss", 9: "reordering",
	10: "hoplimit", 11: "initcwnd", 12: "features", 13: "rto_min", 14: "initrwnd", 15: "quickack", 16: "congctl",
	17: "fastopen_no_cookie",
}

const (
	metricLock    = 1  // RTAX_LOCK: a bit for each metric that path MTU discovery may not change
	metricControl = 16 // RTAX_CC_ALGO: a name
)

// parseMetrics writes RTA_METRICS in words, in the order of their numbers.
func parseMetrics(ad *netlink.AttributeDecoder) string {
	values := map[uint16]string{}
	var lock uint32
	nested(ad, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case metricLock:
			lock = ad.Uint32()
		case metricControl:
			values[metricControl] = ad.String()
		default:
			values[ad.Type()] = strconv.FormatUint(uint64(ad.Uint32()), 10)
		}
	})
	var words []string
	for n := range uint16(32) {
		value, ok := values[n]
		if !ok {
			continue
		}
		name := strconv.Itoa(int(n))
		if int(n) < len(metricNames) && metricNames[n] != "" {
			name = metricNames[n]
		}
		words = append(words, name)
		if lock&(1<<n) != 0 {
			words = append(words, "lock")
		}
		words = append(words, value)
	}
	return strings.Join(words, " ")
}

// encodeMetrics is the inverse of parseMetrics; nil for none.
func encodeMetrics(text string) (attributes, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, nil
	}
	var lock uint32
	values := map[uint16]string{}
	for i := 0; i < len(words); i++ {
		n, err := metricNumber(words[i])
		if err != nil || i+1 >= len(words) {
			return nil, fmt.Errorf("metrics %q cannot be read", text)
		}
		i++
		if words[i] == "lock" && i+1 < len(words) {
			lock |= 1 << n
			i++
		}
		if _, err := strconv.ParseUint(words[i], 10, 32); err != nil && n != metricControl {
			return nil, fmt.Errorf("metrics %q cannot be read: %w", text, err)
		}
		values[n] = words[i]
	}
	return func(ae *netlink.AttributeEncoder) {
		if lock != 0 {
			ae.Uint32(metricLock, lock)
		}
		for n := range uint16(32) {
			value, ok := values[n]
			if ok && n == metricControl {
				ae.String(n, value)
			} else if ok {
				v, _ := strconv.ParseUint(value, 10, 32) // checked above
				ae.Uint32(n, uint32(v))
			}
		}
	}, nil
}

func metricNumber(name string) (uint16, error) {
	for n, known := range metricNames {
		if known == name {
			return uint16(n), nil
		}
	}
	n, err := strconv.ParseUint(name, 10, 5)
	return uint16(n), err
}

// sizeofNexthop is that of struct rtnexthop.
const sizeofNexthop = 8

// eachHop walks RTA_MULTIPATH: struct rtnexthop, each with attributes.
func eachHop(b []byte, each func(index int, flags, weight byte, attrs []byte)) {
	for len(b) >= sizeofNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < sizeofNexthop || length > len(b) {
			return
		}
		each(int(binary.NativeEndian.Uint32(b[4:])), b[2], b[3], b[sizeofNexthop:length])
		b = b[min((length+3)&^3, len(b)):]
	}
}

// parseHops writes the next hops as host.Route.Hops has them, and names what of
// them cannot be carried over.
func parseHops(b []byte, names map[int]string) (hops, odd string) {
	var all []string
	eachHop(b, func(index int, flags, weight byte, attrs []byte) {
		var words []string
		err := decode(attrs, 0, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.RTA_GATEWAY:
				a, _ := netip.AddrFromSlice(ad.Bytes())
				words = append(words, "via", a.String())
			case unix.RTA_VIA:
				words = append(words, "via", parseVia(ad.Bytes()).String())
			case unix.RTA_FLOW:
				words = append(words, "realm", strconv.FormatUint(uint64(ad.Uint32()), 10))
			default:
				if name := oddAttribute(ad.Type()); name != "" {
					odd = name
				}
			}
		})
		if err != nil {
			odd = "next hop: " + err.Error()
		}
		words = append(words, "dev", names[index], "weight", strconv.Itoa(int(weight)+1))
		if flags&unix.RTNH_F_ONLINK != 0 {
			words = append(words, "onlink")
		}
		all = append(all, strings.Join(words, " "))
	})
	return strings.Join(all, "; "), odd
}

// encodeHops is the inverse of parseHops; nil for none.
func (h *Host) encodeHops(hops string) ([]byte, error) {
	if hops == "" {
		return nil, nil
	}
	var out []byte
	for hop := range strings.SplitSeq(hops, "; ") {
		one := make([]byte, sizeofNexthop)
		ae := netlink.NewAttributeEncoder()
		words := strings.Fields(hop)
		for i := 0; i < len(words); i++ {
			if words[i] == "onlink" {
				one[2] |= unix.RTNH_F_ONLINK
				continue
			}
			if i++; i >= len(words) {
				return nil, fmt.Errorf("next hop %q cannot be read", hop)
			}
			var n uint64
			var err error
			switch words[i-1] {
			case "via":
				var a netip.Addr
				a, err = netip.ParseAddr(words[i])
				// All of one route are of its family, or RTA_VIA says which.
				encodeGateway(ae, a, a.Is6() && strings.Contains(hops, "."))
			case "dev":
				var l link
				l, err = h.rtnl.linkBy(0, words[i])
				binary.NativeEndian.PutUint32(one[4:], uint32(l.index))
			case "weight":
				n, err = strconv.ParseUint(words[i], 10, 9)
				one[3] = byte(n - 1)
			case "realm":
				n, err = strconv.ParseUint(words[i], 10, 32)
				ae.Uint32(unix.RTA_FLOW, uint32(n))
			default:
				err = fmt.Errorf("unknown word %q", words[i-1])
			}
			if err != nil {
				return nil, fmt.Errorf("next hop %q: %w", hop, err)
			}
		}
		attrs, err := ae.Encode()
		if err != nil {
			return nil, fmt.Errorf("next hop %q: %w", hop, err)
		}
		one = append(one, attrs...)
		binary.NativeEndian.PutUint16(one, uint16(len(one)))
		out = append(out, one...)
	}
	return out, nil
}

// routeLinks lists the indexes of the links that a route uses.
func routeLinks(m netlink.Message) ([]int, error) {
	var indexes []int
	err := decode(m.Data, unix.SizeofRtMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.RTA_OIF:
			indexes = append(indexes, int(ad.Uint32()))
		case unix.RTA_MULTIPATH:
			eachHop(ad.Bytes(), func(index int, _, _ byte, _ []byte) { indexes = append(indexes, index) })
		}
	})
	return indexes, err
}
