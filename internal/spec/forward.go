package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Proto is the transport protocol of a forward.
type Proto string

// The protocols that can be forwarded. ProtoAll is that of a forward of a whole
// address (1:1 NAT), which takes every protocol and has no ports.
const (
	TCP      Proto = "tcp"
	UDP      Proto = "udp"
	SCTP     Proto = "sctp"
	ProtoAll Proto = "all"
)

// Forward is one open door: what arrives at Listen goes to a guest. It belongs
// to the network that the guest is on. Forwards are compared by Key; they are
// values, From is never changed in place.
type Forward struct {
	Proto Proto
	// Listen is an address, or the unspecified one of a family for every
	// address of this host in it, present and future.
	Listen netip.Addr
	// First and Last are the ports listened on, both included, 1 to 65535; both
	// 0 with ProtoAll.
	First, Last uint16
	// Target is the guest: its name (a DNS label), its hardware address, or its
	// address on the network.
	Target string
	// TargetPort is the guest's port for First; the others follow in order. 0
	// with ProtoAll.
	TargetPort uint16
	// From limits who may use the door; empty means everybody. The prefixes are
	// masked, sorted, and none lies in another.
	From []netip.Prefix
	// Until is when the door closes by itself, in seconds since 1970; 0 never.
	Until int64
	// Comment is a remark for people, at most 200 characters.
	Comment string
}

// Key identifies a forward on its host, as people type it:
// tcp/8080, udp/192.168.99.66:5000-5010, tcp/[::]:80, all/192.168.99.70. No
// address stands for every IPv4 address of the host.
func (f Forward) Key() string {
	listen := ""
	switch {
	case f.Proto == ProtoAll:
		return string(f.Proto) + "/" + f.Listen.String()
	case f.Listen.Is6():
		listen = "[" + f.Listen.String() + "]:"
	case !f.Everywhere():
		listen = f.Listen.String() + ":"
	}
	return string(f.Proto) + "/" + listen + f.Ports()
}

// Ports writes the ports listened on, N or N-M.
func (f Forward) Ports() string {
	if f.First == f.Last {
		return fmt.Sprint(f.First)
	}
	return fmt.Sprintf("%d-%d", f.First, f.Last)
}

// Everywhere says whether the forward listens on every address of the host.
func (f Forward) Everywhere() bool { return f.Listen.IsUnspecified() }

// Shifted says whether guest and host use different port numbers.
func (f Forward) Shifted() bool { return f.TargetPort != f.First }

// TargetAddr is the target, if it was given as an address.
func (f Forward) TargetAddr() (netip.Addr, bool) {
	a, err := netip.ParseAddr(f.Target)
	return a, err == nil
}

// TargetMAC is the target, if it was given as a hardware address.
func (f Forward) TargetMAC() (string, bool) {
	if strings.Count(f.Target, ":") != 5 {
		return "", false
	}
	mac, err := ParseMAC(f.Target)
	return mac, err == nil
}

// Equal compares by value.
func (f Forward) Equal(o Forward) bool {
	return f.Proto == o.Proto && f.Listen == o.Listen && f.First == o.First && f.Last == o.Last && f.Target == o.Target &&
		f.TargetPort == o.TargetPort && f.Until == o.Until && f.Comment == o.Comment && slices.Equal(f.From, o.From)
}

// Compare is the order of a network's list: family, address, ports, protocol.
func (f Forward) Compare(o Forward) int {
	return cmp.Or(f.Listen.Compare(o.Listen), cmp.Compare(f.First, o.First), cmp.Compare(f.Last, o.Last), cmp.Compare(f.Proto, o.Proto))
}

// Overlaps says whether both listen on some port of one address: then one of
// them would never be reached. A forward of one address beside one of every
// address does not overlap, the nearer goes first; nor does a forward of a
// port beside one of the whole address.
func (f Forward) Overlaps(o Forward) bool {
	return f.Proto == o.Proto && f.Listen == o.Listen && f.First <= o.Last && o.First <= f.Last
}

// Validate checks a forward by itself; the first *InvalidError found.
func (f Forward) Validate() error {
	if !f.Listen.IsValid() || f.Listen.Zone() != "" || f.Listen.Is4In6() || f.Listen.IsMulticast() {
		return invalid("listen", "%q is not an address of a host", f.Listen)
	}
	if f.Listen == netip.IPv6Loopback() {
		return invalid("listen", "::1 cannot be forwarded: the kernel has no route_localnet for IPv6; use an address of a network card")
	}
	if err := f.validatePorts(); err != nil {
		return err
	}
	if err := f.validateTarget(); err != nil {
		return err
	}
	for i, p := range f.From {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4() != f.Listen.Is4() {
			return invalid("from", "%s is not a prefix of the family of %s", p, f.Listen)
		}
		if i > 0 && (f.From[i-1].Overlaps(p) || f.From[i-1].Addr().Compare(p.Addr()) >= 0) {
			return invalid("from", "%s and %s overlap or are not in order", f.From[i-1], p)
		}
	}
	if len(f.Comment) > 200 || strings.ContainsFunc(f.Comment, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return invalid("comment", "a comment has at most 200 characters and no control characters")
	}
	if f.Until < 0 {
		return invalid("for", "a time before 1970")
	}
	return nil
}

func (f Forward) validatePorts() error {
	if f.Proto == ProtoAll {
		if f.First != 0 || f.Last != 0 || f.TargetPort != 0 {
			return invalid("port", "a forward of a whole address has no ports")
		}
		if f.Everywhere() {
			return invalid("listen", "a forward of all ports needs one address of its own: LISTEN_IP")
		}
		if f.Listen.IsLoopback() {
			return invalid("listen", "%s: a loopback address cannot be given to a guest as a whole", f.Listen)
		}
		return nil
	}
	if f.Proto != TCP && f.Proto != UDP && f.Proto != SCTP {
		return invalid("proto", "%q is not tcp, udp, sctp or both", f.Proto)
	}
	if f.First == 0 || f.Last < f.First {
		return invalid("port", "%d-%d is not a range of ports between 1 and 65535", f.First, f.Last)
	}
	if f.TargetPort == 0 || int(f.TargetPort)+int(f.Last-f.First) > 65535 {
		return invalid("port", "%d ports from %d on do not fit below 65536", int(f.Last-f.First)+1, f.TargetPort)
	}
	return nil
}

func (f Forward) validateTarget() error {
	if a, ok := f.TargetAddr(); ok {
		if a.Is4() != f.Listen.Is4() {
			return invalid("guest", "%s is of another family than %s", a, f.Listen)
		}
		return nil
	}
	if mac, ok := f.TargetMAC(); ok {
		if mac != f.Target {
			return invalid("guest", "%q is not written as %s", f.Target, mac)
		}
		return nil
	}
	if !isLabel(f.Target) {
		return invalid("guest", "%q is not the name, hardware address or IP address of a guest", f.Target)
	}
	return nil
}

// validateForwards checks the forwards of a settled network.
func (n Network) validateForwards() error {
	var before Forward
	for f := range n.Forwards.All() {
		if err := f.Validate(); err != nil {
			return fmt.Errorf("forward %s: %w", f.Key(), err)
		}
		if before.Proto != "" && before.Compare(f) >= 0 {
			return invalid("forward", "%s is there twice, or out of order", f.Key())
		}
		before = f
		if err := n.targetable(f); err != nil {
			return err
		}
	}
	return nil
}

// targetable checks that the target of f can be on the network.
func (n Network) targetable(f Forward) error {
	subnet, ok := n.Subnet4()
	family := "IPv4"
	if f.Listen.Is6() {
		subnet, ok = n.Subnet6()
		family = "IPv6"
	}
	if !ok {
		return invalid("listen", "%s: network %q has no %s subnet", f.Key(), n.Name, family)
	}
	a, isAddr := f.TargetAddr()
	if !isAddr {
		return nil
	}
	switch {
	case !subnet.Prefix.Contains(a):
		return invalid("guest", "%s is not in %s of network %q", a, subnet.Prefix, n.Name)
	case a == subnet.Gateway:
		return invalid("guest", "%s is the host's own address on network %q", a, n.Name)
	case a == subnet.Prefix.Addr() || a.Is4() && a == LastAddr(subnet.Prefix):
		return invalid("guest", "%s is the network or broadcast address of %s", a, subnet.Prefix)
	}
	return nil
}

// ForwardConflict finds two forwards of a document that listen on one port of
// one address.
func (d Document) ForwardConflict() error {
	var all []Forward
	for _, name := range d.Names() {
		all = append(all, d.Networks[name].Forwards.List()...)
	}
	// Within one protocol and address a range can only overlap the range that
	// reaches farthest among those that begin before it.
	slices.SortFunc(all, func(a, b Forward) int { return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.Compare(b)) })
	var widest Forward
	for i, f := range all {
		if i > 0 && widest.Overlaps(f) {
			return invalid("forward", "%s overlaps %s, which goes to %s", f.Key(), widest.Key(), widest.Target)
		}
		if i == 0 || widest.Proto != f.Proto || widest.Listen != f.Listen || f.Last > widest.Last {
			widest = f
		}
	}
	return nil
}

// Beside checks that f, which is on the named network, overlaps no other
// forward of the document.
func (d Document) Beside(f Forward, network NetworkName) error {
	for name, n := range d.Networks {
		for o := range n.Forwards.All() {
			if f.Overlaps(o) && (name != network || f.Compare(o) != 0) {
				return invalid("forward", "%s overlaps %s, which goes to %s on network %q", f.Key(), o.Key(), o.Target, name)
			}
		}
	}
	return nil
}

// FindForward finds a forward by its key, and the network that it is on.
func (d Document) FindForward(key string) (Network, Forward, bool) {
	for _, name := range d.Names() {
		n := d.Networks[name]
		for f := range n.Forwards.All() {
			if f.Key() == key {
				return n, f, true
			}
		}
	}
	return Network{}, Forward{}, false
}

// WithForward returns the network with f, in place of one with the same key.
func (n Network) WithForward(f Forward) Network {
	n.Forwards = n.Forwards.With(f)
	return n
}

// WithoutForward returns the network without the forward of f's key.
func (n Network) WithoutForward(f Forward) Network {
	n.Forwards = n.Forwards.Without(f)
	return n
}

// SettleForward fills in what was left open in a forward of the network: every
// address of the target's family, IPv4 before IPv6, and the same port.
func (n Network) SettleForward(f Forward) Forward {
	if !f.Listen.IsValid() {
		a, isAddr := f.TargetAddr()
		_, four := n.Subnet4()
		f.Listen = netip.IPv4Unspecified()
		if isAddr && a.Is6() || !isAddr && !four && len(n.Subnets) > 0 {
			f.Listen = netip.IPv6Unspecified()
		}
	}
	if f.TargetPort == 0 {
		f.TargetPort = f.First
	}
	return f
}

// WithForwards returns the network with these forwards and no others.
func (n Network) WithForwards(list []Forward) Network {
	n.Forwards = MakeForwards(list...)
	return n
}
