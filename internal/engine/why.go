package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// WhyRequest asks for the path between two ends. An end is a guest's name,
// hardware address or address, host, lan, internet, or any address.
type WhyRequest struct {
	From, To string
	// Proto is tcp, udp, sctp or icmp; "" is tcp with a port, else icmp.
	Proto string
	// Port 0 asks with a ping.
	Port uint16
}

// Why says what becomes of a packet from one end to the other, and where it ends.
func (e *Engine) Why(ctx context.Context, r WhyRequest) (diagnose.Answer, error) {
	scene, q, err := e.scene(ctx, r)
	if err != nil {
		return diagnose.Answer{}, fmt.Errorf("why %s %s: %w", r.From, r.To, err)
	}
	return diagnose.Explain(scene, q), nil
}

// Probed is what became of a packet that was sent to see whether Why is right.
type Probed struct {
	Sent    string
	Verdict diagnose.Kind
	// Agrees says whether it is what Why said.
	Agrees bool
	Trace  []diagnose.TraceStep
}

// WhyProbe is Why, and sends one such packet and follows it by the kernel's own
// tracing.
func (e *Engine) WhyProbe(ctx context.Context, r WhyRequest) (diagnose.Answer, Probed, error) {
	a, err := e.Why(ctx, r)
	if err != nil {
		return a, Probed{}, err
	}
	p := a.Sent
	switch {
	case !p.Source.IsValid() || !p.Target.IsValid():
		return a, Probed{Sent: "nothing: there are no addresses to send between", Verdict: diagnose.Unknown, Agrees: true}, nil
	case a.Past:
		return a, Probed{Sent: "nothing: such a packet passes the rules of this host by, and leaves no trace", Verdict: diagnose.Unknown, Agrees: true}, nil
	}
	done := Probed{Sent: fmt.Sprintf("one packet from %s to %s, as if it came in at %s", p.Source, p.Target, a.Port)}
	if a.Port == "" {
		done.Sent = fmt.Sprintf("one packet of this host from %s to %s", p.Source, p.Target)
	}
	if done.Trace, err = e.Paths.Probe(ctx, p, a.Port, a.FirstMAC); err != nil {
		return a, done, fmt.Errorf("why %s %s: %w", r.From, r.To, err)
	}
	done.Verdict, done.Agrees = diagnose.Traced(a, done.Trace)
	return a, done, nil
}

// scene reads the host and finds both ends.
func (e *Engine) scene(ctx context.Context, r WhyRequest) (*diagnose.Scene, diagnose.PathQuestion, error) {
	var q diagnose.PathQuestion
	if e.Paths == nil {
		return nil, q, fmt.Errorf("nobody can read this host's rules")
	}
	var err error
	if q.Proto, err = numberOf(r); err != nil {
		return nil, q, err
	}
	q.Port = r.Port
	scene, err := e.Paths.Scene(ctx)
	if err != nil {
		return nil, q, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	f := finder{e: e, scene: scene, doc: e.Store.Document()}
	f.collect(ctx)
	six := f.wantsSix(r.From) || f.wantsSix(r.To)
	if q.From, err = f.find(r.From, six); err != nil {
		return nil, q, err
	}
	if q.To, err = f.find(r.To, six); err != nil {
		return nil, q, err
	}
	q.From, q.To = f.card(r.From, q.From, q.To), f.card(r.To, q.To, q.From)
	f.face(&q, six)
	if six && q.Proto == protocolOf["icmp"] {
		q.Proto = 58
	}
	return scene, q, nil
}

var protocolOf = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1}

func numberOf(r WhyRequest) (uint8, error) {
	name := r.Proto
	if name == "" {
		if name = "icmp"; r.Port != 0 {
			name = "tcp"
		}
	}
	n, ok := protocolOf[name]
	switch {
	case !ok:
		return 0, &spec.InvalidError{Field: "proto", Reason: fmt.Sprintf("%q is not tcp, udp, sctp or icmp", name)}
	case name == "icmp" && r.Port != 0:
		return 0, &spec.InvalidError{Field: "proto", Reason: "a ping has no port"}
	case name != "icmp" && r.Port == 0:
		return 0, &spec.InvalidError{Field: "port", Reason: "say to which port: TO:PORT"}
	}
	return n, nil
}

// finder finds ends of paths.
type finder struct {
	e     *Engine
	scene *diagnose.Scene
	doc   spec.Document
	// heard are the addresses of guests that have them from others.
	heard []Heard
}

// collect lists all guests with their ports and addresses.
func (f *finder) collect(ctx context.Context) {
	f.heard, _ = f.e.Services.Heard(ctx) // else they are not known just now
	for _, name := range f.doc.Names() {
		n := f.doc.Networks[name]
		seen := map[string]bool{}
		add := func(guest, mac, port string, addrs []netip.Addr) {
			if mac != "" && seen[mac] {
				return
			}
			seen[mac] = true
			if port == "" {
				port = f.scene.Learned[n.Bridge][mac]
			}
			base := diagnose.End{Kind: diagnose.Guest, Name: guest, MAC: mac, Port: port, Bridge: n.GuestLink(), Plugged: port != "", Network: string(name)}
			if len(addrs) == 0 {
				f.scene.Guests = append(f.scene.Guests, base)
			}
			for _, a := range addrs {
				one := base
				one.Addr = a
				one.Subnet, one.Gateway = f.subnet(n, a)
				one.NoRouter = n.Mode == "isolated"
				f.scene.Guests = append(f.scene.Guests, one)
			}
		}
		for _, p := range f.e.live {
			if p.Network == string(name) {
				add(nameOr(p.Guest, p.Tap), p.MAC, p.Tap, f.addresses(n, p.MAC))
			}
		}
		for key, l := range f.e.leases {
			if key.network == name {
				add(f.nameOf(n, l.MAC, nameOr(l.Hostname, l.Address)), l.MAC, "", f.addresses(n, l.MAC))
			}
		}
		for _, r := range n.Reservations {
			add(nameOr(r.Hostname, r.Addr.String()), r.MAC, "", f.addresses(n, r.MAC))
		}
		for port, mac := range f.others(n) {
			add(port, mac, port, f.addresses(n, mac))
		}
	}
	slices.SortFunc(f.scene.Guests, func(a, b diagnose.End) int { return strings.Compare(a.Name+a.Port, b.Name+b.Port) })
}

// others are the hardware addresses on ports that other programs made, by port, on a
// network where we give out no addresses.
func (f *finder) others(n spec.Network) map[string]string {
	found := map[string]string{}
	if !render.Open(n) || !n.Started {
		return found
	}
	for mac, port := range f.scene.Learned[n.Bridge] {
		if l := f.scene.Host.Links[port]; !render.IsUplink(n, host.Link{Name: port, Type: l.Kind}) {
			found[port] = mac
		}
	}
	for name, l := range f.scene.Host.Links {
		if l.Kind == host.TypeMacvtap && l.Lower == n.GuestLink() {
			found[name] = l.MAC
		}
	}
	for tap := range f.e.live {
		delete(found, tap)
	}
	return found
}

func (f *finder) nameOf(n spec.Network, mac, other string) string {
	for _, r := range n.Reservations {
		if r.MAC == mac && r.Hostname != "" {
			return r.Hostname
		}
	}
	return other
}

// addresses are those that a guest's NIC has: leased, reserved, or seen.
func (f *finder) addresses(n spec.Network, mac string) []netip.Addr {
	var found []netip.Addr
	add := func(a netip.Addr) {
		if a.IsValid() && !a.IsLinkLocalUnicast() && !slices.Contains(found, a) {
			found = append(found, a)
		}
	}
	if mac == "" {
		return nil
	}
	if l, ok := f.e.leases[leaseKey{n.Name, mac}]; ok {
		if a, err := netip.ParseAddr(l.Address); err == nil {
			add(a)
		}
	}
	for _, r := range n.Reservations {
		if r.MAC == mac {
			add(r.Addr)
		}
	}
	for a, seen := range f.scene.Neighbours[n.Bridge] {
		if seen.MAC == mac && !seen.Failed {
			add(a)
		}
	}
	for _, h := range f.heard {
		if l := f.scene.Host.Links[h.Tap]; h.MAC == mac && n.GuestLink() == (host.Link{Type: l.Kind, Master: l.Master, Lower: l.Lower}).On() {
			add(h.Addr)
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return found
}

// subnet is that of a guest's address, with the gateway that it was told. On a
// bridged network both are those of the host.
func (f *finder) subnet(n spec.Network, a netip.Addr) (netip.Prefix, netip.Addr) {
	for _, s := range n.Subnets {
		if s.Prefix.Contains(a) {
			return s.Prefix, s.Gateway
		}
	}
	for _, p := range f.scene.Host.Links[n.GuestLink()].Addresses {
		if p.Contains(a) {
			return p.Masked(), diagnose.DefaultGateway(f.scene.Host, n.GuestLink(), a.Is6())
		}
	}
	return netip.Prefix{}, netip.Addr{}
}

func (f *finder) wantsSix(text string) bool {
	a, err := netip.ParseAddr(text)
	return err == nil && a.Is6()
}

// find resolves one end.
func (f *finder) find(text string, six bool) (diagnose.End, error) {
	switch text {
	case "host":
		return diagnose.End{Kind: diagnose.Itself, Name: "host"}, nil
	case "internet":
		return diagnose.End{Kind: diagnose.Outside, Name: text, Addr: diagnose.Internet(six)}, nil
	case "lan":
		a := diagnose.DefaultGateway(f.scene.Host, "", six)
		if !a.IsValid() {
			return diagnose.End{}, &spec.InvalidError{Field: "lan", Reason: "the host has no default route, so its LAN is not known; give an address of it"}
		}
		return diagnose.End{Kind: diagnose.Outside, Name: text, Addr: a}, nil
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return f.at(a), nil
	}
	var other *diagnose.End
	for _, g := range f.scene.Guests {
		if !f.isCalled(g, text) {
			continue
		}
		if g.Addr.IsValid() && g.Addr.Is6() == six {
			return g, nil
		}
		if other == nil || !other.Addr.IsValid() {
			other = &g
		}
	}
	if other != nil {
		if other.Addr.IsValid() && other.Addr.Is6() != six {
			other.Addr = netip.Addr{} // it has none of the family that is asked for
		}
		return *other, nil
	}
	there := []string{"host", "lan", "internet"}
	for _, g := range f.scene.Guests {
		there = append(there, g.Name)
	}
	return diagnose.End{}, fmt.Errorf("guest %s: %w%s; an end is a guest, host, lan, internet or an address", text, spec.ErrNotFound, spec.Meant(text, there))
}

// isCalled says whether a guest is meant by a name, also with its network's domain, or by
// a hardware address.
func (f *finder) isCalled(g diagnose.End, text string) bool {
	text = strings.ToLower(strings.TrimSuffix(text, "."))
	short, in := strings.CutSuffix(text, "."+strings.ToLower(f.doc.Networks[spec.NetworkName(g.Network)].Domain))
	return g.MAC == text || strings.EqualFold(g.Name, text) || in && strings.EqualFold(g.Name, short)
}

// card is the port of a guest with several, that was asked for by its name, which
// leads to the other end.
func (f *finder) card(text string, e, other diagnose.End) diagnose.End {
	if e.Kind != diagnose.Guest || !strings.EqualFold(e.Name, text) {
		return e
	}
	for _, g := range f.scene.Guests {
		if g.Name == e.Name && g.Addr.IsValid() && g.Addr.Is6() == e.Addr.Is6() && g.Bridge == other.Bridge && other.Kind == diagnose.Guest {
			return g
		}
	}
	card, _ := diagnose.Card(f.scene.Guests, e, other.Addr)
	return card
}

// at is the end that has an address.
func (f *finder) at(a netip.Addr) diagnose.End {
	for _, g := range f.scene.Guests {
		if g.Addr == a {
			return g
		}
	}
	for _, l := range f.scene.Host.Links {
		if slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return diagnose.End{Kind: diagnose.Itself, Name: a.String(), Addr: a}
		}
	}
	return diagnose.End{Kind: diagnose.Outside, Name: a.String(), Addr: a}
}

// ownAddr is the host's address as a guest knows it: the guest's gateway where the host is
// that, else one beside the guest's own.
func (f *finder) ownAddr(guest diagnose.End) netip.Addr {
	if f.at(guest.Gateway).Kind == diagnose.Itself {
		return guest.Gateway
	}
	for _, p := range f.scene.Host.Links[guest.Bridge].Addresses {
		if p.Contains(guest.Addr) {
			return p.Addr()
		}
	}
	return diagnose.SourceTowards(f.scene.Host, guest.Addr)
}

// face gives the host the address by which the other end knows it.
func (f *finder) face(q *diagnose.PathQuestion, six bool) {
	self, other := &q.To, q.From
	if self.Kind != diagnose.Itself || self.Addr.IsValid() {
		return
	}
	switch other.Kind {
	case diagnose.Guest:
		self.Addr = f.ownAddr(other)
	case diagnose.Itself:
		self.Addr = netip.IPv6Loopback()
		if !six {
			self.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	default:
		self.Addr = diagnose.SourceTowards(f.scene.Host, other.Addr)
	}
}
