package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
)

// Machine reads what a packet's way depends on beside the rules: links with
// their addresses, and a way to ask the kernel for routes, which it answers as it
// would for a packet: with its rules, tables, martians and reverse paths.
func (h *Host) Machine(ctx context.Context) (*diagnose.Host, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := h.rtnl.links()
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.index] = l.Name
	}
	addresses := map[int][]netip.Prefix{}
	if err := h.rtnl.addresses(0, func(a host.Address, index int) {
		addresses[index] = append(addresses[index], a.Addr)
	}); err != nil {
		return nil, err
	}
	vlans, err := h.filteredVLANs(links)
	if err != nil {
		return nil, err
	}
	m := &diagnose.Host{Links: make(map[string]diagnose.Link, len(links))}
	for _, l := range links {
		m.Links[l.Name] = diagnose.Link{
			Index: l.index, Type: l.hardware, Kind: l.Type, Group: l.group, Master: names[l.master], Lower: names[l.lower], Addresses: addresses[l.index],
			Up: l.Up, Carrier: l.carrier, MAC: l.MAC, MTU: l.MTU, Isolated: l.Isolated, Hairpin: l.Hairpin, Forward4: l.forwards4,
			NoLearning: l.port.noLearning, NoFlood: l.port.noFlood, NoBroadcast: l.port.noBroad, Locked: l.port.locked, Waits: l.waits(),
			Filters: l.Filter, VLANs: vlans[l.index], VID: l.VID,
		}
	}
	m.Forward6, m.BridgeCalls4, m.BridgeCalls6 = isOn("ipv6/conf/all/forwarding"), isOn("bridge/bridge-nf-call-iptables"), isOn("bridge/bridge-nf-call-ip6tables")
	m.Route = func(q diagnose.RouteQuery) (diagnose.RouteAnswer, bool) {
		r, err := h.routeFor(q, m.Links, names)
		return r, err == nil
	}
	return m, nil
}

// filteredVLANs are the VLANs of bridges that tell them apart, and of their
// ports, by index.
func (h *Host) filteredVLANs(links []link) (map[int]host.VLANSet, error) {
	if !slices.ContainsFunc(links, func(l link) bool { return l.Filter }) {
		return nil, nil
	}
	return h.rtnl.vlans(0)
}

// waits is what a port of a bridge does that is up and does not forward
// (BR_STATE_* in linux/if_bridge.h).
func (l link) waits() string {
	if l.portOf != host.TypeBridge || !l.Up || !l.carrier {
		return ""
	}
	return map[uint8]string{1: "listening", 2: "learning", 4: "blocking"}[l.port.state]
}

// routeFor asks the kernel for the way of a packet. With In it is one that
// arrives there.
func (h *Host) routeFor(q diagnose.RouteQuery, links map[string]diagnose.Link, names map[int]string) (diagnose.RouteAnswer, error) {
	none := diagnose.RouteAnswer{Type: unix.RTN_UNREACHABLE}
	if !q.Target.IsValid() || q.Source.IsValid() && q.Source.Is4() != q.Target.Is4() {
		return none, errors.New("a route is asked for between addresses of one family")
	}
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = byte(familyOfAddr(q.Target)), byte(q.Target.BitLen())
	if q.Source.IsValid() {
		header[2] = byte(q.Source.BitLen())
	}
	msgs, err := h.rtnl.do(unix.RTM_GETROUTE, netlink.Request, header, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.RTA_DST, q.Target.AsSlice())
		if q.Source.IsValid() {
			ae.Bytes(unix.RTA_SRC, q.Source.AsSlice())
		}
		if q.In != "" {
			ae.Uint32(unix.RTA_IIF, uint32(links[q.In].Index))
		}
		if q.Out != "" {
			ae.Uint32(unix.RTA_OIF, uint32(links[q.Out].Index))
		}
		if q.Mark != 0 {
			ae.Uint32(unix.RTA_MARK, q.Mark)
		}
		askOfTransport(ae, q)
	})
	switch {
	case isAny(err, unix.ENETUNREACH, unix.EHOSTUNREACH):
		none.Why = "no route"
		return none, nil
	case errors.Is(err, unix.EACCES):
		return diagnose.RouteAnswer{Type: unix.RTN_PROHIBIT, Why: "a route prohibits it"}, nil
	case errors.Is(err, unix.EXDEV):
		none.Why = "the reverse path filter (rp_filter): answers would leave by another link"
		return none, nil
	case errors.Is(err, unix.EINVAL):
		// The kernel says the same of several things: blackhole's error is EINVAL too
		// (fib_props in net/ipv4/fib_semantics.c, ip6_rt_type_to_error).
		switch {
		case q.Target.Is6():
			none.Why = "a route or a rule says blackhole"
		case q.In != "":
			none.Why = "an address that cannot come in there (martian), or a route or a rule says blackhole"
		case q.Source.IsLoopback():
			none.Why = "a loopback address does not leave the host there (route_localnet is off)"
		default:
			none.Why = "a route or a rule says blackhole"
		}
		return none, nil
	case err != nil || len(msgs) == 0:
		return none, fmt.Errorf("look up the way to %s: %w", q.Target, orEmpty(err))
	}
	return parseAnswer(msgs[0], names, q.In != "")
}

// askOfTransport adds what rules with ipproto, sport or dport look at. The kernel
// refuses to be asked of other protocols (rtm_getroute_parse_ip_proto).
func askOfTransport(ae *netlink.AttributeEncoder, q diagnose.RouteQuery) {
	switch {
	case q.Proto == unix.IPPROTO_TCP, q.Proto == unix.IPPROTO_UDP:
		ae.Uint8(unix.RTA_IP_PROTO, q.Proto)
		if q.SourcePort != 0 {
			ae.Bytes(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.SourcePort))
		}
		if q.TargetPort != 0 {
			ae.Bytes(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.TargetPort))
		}
	case q.Proto == unix.IPPROTO_ICMP && q.Target.Is4(), q.Proto == unix.IPPROTO_ICMPV6 && q.Target.Is6():
		ae.Uint8(unix.RTA_IP_PROTO, q.Proto)
	}
}

// parseAnswer reads a route; forwarded is one for what comes in. Of MTUs, what the
// kernel learnt of a path is in IPv4 not for what it forwards, and what the route
// says is (ip_dst_mtu_maybe_forward; in IPv6 since Linux 5.10).
func parseAnswer(m netlink.Message, names map[int]string, forwarded bool) (diagnose.RouteAnswer, error) {
	if len(m.Data) < unix.SizeofRtMsg {
		return diagnose.RouteAnswer{}, errCut
	}
	r := diagnose.RouteAnswer{Type: uint32(m.Data[7])}
	addr := func(b []byte) netip.Addr {
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	learnt := false
	err := decode(m.Data, unix.SizeofRtMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.RTA_METRICS:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if ad.Type() == unix.RTAX_MTU {
						r.MTU = int(ad.Uint32())
					}
				}
				return ad.Err()
			})
		case unix.RTA_CACHEINFO:
			// struct rta_cacheinfo: the third number is when it expires.
			if b := ad.Bytes(); len(b) >= 12 {
				learnt = binary.NativeEndian.Uint32(b[8:]) != 0
			}
		case unix.RTA_OIF:
			r.Out = names[int(ad.Uint32())]
		case unix.RTA_GATEWAY:
			r.Via = addr(ad.Bytes())
		case unix.RTA_VIA:
			r.Via = parseVia(ad.Bytes())
		case unix.RTA_PREFSRC:
			r.From = addr(ad.Bytes())
		}
	})
	if forwarded && learnt && m.Data[0] == unix.AF_INET {
		r.MTU = 0
	}
	return r, err
}

// isOn says whether a parameter below /proc/sys/net is not 0; what is not there
// is off.
func isOn(name string) bool {
	b, err := os.ReadFile("/proc/sys/net/" + name)
	return err == nil && strings.TrimSpace(string(b)) != "0"
}
