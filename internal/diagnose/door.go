package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/ruleset"
)

// Door is a forward as a packet meets it.
type Door struct {
	// Proto is the protocol's number.
	Proto uint8
	// Listen is the address, or the unspecified one for every address of the host.
	Listen netip.Addr
	// First and Last are the ports; 0 for all of them.
	First, Last uint16
	// Target is where it leads: the guest's address and its port for First.
	Target netip.AddrPort
	// From limits who may use it; empty is everybody.
	From []netip.Prefix
	// Bridge is the guest's.
	Bridge string
	// Open says that its rules are there. If not, they are thought to be.
	Open bool
}

// Vantage is a place from which a door may be used.
type Vantage struct {
	// Name is lan, internet, host or guests.
	Name string
	// Link is where packets come in, "" for the host itself.
	Link string
	// Source and To are the addresses that were tried.
	Source, To netip.Addr
}

// Reached is whether a door can be used from somewhere.
type Reached struct {
	Vantage
	Kind Kind
	// Why says what is in the way, or what is not known.
	Why string
	// Verdict is what ended the packet's way; zero if no rule did.
	Verdict Verdict
	// Taken is set if a rule of somebody else sends the packet elsewhere.
	Taken *Translation
	Owner ruleset.Owner
}

// sourcePort is one that programs use for connections that they begin.
const sourcePort = 40404

// somewhere are addresses that nobody has (RFC 5737, RFC 3849): they stand for
// the internet.
var (
	somewhere4 = netip.AddrFrom4([4]byte{198, 51, 100, 77})
	somewhere6 = netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: 0x77})
)

// Reach tries a door from everywhere: the networks that the host is on, the
// internet where a default route leads, the host itself, and guests. bridges are
// those of guests.
func Reach(rules *ruleset.Ruleset, h *Host, d Door, bridges []string) []Reached {
	var found []Reached
	for _, v := range vantages(h, d, bridges) {
		r := try(rules, h, d, v, 0)
		if d.Last > d.First {
			// A range is what its ends are; if they differ, the worse one is told.
			if end := try(rules, h, d, v, d.Last-d.First); end.Kind != Accepted && r.Kind == Accepted {
				r = end
				r.Why = fmt.Sprintf("port %d: %s", d.Last, r.Why)
			}
		}
		found = append(found, r)
	}
	return found
}

func vantages(h *Host, d Door, bridges []string) []Vantage {
	var list []Vantage
	six := d.Target.Addr().Is6()
	local := false
	for _, l := range h.Links {
		local = local || slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == d.Listen })
	}
	names := make([]string, 0, len(h.Links))
	for name := range h.Links {
		names = append(names, name)
	}
	slices.Sort(names)
	var anyAddress netip.Addr
	for _, name := range names {
		l := h.Links[name]
		if name == "lo" || l.Master != "" || !l.Up || slices.Contains(bridges, name) || isContainerBridge(l, name) {
			continue
		}
		for _, p := range l.Addresses {
			if p.Addr().Is6() != six || p.Addr().IsLinkLocalUnicast() {
				continue
			}
			to := d.Listen
			if to.IsUnspecified() {
				to = p.Addr()
			} else if local && to != p.Addr() {
				continue
			}
			if !anyAddress.IsValid() {
				anyAddress = to
			}
			if source, ok := sourceIn(p, d.From); ok {
				list = append(list, Vantage{"lan", name, source, to})
			}
			if source, ok := sourceBeyond(h, name, six, p, d.From); ok {
				list = append(list, Vantage{"internet", name, source, to})
			}
			break
		}
	}
	return append(list, inside(h, d, bridges, anyAddress)...)
}

// isContainerBridge: what is bridged on this host is no LAN; a bridge with a
// card in it is.
func isContainerBridge(l Link, name string) bool {
	return l.Kind == "bridge" && (strings.HasPrefix(name, "docker") || strings.HasPrefix(name, "br-") || strings.HasPrefix(name, "podman") || strings.HasPrefix(name, "cni") || strings.HasPrefix(name, "lxcbr") || strings.HasPrefix(name, "lxdbr") || strings.HasPrefix(name, "incusbr"))
}

// inside are the host itself and the guests' bridge.
func inside(h *Host, d Door, bridges []string, outer netip.Addr) []Vantage {
	var list []Vantage
	six := d.Target.Addr().Is6()
	allowed := func(a netip.Addr) bool {
		return len(d.From) == 0 || slices.ContainsFunc(d.From, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	to := d.Listen
	if to.IsUnspecified() {
		if to = netip.AddrFrom4([4]byte{127, 0, 0, 1}); six {
			to = outer // ::1 cannot be forwarded
		}
	}
	if to.IsValid() && allowed(to) {
		list = append(list, Vantage{"host", "", to, to})
	}
	for _, bridge := range bridges {
		for _, p := range h.Links[bridge].Addresses {
			if p.Addr().Is6() != six || p.Addr().IsLinkLocalUnicast() {
				continue
			}
			to := d.Listen
			if to.IsUnspecified() {
				to = p.Addr()
			}
			source, ok := sourceIn(p, d.From)
			if source == d.Target.Addr() {
				source = source.Next()
			}
			if ok && !to.IsLoopback() && bridge == d.Bridge {
				list = append(list, Vantage{"guests", bridge, source, to})
			}
			break
		}
	}
	return list
}

// sourceIn picks an address of a link's subnet that may use the door.
func sourceIn(p netip.Prefix, from []netip.Prefix) (netip.Addr, bool) {
	pick := func(in netip.Prefix) (netip.Addr, bool) {
		a := in.Masked().Addr()
		if a == p.Masked().Addr() {
			a = a.Next()
		}
		if a == p.Addr() {
			a = a.Next()
		}
		return a, in.Contains(a) && p.Contains(a)
	}
	if len(from) == 0 {
		return pick(p)
	}
	for _, f := range from {
		switch {
		case !f.Overlaps(p):
		case f.Bits() < p.Bits():
			return pick(p)
		default:
			if a, ok := pick(f); ok {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// sourceBeyond picks one that comes by a default route over the link.
func sourceBeyond(h *Host, link string, six bool, p netip.Prefix, from []netip.Prefix) (netip.Addr, bool) {
	a := somewhere4
	if six {
		a = somewhere6
	}
	if len(from) > 0 {
		i := slices.IndexFunc(from, func(f netip.Prefix) bool { return !f.Overlaps(p) })
		if j := slices.IndexFunc(from, func(f netip.Prefix) bool { return f.Bits() == 0 }); j >= 0 {
			i = -1
		} else if i < 0 {
			return a, false
		}
		if i >= 0 {
			if a = from[i].Addr(); from[i].Bits() < a.BitLen() {
				a = a.Next()
			}
		}
	}
	if h.Route == nil {
		return a, false
	}
	r, ok := h.Route(RouteQuery{Target: a})
	return a, ok && r.Type == typeUnicast && r.Out == link
}

// try sends one packet to a port of the door.
func try(rules *ruleset.Ruleset, h *Host, d Door, v Vantage, offset uint16) Reached {
	r := Reached{Vantage: v, Kind: Accepted}
	port := d.First
	if port != 0 {
		port += offset
	}
	p := NewConnection(v.Link, v.Source, d.Proto, v.To, port)
	if hasPorts(d.Proto) {
		p.SourcePort = sourcePort
	}
	target := d.Target
	if target.Port() != 0 {
		target = netip.AddrPortFrom(target.Addr(), target.Port()+offset)
	}
	w := &passage{rules: rules, host: h, Passage: Passage{Kind: Accepted, Packet: p}}
	at := At{Routed, "prerouting"}
	if v.Link == "" {
		at.Hook = "output"
	}
	if !d.Open {
		if t, ok := translatedElsewhere(Walk(rules, h, at, routedFor(h, p, at))); ok {
			return r.taken(t)
		}
		w.pretend = target
	}
	way := w.send
	if v.Link != "" {
		way = w.arrive
	}
	end := way()
	for _, hop := range end.Hops {
		if t, ok := translatedElsewhere(hop.Verdict); ok && hop.At.Hook == at.Hook {
			return r.taken(t)
		}
	}
	r.Kind, r.Why, r.Verdict = end.Kind, end.Why, end.Ends()
	r.Owner = r.Verdict.Owner
	switch final := end.Packet.Target; {
	case r.Kind != Accepted:
	case !final.IsValid():
		r.Kind, r.Why = Unknown, "where a rule sends it is not known"
	case final != target.Addr():
		r.Kind, r.Why = Dropped, "no rule sends it to the guest"
	}
	return r
}

// routedFor sets the interface that output hooks see.
func routedFor(h *Host, p Packet, at At) Packet {
	if at.Hook == "output" {
		p.Out = "lo"
	}
	return p
}

// translatedElsewhere finds a translation of the target by somebody else's rule.
func translatedElsewhere(v Verdict) (Translation, bool) {
	for _, t := range v.Translations {
		if (t.Kind == "dnat" || t.Kind == "redirect") && t.Rule != nil && ruleset.OwnerOfRule(t.Rule) != ruleset.Drawbridge {
			return t, true
		}
	}
	return Translation{}, false
}

func (r Reached) taken(t Translation) Reached {
	r.Taken, r.Owner = &t, ruleset.OwnerOfRule(t.Rule)
	r.Kind = Dropped
	if t.Perhaps {
		r.Kind = Unknown
	}
	r.Why = fmt.Sprintf("%s takes it: %s: %s # handle %d", r.Owner, t.Rule.Chain, t.Rule, t.Rule.Handle)
	return r
}

// WayOut is the command by which the owner of a rule lets in what comes through
// a forward to a guest; "" if none is known.
func WayOut(owner ruleset.Owner, chain *ruleset.Chain, d Door) string {
	proto, to := map[uint8]string{protoTCP: "tcp", protoUDP: "udp", protoSCTP: "sctp"}[d.Proto], d.Target
	switch {
	case proto == "" || chain == nil || chain.Hook != "forward":
		return ""
	case dockersOwn(chain):
		return "see Docker's setting bridge-accept-fwmark"
	case owner == ruleset.UFW:
		return fmt.Sprintf("ufw route allow proto %s to %s port %d", proto, to.Addr(), to.Port())
	case owner == ruleset.Docker && chain.Table.Chain("DOCKER-USER") != nil:
		return fmt.Sprintf("%s -I DOCKER-USER -d %s -p %s --dport %d -j ACCEPT", iptablesOf(chain), to.Addr(), proto, to.Port())
	case owner == ruleset.Firewalld:
		return fmt.Sprintf("firewall-cmd --permanent --new-policy drawbridge && firewall-cmd --permanent --policy drawbridge --add-ingress-zone ANY --add-egress-zone trusted --set-target ACCEPT && "+
			"firewall-cmd --permanent --zone trusted --add-interface %s && firewall-cmd --reload", d.Bridge)
	case owner == ruleset.Iptables, owner == ruleset.Docker:
		return fmt.Sprintf("%s -I FORWARD -d %s -p %s --dport %d -j ACCEPT", iptablesOf(chain), to.Addr(), proto, to.Port())
	}
	return fmt.Sprintf("nft insert rule %s ct status dnat oifname %s accept", chain, d.Bridge)
}

func iptablesOf(c *ruleset.Chain) string {
	if c.Table.Family == ruleset.IP6 {
		return "ip6tables"
	}
	return "iptables"
}

// DefaultSource is the address that the host sends from by its default route;
// invalid if it has none.
func DefaultSource(h *Host, six bool) netip.Addr {
	to := somewhere4
	if six {
		to = somewhere6
	}
	if h.Route == nil {
		return netip.Addr{}
	}
	r, ok := h.Route(RouteQuery{Target: to})
	if !ok || r.Type != typeUnicast {
		return netip.Addr{}
	}
	return r.From
}

// Internet is an address that stands for all of the internet.
func Internet(six bool) netip.Addr {
	if six {
		return somewhere6
	}
	return somewhere4
}

// DefaultGateway is the router that the host sends to by default, over a link or
// over any (""); invalid if there is none.
func DefaultGateway(h *Host, link string, six bool) netip.Addr {
	if h.Route == nil {
		return netip.Addr{}
	}
	r, ok := h.Route(RouteQuery{Target: Internet(six)})
	if !ok || r.Type != typeUnicast || link != "" && r.Out != link {
		return netip.Addr{}
	}
	return r.Via
}

// SourceTowards is the address by which the host is known to another; invalid if
// there is no way to it.
func SourceTowards(h *Host, to netip.Addr) netip.Addr {
	if h.Route == nil {
		return netip.Addr{}
	}
	r, ok := h.Route(RouteQuery{Target: to})
	if !ok {
		return netip.Addr{}
	}
	return r.From
}
