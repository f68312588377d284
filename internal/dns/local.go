package dns

import (
	"net/netip"
)

// found is what the server knows of a name by itself.
type found struct {
	what what
	// hosts are the addresses of an existing name; nil if it has none.
	hosts *hostAddrs
	// ptr is the label that a reverse look-up gives, in the domain of ptrOrigin.
	ptr, ptrOrigin string
	// zone has the authority, and cut is the label of the question at which it
	// begins; nil for special names that lie in no zone.
	zone *zone
	cut  int
	// apex: the question is for the very name of the zone.
	apex bool
}

type what uint8

const (
	// elsewhere: not ours; the upstream servers are to be asked.
	elsewhere what = iota
	// exists: the name is there, perhaps without what was asked for.
	exists
	// nowhere: there is no such name (NXDOMAIN).
	nowhere
	// forbidden: clients of this bridge are not told (REFUSED).
	forbidden
)

// addrs are the addresses of the asked type.
func (f *found) addrs(typ uint16) []netip.Addr {
	switch {
	case f.hosts == nil:
		return nil
	case typ == typeA:
		return f.hosts.v4
	case typ == typeAAAA:
		return f.hosts.v6
	}
	return nil
}

var (
	loopback = &hostAddrs{
		v4: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, v6: []netip.Addr{netip.IPv6Loopback()},
	}
	nothing = &hostAddrs{}
)

// local decides about a question from a client of z, without asking anybody.
func (s *Server) local(q *question, t *tables, z *zone) found {
	if q.labels == 0 {
		return z.elsewhere()
	}
	if f, ok := s.reverse(q, t, z); ok {
		return f
	}
	for i := range q.labels {
		if zones := t.byDomain[string(q.suffix(i))]; zones != nil {
			return s.inZone(q, i, zones, z)
		}
	}
	if q.labels == 1 {
		return s.bare(q, t, z)
	}
	if f, ok := special(q); ok {
		return f
	}
	return z.elsewhere()
}

// elsewhere is the answer about names that are not ours: to be asked upstream,
// but not on behalf of a network without a way out.
func (z *zone) elsewhere() found {
	if !z.Forward {
		return found{what: forbidden}
	}
	return found{what: elsewhere}
}

// inZone looks up a name whose labels from cut on are the domain of zones.
func (s *Server) inZone(q *question, cut int, zones []*zone, client *zone) found {
	f := found{what: nowhere, zone: zones[0], cut: cut, apex: cut == 0}
	for _, z := range zones {
		if z == client {
			f.zone = z
		}
	}
	if !client.sees(f.zone) {
		if !client.Forward {
			return found{what: forbidden}
		}
		return f
	}
	switch cut {
	case 0:
		f.what, f.hosts = exists, nothing
	case 1:
		// Of networks that share a domain, the client's own goes first.
		f.hosts = s.hostIn(f.zone, q.label(0))
		for i := 0; f.hosts == nil && i < len(zones); i++ {
			if client.sees(zones[i]) {
				f.hosts = s.hostIn(zones[i], q.label(0))
			}
		}
		if f.hosts != nil {
			f.what = exists
		}
	}
	return f
}

func (s *Server) hostIn(z *zone, label []byte) *hostAddrs {
	if string(label) == z.hostname {
		return z.self
	}
	return s.Names.addrsOf(z.Bridge, label)
}

// bare looks up a name of one label: a guest of the client's own bridge, or a
// top-level domain.
func (s *Server) bare(q *question, t *tables, z *zone) found {
	label := q.label(0)
	if hosts := s.hostIn(z, label); hosts != nil {
		return found{what: exists, hosts: hosts}
	}
	if f, ok := special(q); ok {
		return f
	}
	switch q.typ {
	case typeA, typeAAAA, typeHTTPS, typeSVCB:
		// No top-level domain has addresses of its own (SAC 053); asking for one is
		// a guest name that is not there, and none of the upstream's business.
		if t.ancestors[string(q.suffix(0))] {
			return found{what: exists, hosts: nothing}
		}
		return found{what: nowhere}
	}
	return z.elsewhere()
}

// special knows the names that must not be looked up in DNS.
func special(q *question) (found, bool) {
	switch string(q.label(q.labels - 1)) {
	case "localhost": // RFC 6761 section 6.3
		return found{what: exists, hosts: loopback}, true
	case "invalid", "onion", "alt": // RFC 6761 6.4, RFC 7686, RFC 9476
		return found{what: nowhere}, true
	}
	if q.labels >= 2 && string(q.suffix(q.labels-2)) == "\x08resolver\x04arpa\x00" {
		// RFC 9462 section 6.4: it is about this very resolver. The name is there
		// and empty: no encrypted resolvers are offered.
		return found{what: exists, hosts: nothing}, true
	}
	return found{}, false
}

// reverse looks up names below in-addr.arpa and ip6.arpa; false for others.
func (s *Server) reverse(q *question, t *tables, client *zone) (found, bool) {
	addr, bits, ok := q.reversePrefix()
	if !ok {
		return found{}, false
	}
	if addr.IsLoopback() && (bits == 128 || bits >= 8 && addr.Is4()) {
		if addr == loopback.v4[0] || addr == loopback.v6[0] {
			return found{what: exists, ptr: "localhost", ptrOrigin: "\x00"}, true
		}
		return found{what: nowhere}, true
	}
	for i := -1; i < len(t.all); i++ {
		z := client
		if i >= 0 {
			z = t.all[i]
		}
		if subnet := z.Addr4; z.has(addr) {
			if addr.Is6() {
				subnet = z.Addr6
			}
			if bits < subnet.Bits() {
				continue
			}
			if !client.sees(z) && !client.Forward {
				return found{what: forbidden}, true
			}
			return s.inSubnet(q, addr, bits, subnet, z, client), true
		}
	}
	if f, ok := s.onLAN(q, addr, bits, t, client); ok {
		return f, true
	}
	if never(addr, bits) || private(addr, bits) && !s.upstream.isPrivate() {
		return found{what: nowhere}, true
	}
	return client.elsewhere(), true
}

// onLAN answers for a guest's address on a network whose subnets are not ours: for
// that one alone, everything around it is for others to say.
func (s *Server) onLAN(q *question, addr netip.Addr, bits int, t *tables, client *zone) (found, bool) {
	if bits != addr.BitLen() || q.labels != 2+map[int]int{32: 4, 128: 32}[bits] {
		return found{}, false
	}
	for _, z := range t.all {
		if z.Addr4.IsValid() || z.Addr6.IsValid() || !client.sees(z) {
			continue
		}
		if label, ok := s.Names.Name(z.Bridge, addr); ok {
			return found{what: exists, zone: z, ptr: label, ptrOrigin: z.origin}, true
		}
	}
	return found{}, false
}

// inSubnet answers for a reverse name in the subnet of z. The zone is cut at the
// octet or nibble at or below the subnet's end, but a single address is never a
// zone of its own.
func (s *Server) inSubnet(q *question, addr netip.Addr, bits int, subnet netip.Prefix, z, client *zone) found {
	step, full, last := 8, 32, 24
	if addr.Is6() {
		step, full, last = 4, 128, 124
	}
	zoneBits := min((subnet.Bits()+step-1)/step*step, last)
	suffix := 2 + zoneBits/step
	f := found{what: nowhere, zone: z, cut: q.labels - suffix, apex: bits == zoneBits && q.labels == suffix}
	if !client.sees(z) {
		return f
	}
	if q.labels != 2+bits/step {
		return f // more labels than an address has
	}
	if bits < full {
		f.what, f.hosts = exists, nothing
		return f
	}
	label, ok := z.hostname, addr == z.Addr4.Addr() || addr == z.Addr6.Addr()
	if !ok {
		label, ok = s.Names.Name(z.Bridge, addr)
	}
	if ok {
		f.what, f.ptr, f.ptrOrigin = exists, label, z.origin
	}
	return f
}

// reversePrefix reads as much of an address as the name has well-formed labels.
func (q *question) reversePrefix() (addr netip.Addr, bits int, ok bool) {
	if q.labels < 2 {
		return addr, 0, false
	}
	switch string(q.suffix(q.labels - 2)) {
	case "\x07in-addr\x04arpa\x00":
		var b [4]byte
		n := 0
		for i := q.labels - 3; i >= 0 && n < 4; i-- {
			v, ok := octet(q.label(i))
			if !ok {
				break
			}
			b[n] = v
			n++
		}
		return netip.AddrFrom4(b), 8 * n, true
	case "\x03ip6\x04arpa\x00":
		var b [16]byte
		n := 0
		for i := q.labels - 3; i >= 0 && n < 32; i-- {
			v, ok := nibble(q.label(i))
			if !ok {
				break
			}
			b[n/2] |= v << (4 * (1 - n%2))
			n++
		}
		return netip.AddrFrom16(b), 4 * n, true
	}
	return addr, 0, false
}

func octet(label []byte) (byte, bool) {
	v := 0
	for _, c := range label {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = 10*v + int(c-'0')
	}
	return byte(v), len(label) <= 3 && v <= 255 && (len(label) == 1 || label[0] != '0')
}

func nibble(label []byte) (byte, bool) {
	if len(label) != 1 {
		return 0, false
	}
	switch c := label[0]; {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// Networks whose reverse names mean nothing to any other server (RFC 6303
// sections 4.2 to 4.6).
var nobodys = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("2001:db8::/32"),
}

// Networks of a site (RFC 6303 section 4.1, RFC 7793, RFC 4193): a server of the
// site may know them, one on the Internet cannot.
var sites = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("fc00::/7"),
}

func never(a netip.Addr, bits int) bool   { return within(a, bits, nobodys) }
func private(a netip.Addr, bits int) bool { return within(a, bits, sites) }

func within(a netip.Addr, bits int, nets []netip.Prefix) bool {
	for _, n := range nets {
		if bits >= n.Bits() && n.Contains(a) {
			return true
		}
	}
	return false
}
