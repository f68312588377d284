package diagnose

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
	"drawbridge/internal/spec"
)

// Need is one way that guests of a network need, and a packet that goes it.
type Need struct {
	Network spec.NetworkName
	Bridge  string
	Way     host.Way
	// Subnet is what an accept of it is limited to; invalid for none.
	Subnet netip.Prefix
	At     At
	Packet Packet
}

// Obstacle is a chain of another program that stops a need.
type Obstacle struct {
	Need
	// Verdict is Dropped, Rejected, or Unknown where it cannot be evaluated.
	Verdict Verdict
	// Opens is the smallest exception that lets the need through, a host.Accept or
	// host.InZone; nil where none can: the chain is not for rules of others.
	Opens host.Resource
	// Ignored: such a rule is there already, and something stands before it.
	Ignored bool
}

// outside is an address of the internet that no host has (RFC 5737, RFC 3849).
var outside4, outside6 = netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:ffff::7")

// Needs are the ways that the guests of a running network need. uplink says
// where what those of a subnet send leaves; bridged that br_netfilter shows what
// stays on a bridge to the routing hooks.
func Needs(n spec.Network, uplink func(spec.Subnet) string, bridged bool) []Need {
	var all []Need
	if bridged {
		all = append(all, bridgedNeeds(n)...)
	}
	if n.Mode != "nat" && n.Mode != "isolated" {
		return all
	}
	for _, s := range n.Subnets {
		all = append(all, services(n, s)...)
		if n.Mode == "nat" {
			all = append(all, routes(n, s, uplink(s))...)
		}
	}
	return all
}

func (p Packet) between(from, to string, source, target netip.Addr) Packet {
	p.In, p.Out, p.Source, p.Target = from, to, source, target
	return p
}

// someGuest is an address of a subnet that is not the host's.
func someGuest(s spec.Subnet) netip.Addr {
	a := s.Prefix.Addr().Next()
	for a == s.Gateway {
		a = a.Next()
	}
	return a
}

func routes(n spec.Network, s spec.Subnet, uplink string) []Need {
	guest, far := someGuest(s), outside4
	if guest.Is6() {
		far = outside6
	}
	at := At{Hook: "forward"}
	out := Packet{Protocol: protoTCP, SourcePort: 40000, TargetPort: 443, TCPFlags: 2, Connection: Connection{State: New}}.between(n.Bridge, uplink, guest, far)
	back := Packet{Protocol: protoTCP, SourcePort: 443, TargetPort: 40000, TCPFlags: 0x10, Connection: Connection{State: Established, Reply: true, Status: StatusSeenReply | StatusConfirmed | StatusSNAT}}.between(uplink, n.Bridge, far, guest)
	all := []Need{
		{n.Name, n.Bridge, host.WayOut, s.Prefix, at, out},
		{n.Name, n.Bridge, host.WayBack, s.Prefix, at, back},
	}
	for f := range n.Forwards.All() {
		if f.Listen.Is6() == guest.Is6() {
			in := Packet{Protocol: protoTCP, SourcePort: 40000, TargetPort: f.TargetPort, TCPFlags: 2, Connection: Connection{State: New, Status: StatusDNAT}}.between(uplink, n.Bridge, far, guest)
			return append(all, Need{n.Name, n.Bridge, host.WayDoors, s.Prefix, at, in})
		}
	}
	return all
}

// bridgedNeeds are frames between ports of one bridge, of any address.
func bridgedNeeds(n spec.Network) []Need {
	var all []Need
	one := func(a, b netip.Addr) {
		p := Packet{Protocol: protoTCP, SourcePort: 40000, TargetPort: 443, TCPFlags: 2, Connection: Connection{State: New}}.between(n.Bridge, n.Bridge, a, b)
		all = append(all, Need{n.Name, n.Bridge, host.WayWithin, netip.Prefix{}, At{Hook: "forward"}, p})
	}
	if len(n.Subnets) == 0 {
		one(outside4, outside4.Next())
		one(outside6, outside6.Next())
	}
	for _, s := range n.Subnets {
		a := someGuest(s)
		b := a.Next()
		if b == s.Gateway {
			b = b.Next()
		}
		one(a, b)
	}
	return all
}

// services are what guests ask of the host, and its answers.
func services(n spec.Network, s spec.Subnet) []Need {
	guest, in, out := someGuest(s), At{Hook: "input"}, At{Hook: "output"}
	fresh := Connection{State: New}
	answer := Connection{State: Established, Reply: true, Status: StatusSeenReply | StatusConfirmed}
	ask := func(way host.Way, p Packet) Need { return Need{n.Name, n.Bridge, way, netip.Prefix{}, in, p} }
	say := func(way host.Way, p Packet) Need { return Need{n.Name, n.Bridge, way, netip.Prefix{}, out, p} }
	dns := func(proto uint8, flags uint8) Packet {
		return Packet{Protocol: proto, SourcePort: 40000, TargetPort: 53, TCPFlags: flags, Connection: fresh}.between(n.Bridge, "", guest, s.Gateway)
	}
	all := []Need{
		ask(host.WayDNS, dns(protoUDP, 0)), ask(host.WayDNSStream, dns(protoTCP, 2)),
		say(host.WayName, Packet{Protocol: protoUDP, SourcePort: 53, TargetPort: 40000, Connection: answer}.between("", n.Bridge, s.Gateway, guest)),
	}
	if s.Prefix.Addr().Is4() {
		discover := Packet{Protocol: protoUDP, SourcePort: 68, TargetPort: 67, Broadcast: true, Connection: fresh}.between(n.Bridge, "", netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255}))
		renew := Packet{Protocol: protoUDP, SourcePort: 68, TargetPort: 67, Connection: fresh}.between(n.Bridge, "", guest, s.Gateway)
		offer := Packet{Protocol: protoUDP, SourcePort: 67, TargetPort: 68, Connection: Connection{State: New}}.between("", n.Bridge, s.Gateway, guest)
		return append(all, ask(host.WayDHCP, discover), ask(host.WayDHCP, renew), say(host.WayOffer, offer))
	}
	return append(all, discovery(n, s, guest)...)
}

// discovery is IPv6 address configuration, in both directions (RFC 4861).
func discovery(n spec.Network, s spec.Subnet, guest netip.Addr) []Need {
	local := netip.MustParseAddr("fe80::5054:ff:fe12:3456")
	routers, nodes := netip.MustParseAddr("ff02::2"), netip.MustParseAddr("ff02::1")
	var all []Need
	one := func(way host.Way, hook string, kind uint8, from, to netip.Addr) {
		p := Packet{Protocol: protoICMP6, ICMPType: kind, Multicast: to.IsMulticast(), Connection: Connection{State: Untracked}}
		if hook == "input" {
			p = p.between(n.Bridge, "", from, to)
		} else {
			p = p.between("", n.Bridge, from, to)
		}
		all = append(all, Need{n.Name, n.Bridge, way, netip.Prefix{}, At{Hook: hook}, p})
	}
	one(host.WaySolicit, "input", 133, local, routers)
	one(host.WayLook, "input", 135, guest, s.Gateway)
	one(host.WayFound, "input", 136, guest, s.Gateway)
	one(host.WayAdvert, "output", 134, local, nodes)
	one(host.WayAsk, "output", 135, s.Gateway, guest)
	one(host.WayTell, "output", 136, s.Gateway, guest)
	return all
}

// Mark begins the comment of every accept of ours in a chain of others.
const Mark = "drawbridge: "

// foreign is the ruleset without what is ours: our tables, and our accepts in
// tables of others.
func foreign(r *ruleset.Ruleset) *ruleset.Ruleset {
	out := &ruleset.Ruleset{Legacy: r.Legacy}
	for _, t := range r.Tables {
		if t.Name != "drawbridge" {
			out.Tables = append(out.Tables, cloned(t, func(c *ruleset.Chain) *ruleset.Chain {
				copied := *c
				if slices.ContainsFunc(c.Rules, isAccept) {
					copied.Rules = slices.DeleteFunc(slices.Clone(c.Rules), isAccept)
				}
				return &copied
			}))
		}
	}
	return out
}

func isAccept(r *ruleset.Rule) bool { return strings.HasPrefix(r.Comment, Mark) }

func cloned(t *ruleset.Table, each func(*ruleset.Chain) *ruleset.Chain) *ruleset.Table {
	copied := &ruleset.Table{Family: t.Family, Name: t.Name, Handle: t.Handle, Dormant: t.Dormant, Owned: t.Owned, Sets: t.Sets}
	for _, c := range t.Chains {
		copied.Add(each(c))
	}
	return copied
}

// unhooked is the ruleset in which one base chain is not asked.
func unhooked(r *ruleset.Ruleset, family, table, chain string) *ruleset.Ruleset {
	out := &ruleset.Ruleset{Legacy: r.Legacy, Tables: slices.Clone(r.Tables)}
	for i, t := range out.Tables {
		if t.Family == family && t.Name == table {
			out.Tables[i] = cloned(t, func(c *ruleset.Chain) *ruleset.Chain {
				copied := *c
				if c.Name == chain {
					copied.Hook = ""
				}
				return &copied
			})
		}
	}
	return out
}

// Obstacles finds what of other programs stops the needs, as if no exception of
// ours were there: so that the answer does not change by acting on it. zoned are
// bridges that we have put into a zone of firewalld.
func Obstacles(r *ruleset.Ruleset, h *Host, needs []Need, zoned ...string) []Obstacle {
	if r == nil {
		return nil
	}
	var all []Obstacle
	bare := pruned(unzoned(foreign(r), zoned), needs)
	for _, p := range needs {
		rules := bare
		// Each base chain is asked for itself: behind the first that drops there may be
		// others.
		for range 16 {
			v := Walk(rules, h, p.At, p.Packet)
			if v.Kind == Accepted {
				break
			}
			o := Obstacle{Need: p, Verdict: v}
			if v.Kind == Unknown || v.Chain == nil {
				all = append(all, o)
				break
			}
			o.Opens = exceptionFor(p, v.Chain)
			all = append(all, o)
			rules = unhooked(rules, v.Chain.Table.Family, v.Chain.Table.Name, v.Chain.Name)
		}
	}
	return all
}

// exceptionFor is what opens a base chain for a need. No rule can in a table that
// only its owner may change, or takes for its own; firewalld has zones for that. And
// none shall in the switch of a VPN by which nothing leaves but through its tunnel.
func exceptionFor(p Need, c *ruleset.Chain) host.Resource {
	if c.Table.Owned && ruleset.OwnerOfTable(c.Table) == ruleset.Firewalld {
		return host.InZone{Bridge: p.Bridge, Zone: host.OurZone}
	}
	if c.Table.Owned || dockersOwn(c) || keepsInTunnel(p.Way, c) {
		return nil
	}
	name := c.Name
	if c.Hook == "forward" && (c.Table.Family == ruleset.IP || c.Table.Family == ruleset.IP6) && leadsTo(c, "DOCKER-USER") {
		// Docker leaves this chain alone, and keeps it before its own.
		name = "DOCKER-USER"
	}
	return host.Accept{Table: host.Table{Family: host.Family(c.Table.Family), Name: c.Table.Name}, Chain: name, Bridge: p.Bridge, Way: p.Way, Subnet: p.Subnet}
}

func leadsTo(c *ruleset.Chain, name string) bool {
	return slices.ContainsFunc(c.Rules, func(r *ruleset.Rule) bool {
		return slices.ContainsFunc(r.Exprs, func(e ruleset.Expr) bool {
			d, ok := e.(ruleset.Decide)
			return ok && d.Verdict.Chain == name
		})
	})
}

// Exceptions are what guests of the running networks need in other programs'
// firewalls, each once.
func Exceptions(f *Facts) []host.Resource {
	var all []host.Resource
	for _, o := range f.obstacles() {
		if o.Opens != nil {
			all = append(all, o.Opens)
		}
	}
	slices.SortFunc(all, func(a, b host.Resource) int { return a.Key().Compare(b.Key()) })
	return slices.Compact(all)
}

// Late are the rules of ours that are there and do not help: something was put before
// them since. A zone has no place among others.
func Late(f *Facts) (late []host.Key) {
	for _, o := range f.obstacles() {
		if _, rule := o.Opens.(host.Accept); rule && o.Ignored && !slices.Contains(late, o.Opens.Key()) {
			late = append(late, o.Opens.Key())
		}
	}
	return late
}

// obstacles are found once for all checks.
func (f *Facts) obstacles() []Obstacle {
	if f.Rules == nil {
		return nil
	}
	if f.found == nil {
		f.found = &obstacles{list: Obstacles(f.Rules, f.Machine, f.Needs(), f.zoned()...)}
		f.found.mark(f)
	}
	return f.found.list
}

// Opening says whether a way of guests is shut that an exception would open, or
// has one that does not help: after the facts are read once more it may be open,
// if the daemon was about to do it.
func (f *Facts) Opening() bool {
	return slices.ContainsFunc(f.obstacles(), func(o Obstacle) bool {
		return (o.Verdict.Kind == Dropped || o.Verdict.Kind == Rejected) && o.Opens != nil
	})
}

// Anew forgets what was worked out, after facts were changed.
func (f *Facts) Anew() { f.found, f.sorted, f.places = nil, nil, nil }

type obstacles struct{ list []Obstacle }

// mark asks once more with all rules that are there: what is accepted then is no
// obstacle any more (Verdict is Accepted), and what is not although our rule is
// there, ignores it.
func (o *obstacles) mark(f *Facts) {
	var real *ruleset.Ruleset
	for i, x := range o.list {
		if x.Opens == nil || f.State[x.Opens.Key()] == nil {
			continue
		}
		if real == nil {
			real = pruned(f.Rules, f.Needs())
		}
		v := Walk(real, f.Machine, x.At, x.Packet)
		o.list[i].Verdict, o.list[i].Ignored = v, v.Kind == Dropped || v.Kind == Rejected
	}
}

// DefaultLink is the link of the best default route, "" if there is none.
func (f *Facts) DefaultLink() string {
	best, _ := f.defaultLinks()
	return cmp.Or(best, f.defaultLink6())
}

// Needs are those of all running networks.
func (f *Facts) Needs() []Need {
	var all []Need
	uplink, others := f.defaultLinks()
	uplink = cmp.Or(uplink, f.defaultLink6(), firstOf(others))
	filtered := f.Sysctls["net/bridge/bridge-nf-call-iptables"] == "1" || f.Sysctls["net/bridge/bridge-nf-call-ip6tables"] == "1"
	for _, n := range f.running() {
		if _, held := f.Held[n.Name]; held {
			continue
		}
		all = append(all, Needs(n, func(s spec.Subnet) string {
			return cmp.Or(f.leaves(n.Bridge, someGuest(s)), uplink)
		}, filtered)...)
	}
	return all
}

// leaves asks the routing tables where what a guest sends leaves: a VPN's rules
// may send it elsewhere than the best default route. "" if they do not tell.
func (f *Facts) leaves(bridge string, guest netip.Addr) string {
	if f.Machine == nil || f.Machine.Route == nil {
		return ""
	}
	far := outside4
	if guest.Is6() {
		far = outside6
	}
	if r, ok := f.Machine.Route(RouteQuery{Target: far, Source: guest, In: bridge}); ok && r.Type == typeUnicast {
		return r.Out
	}
	return ""
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func (f *Facts) defaultLink6() string {
	for _, key := range f.keys() {
		if r, ok := f.State[key].(host.Route); ok && r.Dst.Bits() == 0 && r.Dst.Addr().Is6() && r.Link != "" && r.Table == host.MainTable {
			return r.Link
		}
	}
	return ""
}
