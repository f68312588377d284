package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// routeHeader is struct rtmsg.
func routeHeader(r host.Route) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	if r.Dst.IsValid() {
		b[0], b[1] = byte(familyOfAddr(r.Dst.Addr())), byte(r.Dst.Bits())
	}
	if r.From.IsValid() {
		b[2] = byte(r.From.Bits())
	}
	b[3] = byte(r.TOS)
	if r.Table < 256 {
		b[4] = byte(r.Table)
	}
	b[5], b[6], b[7] = byte(r.Protocol), routeScope(r), byte(r.Type)
	if r.OnLink {
		binary.NativeEndian.PutUint32(b[8:], unix.RTNH_F_ONLINK)
	}
	return b
}

// scopes are the words for RT_SCOPE_*, as ip-route(8) has them.
var scopes = map[byte]string{
	unix.RT_SCOPE_UNIVERSE: "global", unix.RT_SCOPE_SITE: "site", unix.RT_SCOPE_LINK: "link",
	unix.RT_SCOPE_HOST: "host", unix.RT_SCOPE_NOWHERE: "nowhere",
}

// routeScope says how far the destination is.
func routeScope(r host.Route) byte {
	if r.Scope == "" {
		return usualScope(r)
	}
	for n, word := range scopes {
		if word == r.Scope {
			return n
		}
	}
	n, _ := strconv.ParseUint(r.Scope, 10, 8) // what is no number was never read from the kernel
	return byte(n)
}

// usualScope is the scope that ip-route(8) chooses.
func usualScope(r host.Route) byte {
	switch {
	case r.Dst.Addr().Is6():
	case r.Type == unix.RTN_LOCAL:
		return unix.RT_SCOPE_HOST
	case r.Type == unix.RTN_UNICAST && !r.Gateway.IsValid() && r.Hops == "",
		r.Type == unix.RTN_BROADCAST, r.Type == unix.RTN_MULTICAST, r.Type == unix.RTN_ANYCAST:
		return unix.RT_SCOPE_LINK
	}
	return unix.RT_SCOPE_UNIVERSE
}

func wordForScope(r host.Route, scope byte) string {
	if scope == usualScope(r) || r.Dst.Addr().Is6() {
		return ""
	}
	if word, ok := scopes[scope]; ok {
		return word
	}
	return strconv.Itoa(int(scope))
}

// parseRoute reads a route; names are those of links by index.
func parseRoute(m netlink.Message, names map[int]string) (host.Route, error) {
	var r host.Route
	if len(m.Data) < unix.SizeofRtMsg {
		return r, fmt.Errorf("route message of %d bytes is cut short", len(m.Data))
	}
	any, length := netip.IPv4Unspecified(), int(m.Data[1])
	if m.Data[0] == unix.AF_INET6 {
		any = netip.IPv6Unspecified()
	}
	dst, from, now := any, any, monotonic()
	r.TOS, r.Table, r.Protocol, r.Type = int(m.Data[3]), int(m.Data[4]), int(m.Data[5]), int(m.Data[7])
	r.OnLink = binary.NativeEndian.Uint32(m.Data[8:])&unix.RTNH_F_ONLINK != 0
	var odd []string
	err := decode(m.Data, unix.SizeofRtMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_SRC:
			from, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_VIA:
			r.Gateway = parseVia(ad.Bytes())
		case unix.RTA_OIF:
			r.Link = names[int(ad.Uint32())]
		case unix.RTA_PRIORITY:
			r.Metric = int(ad.Uint32())
		case unix.RTA_TABLE:
			r.Table = int(ad.Uint32())
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_PREF:
			r.Pref = int(ad.Uint8())
		case unix.RTA_FLOW:
			r.Realm = ad.Uint32()
		case unix.RTA_METRICS:
			r.Metrics = parseMetrics(ad)
		case unix.RTA_MULTIPATH:
			var strange string
			r.Hops, strange = parseHops(ad.Bytes(), names)
			odd = append(odd, strange)
		case unix.RTA_CACHEINFO:
			// struct rta_cacheinfo: what is left, in hundredths of a second.
			if b := ad.Bytes(); len(b) >= 12 && m.Data[0] == unix.AF_INET6 {
				if left := int32(binary.NativeEndian.Uint32(b[8:])); left > 0 {
					r.Until = int64((now + time.Duration(left)*10*time.Millisecond).Round(time.Second) / time.Second)
				}
			}
		default:
			odd = append(odd, oddAttribute(ad.Type()))
		}
	})
	r.Dst = netip.PrefixFrom(dst, length)
	if m.Data[2] != 0 {
		r.From = netip.PrefixFrom(from, int(m.Data[2]))
	}
	r.Scope = wordForScope(r, m.Data[6])
	odd = slices.DeleteFunc(odd, func(s string) bool { return s == "" })
	r.Unrestorable = strings.Join(odd, ", ")
	return r, err
}

// ipFamily says whether a dumped route is of IPv4 or IPv6: multicast routing
// has tables of its own that come along.
func ipFamily(m netlink.Message) bool {
	return len(m.Data) > 0 && (m.Data[0] == unix.AF_INET || m.Data[0] == unix.AF_INET6)
}

func (h *Host) allRoutes(seen host.State, names map[int]string) error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, unix.SizeofRtMsg)
		header[0] = family
		msgs, err := h.rtnl.dump(unix.RTM_GETROUTE, header, nil)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, m := range msgs {
			if !ipFamily(m) {
				continue
			}
			r, err := parseRoute(m, names)
			if err != nil {
				return fmt.Errorf("list routes: %w", err)
			}
			seen.Add(r)
		}
	}
	return nil
}

// parseRouteKey is the inverse of host.Route.Key; the protocol is not in a key.
func parseRouteKey(k host.Key) (host.Route, error) {
	bad := func(why error) (host.Route, error) {
		return host.Route{}, fmt.Errorf("read key %q: %w", k.Name, why)
	}
	words := strings.Fields(k.Name)
	if len(words) == 0 || len(words)%2 == 0 {
		return bad(errors.New("it is not the key of a route"))
	}
	var r host.Route
	var err error
	if r.Dst, err = netip.ParsePrefix(words[0]); err != nil {
		return bad(err)
	}
	for i := 1; i < len(words); i += 2 {
		value := words[i+1]
		switch words[i] {
		case "table":
			r.Table, err = strconv.Atoi(value)
		case "metric":
			r.Metric, err = strconv.Atoi(value)
		case "type":
			r.Type, err = strconv.Atoi(value)
		case "tos":
			r.TOS, err = strconv.Atoi(value)
		case "from":
			r.From, err = netip.ParsePrefix(value)
		case "via":
			r.Gateway, err = netip.ParseAddr(value)
		case "dev":
			r.Link = value
		default:
			err = fmt.Errorf("unknown word %q", words[i])
		}
		if err != nil {
			return bad(err)
		}
	}
	return r, nil
}

func (h *Host) observeRoutes(seen host.State, keys []host.Key) error {
	for _, k := range keys {
		want, err := parseRouteKey(k)
		if err != nil {
			return err
		}
		there, err := h.routesLike(want)
		if err != nil {
			return err
		}
		for _, r := range there {
			if r.Key() == k {
				seen.Add(r)
			}
		}
	}
	return nil
}

// routesLike lists the routes of the same table and destination, whatever link
// they use. The kernel filters by table; the rest is compared here.
func (h *Host) routesLike(want host.Route) ([]host.Route, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = byte(familyOfAddr(want.Dst.Addr()))
	msgs, err := h.rtnl.dump(unix.RTM_GETROUTE, header, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.RTA_TABLE, uint32(want.Table))
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // no such table
	}
	if err != nil {
		return nil, fmt.Errorf("list routes to %s: %w", want.Dst, err)
	}
	names := lazyNames{h: h, known: map[int]string{}}
	var like []host.Route
	for _, m := range msgs {
		if !ipFamily(m) {
			continue
		}
		r, err := parseRoute(m, nil)
		if err != nil {
			return nil, fmt.Errorf("list routes to %s: %w", want.Dst, err)
		}
		if r.Dst != want.Dst || r.Table != want.Table {
			continue
		}
		if r, err = names.fill(m); err != nil {
			return nil, err
		}
		like = append(like, r)
	}
	return like, nil
}

// lazyNames looks up the names of only those links that routes of interest use.
type lazyNames struct {
	h     *Host
	known map[int]string
}

func (n lazyNames) fill(m netlink.Message) (host.Route, error) {
	indexes, err := routeLinks(m)
	if err != nil {
		return host.Route{}, err
	}
	for _, index := range indexes {
		if _, ok := n.known[index]; ok || index == 0 {
			continue
		}
		l, err := n.h.rtnl.linkBy(index, fmt.Sprintf("with index %d", index))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return host.Route{}, err
		}
		n.known[index] = l.Name
	}
	return parseRoute(m, n.known)
}

func (h *Host) applyRoutes(steps []plan.Step, leaving map[host.Key]bool) error {
	for _, s := range steps {
		var err error
		if s.After == nil {
			err = h.deleteRoute(s.Before.(host.Route))
		} else {
			err = h.putRoute(s.After.(host.Route), leaving)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return nil
}

// putRoute makes a route. One of the same destination and metric is replaced,
// without a moment in between, if it is to go anyway; else it is in the way.
func (h *Host) putRoute(want host.Route, leaving map[host.Key]bool) error {
	if want.Link == "" && want.Hops == "" && want.Type == unix.RTN_UNICAST {
		return errors.New("a route without a link cannot be made")
	}
	there, err := h.routesLike(want)
	if err != nil {
		return err
	}
	flags := flagCreate
	var stays, goes host.Key
	var old host.Route
	made := false
	for _, r := range there {
		if r.Metric != want.Metric || r.TOS != want.TOS || r.From != want.From {
			continue
		}
		switch {
		case host.Same(r, want):
			made = true
		case r.Key() == want.Key(), leaving[r.Key()], leaving[host.LinkKey(r.Link)]:
			goes, old = r.Key(), r
		default:
			stays = r.Key()
		}
	}
	switch {
	case made && goes.Name != "":
		// The kernel made the new one by itself, for an address, behind the old
		// one, which would be used for as long as it is there.
		return h.deleteRoute(old)
	case made:
		return nil
	case goes.Name == "" && stays.Name != "":
		return fmt.Errorf("%s is in the way: %w", stays, fs.ErrExist)
	case goes.Name != "" && stays.Name != "":
		// The kernel would replace the first of them, whichever that is.
		flags = flagAppend
	case goes.Name != "":
		flags = flagReplace
	}
	return h.sendRoute(unix.RTM_NEWROUTE, flags, want)
}

func (h *Host) deleteRoute(r host.Route) error {
	err := h.sendRoute(unix.RTM_DELROUTE, flagChange, r)
	if isAny(err, fs.ErrNotExist, unix.ESRCH, unix.ENODEV, unix.ENETUNREACH) {
		return nil
	}
	return err
}

func (h *Host) sendRoute(typ uint16, flags netlink.HeaderFlags, r host.Route) error {
	index := 0
	if r.Link != "" {
		l, err := h.rtnl.linkBy(0, r.Link)
		if err != nil {
			return err
		}
		index = l.index
	}
	header := routeHeader(r)
	if typ == unix.RTM_DELROUTE {
		// Delete whatever scope it has: what was observed does not say.
		header[6] = unix.RT_SCOPE_NOWHERE
	}
	hops, err := h.encodeHops(r.Hops)
	if err != nil {
		return err
	}
	metrics, err := encodeMetrics(r.Metrics)
	if err != nil {
		return err
	}
	_, err = h.rtnl.do(typ, flags, header, func(ae *netlink.AttributeEncoder) {
		if r.Dst.Bits() > 0 {
			ae.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
		}
		if r.From.IsValid() {
			ae.Bytes(unix.RTA_SRC, r.From.Addr().AsSlice())
		}
		ae.Uint32(unix.RTA_TABLE, uint32(r.Table))
		if r.Metric != 0 {
			ae.Uint32(unix.RTA_PRIORITY, uint32(r.Metric))
		}
		if index != 0 {
			ae.Uint32(unix.RTA_OIF, uint32(index))
		}
		encodeGateway(ae, r.Gateway, r.Dst.Addr().Is4())
		if typ == unix.RTM_DELROUTE {
			return
		}
		if r.Src.IsValid() {
			ae.Bytes(unix.RTA_PREFSRC, r.Src.AsSlice())
		}
		if r.Pref != 0 {
			ae.Uint8(unix.RTA_PREF, uint8(r.Pref))
		}
		if r.Realm != 0 {
			ae.Uint32(unix.RTA_FLOW, r.Realm)
		}
		if metrics != nil {
			nest(ae, unix.RTA_METRICS, metrics)
		}
		if hops != nil {
			ae.Bytes(unix.RTA_MULTIPATH, hops)
		}
		if r.Until != 0 {
			ae.Uint32(unix.RTA_EXPIRES, uint32(leftOf(r.Until, shortestLife, monotonic())))
		}
	})
	return err
}
