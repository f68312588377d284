package dns

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// Lifetimes of local answers, in seconds. A name's addresses may change with
// any lease, and a guest that has just got its lease must be found at once.
const (
	localTTL    = 10
	negativeTTL = 1
)

// tables are all zones, made ready for look-ups. They are replaced whole.
type tables struct {
	byBridge map[string]*zone
	// byDomain is keyed by the domain in wire form. Networks may share a domain.
	byDomain map[string][]*zone
	// ancestors are the names above the domains ("internal" above
	// "default.internal"): they exist, though nothing is known of them.
	ancestors map[string]bool
	all       []*zone
	own       map[netip.Addr]bool
}

// zone is one bridge's DNS service.
type zone struct {
	host.Zone
	// origin is the domain in wire form, lower case, with the root label; just the
	// root label for no domain.
	origin string
	// self are the host's own addresses here, known under hostname.
	hostname string
	self     *hostAddrs
	soa      []byte // the rdata of the start of authority
	stats    *counters
}

func newTables(zones map[string]host.Zone, hostname string) *tables {
	t := &tables{
		byBridge: map[string]*zone{}, byDomain: map[string][]*zone{},
		ancestors: map[string]bool{}, own: map[netip.Addr]bool{},
	}
	for _, bridge := range slices.Sorted(maps.Keys(zones)) {
		z := newZone(zones[bridge], hostname)
		t.byBridge[bridge] = z
		t.all = append(t.all, z)
		for _, a := range []netip.Prefix{z.Addr4, z.Addr6} {
			if a.IsValid() {
				t.own[a.Addr()] = true
			}
		}
		if z.Domain == "" {
			continue
		}
		t.byDomain[z.origin] = append(t.byDomain[z.origin], z)
		for rest := z.origin[1+z.origin[0]:]; len(rest) > 1; rest = rest[1+rest[0]:] {
			t.ancestors[rest] = true
		}
	}
	return t
}

func newZone(hz host.Zone, hostname string) *zone {
	z := &zone{Zone: hz, origin: wireName(hz.Domain), hostname: hostname, self: &hostAddrs{}}
	if hz.Addr4.IsValid() {
		z.self.v4 = []netip.Addr{hz.Addr4.Addr()}
	}
	if hz.Addr6.IsValid() {
		z.self.v6 = []netip.Addr{hz.Addr6.Addr()}
	}
	z.soa = append(z.soa, z.nameServer()...)
	z.soa = append(z.soa, wireLabel("hostmaster")+z.origin...)
	// Serial, refresh, retry, expire, minimum: RFC 1035 section 3.3.13. Nobody
	// transfers these zones; only the minimum has a meaning (RFC 2308).
	for _, v := range []uint32{1, 3600, 600, 86400, negativeTTL} {
		z.soa = binary.BigEndian.AppendUint32(z.soa, v)
	}
	return z
}

// nameServer is the name of the host in this zone, in wire form.
func (z *zone) nameServer() string {
	return wireLabel(z.hostname) + z.origin
}

// wireLabel puts the length before a label of at most 63 bytes.
func wireLabel(label string) string { return string(rune(len(label))) + label }

// sees says whether clients of z are told about what lies in other: a network
// without a way out has none to other networks either.
func (z *zone) sees(other *zone) bool { return z == other || z.Forward && other.Forward }

// has says whether a is an address of one of the zone's subnets.
func (z *zone) has(a netip.Addr) bool {
	if a.Is4() {
		return z.Addr4.IsValid() && z.Addr4.Contains(a)
	}
	return z.Addr6.IsValid() && z.Addr6.Contains(a)
}

// wireName turns a domain without escapes into wire form in lower case.
func wireName(domain string) string {
	var b strings.Builder
	for label := range strings.SplitSeq(strings.Trim(strings.ToLower(domain), "."), ".") {
		if label != "" {
			b.WriteByte(byte(len(label)))
			b.WriteString(label)
		}
	}
	b.WriteByte(0)
	return b.String()
}
