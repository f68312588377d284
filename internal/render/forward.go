package render

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Target asks for the address that a forward's guest has just now.
type Target struct {
	Network spec.NetworkName
	// Guest is what the forward says: a name or a hardware address.
	Guest string
	// Six asks for the IPv6 address.
	Six bool
}

// TargetOf is what has to be found out before a forward can be rendered; false
// if it names an address.
func TargetOf(n spec.NetworkName, f spec.Forward) (Target, bool) {
	_, addr := f.TargetAddr()
	return Target{Network: n, Guest: f.Target, Six: f.Listen.Is6()}, !addr
}

// GuestAddr is the address that a forward leads to just now; false while its
// guest has none.
func (f Facts) GuestAddr(n spec.NetworkName, fwd spec.Forward) (netip.Addr, bool) {
	t, ask := TargetOf(n, fwd)
	if !ask {
		return fwd.TargetAddr()
	}
	a, ok := f.Targets[t]
	return a, ok && a.IsValid()
}

// families, in the words of nft and in the suffix of our maps.
var families = []struct{ digit, ip, addr, any string }{
	{"4", "ip", "ipv4_addr", "0.0.0.0/0"},
	{"6", "ip6", "ipv6_addr", "::/0"},
}

func forwardMaps() []host.Set {
	var all []host.Set
	for _, f := range families {
		for _, at := range []struct{ suffix, field string }{{"", ""}, {"_at", f.addr + " . "}} {
			all = append(all,
				host.Set{Table: routed, Name: mapDoors + f.digit + at.suffix, Type: at.field + "inet_proto . inet_service", Value: f.addr + " . inet_service"},
				host.Set{Table: routed, Name: mapLimited + f.digit + at.suffix, Type: f.addr + " . " + at.field + "inet_proto . inet_service", Value: f.addr + " . inet_service", Interval: true},
				host.Set{Table: routed, Name: mapRanges + f.digit + at.suffix, Type: f.addr + " . " + at.field + "inet_proto . inet_service", Value: f.addr, Interval: true},
			)
		}
		all = append(all,
			host.Set{Table: routed, Name: mapWhole + f.digit, Type: f.addr + " . " + f.addr, Value: f.addr, Interval: true},
			host.Set{Table: routed, Name: mapOneToOne + f.digit, Type: f.addr, Value: f.addr},
		)
	}
	return all
}

// toDoors leads to the maps; the rules of an address come first.
var toDoors = []rule{
	{"jump doors_at", "forwards of one address; the nearer goes first"},
	{"fib daddr type local jump doors_local", "forwards of every address that this host has"},
}

func doorRules(at bool) []rule {
	var all []rule
	for _, f := range families {
		suffix, field := f.digit, ""
		if at {
			suffix, field = f.digit+"_at", f.ip+" daddr . "
		}
		// nft itself reads a port from a map only after a match of the protocol;
		// what it lists of ours shall be loadable by it.
		dnat := "dnat " + f.ip + " to "
		ported := "meta l4proto { tcp, udp, sctp } " + dnat
		source := f.ip + " saddr . "
		all = append(all,
			rule{ported + field + "meta l4proto . th dport map @" + mapDoors + suffix, "single ports"},
			rule{ported + source + field + "meta l4proto . th dport map @" + mapLimited + suffix, "single ports for some sources only"},
			rule{ported + source + field + "meta l4proto . th dport map @" + mapRanges + suffix, "ranges of ports that keep their numbers"},
		)
		if at {
			all = append(all, rule{dnat + source + f.ip + " daddr map @" + mapWhole + f.digit, "whole addresses"})
		}
	}
	return all
}

// ForwardElements are the elements by which a forward leads to a guest at addr.
func ForwardElements(f spec.Forward, addr netip.Addr) []host.Resource {
	fam := families[0]
	if f.Listen.Is6() {
		fam = families[1]
	}
	suffix, field := fam.digit, ""
	if !f.Everywhere() {
		suffix, field = fam.digit+"_at", f.Listen.String()+" . "
	}
	from := []string{fam.any}
	if len(f.From) > 0 {
		from = nil
		for _, p := range f.From {
			// nft writes a prefix of one address as that address.
			if p.IsSingleIP() {
				from = append(from, p.Addr().String())
				continue
			}
			from = append(from, p.String())
		}
	}
	var all []host.Resource
	add := func(set, value, data string) { all = append(all, element(routed, set, value, data)) }
	switch {
	case f.Proto == spec.ProtoAll:
		for _, p := range from {
			add(mapWhole+fam.digit, p+" . "+f.Listen.String(), addr.String())
		}
		add(mapOneToOne+fam.digit, addr.String(), f.Listen.String())
	case !f.Shifted() && f.First != f.Last:
		for _, p := range from {
			add(mapRanges+suffix, p+" . "+field+string(f.Proto)+" . "+f.Ports(), addr.String())
		}
	default:
		for i := range int(f.Last-f.First) + 1 {
			service := field + string(f.Proto) + " . " + strconv.Itoa(int(f.First)+i)
			to := addr.String() + " . " + strconv.Itoa(int(f.TargetPort)+i)
			if len(f.From) == 0 {
				add(mapDoors+suffix, service, to)
				continue
			}
			for _, p := range from {
				add(mapLimited+suffix, p+" . "+service, to)
			}
		}
	}
	return all
}

// forwards asks for what the forwards of a running network need; a forward
// whose guest has no address yet waits, and asks for nothing.
func forwards(w *host.Wish, n spec.Network, f Facts) {
	for fwd := range n.Forwards.All() {
		w.Present.Add(OpenForward(n, fwd, f)...)
	}
	w.Present.Add(ForwardNeeds(n)...)
}

// OpenForward is what one forward of a running network is on the host: nothing,
// while its guest has no address and after its time.
func OpenForward(n spec.Network, fwd spec.Forward, f Facts) []host.Resource {
	addr, ok := f.GuestAddr(n.Name, fwd)
	if !ok || fwd.Until != 0 && fwd.Until <= f.Now {
		return nil
	}
	return ForwardElements(fwd, addr)
}

// doorSets are the maps that only forwards have elements in.
var doorSets = func() map[string]bool {
	names := map[string]bool{}
	for _, s := range forwardMaps() {
		names[s.Table.String()+" "+s.Name] = true
	}
	return names
}()

// IsDoor says whether a key is of an element of a forward.
func IsDoor(k host.Key) bool {
	if k.Kind != host.KindElement {
		return false
	}
	set, _, _ := strings.Cut(k.Name, " {")
	return doorSets[set]
}

// CanForward says whether networks like n can have forwards.
func CanForward(n spec.Network) bool {
	mode, err := ModeOf(n.Mode)
	n.Forwards = spec.MakeForwards(spec.Forward{})
	return err == nil && mode.Validate(n) == nil
}

// ForwardNeeds is what a network with forwards needs besides their elements.
func ForwardNeeds(n spec.Network) []host.Resource {
	if n.Forwards.Len() == 0 {
		return nil
	}
	// Counts of forwards come from connection tracking. With events on 2 (auto)
	// flows that began before somebody listened would end without news.
	needs := []host.Resource{
		host.Sysctl{Path: "net/netfilter/nf_conntrack_acct", Value: "1"},
		host.Sysctl{Path: "net/netfilter/nf_conntrack_events", Value: "1"},
	}
	for fwd := range n.Forwards.All() {
		if fwd.Listen.Is4() && (fwd.Everywhere() || fwd.Listen.IsLoopback()) {
			// The host's 127.0.0.1 reaches the guest only if the bridge may route
			// loopback addresses; chain loopback_guard keeps guests from using it.
			return append(needs, host.LinkSysctl("ipv4", n.Bridge, "route_localnet", "1"))
		}
	}
	return needs
}

// HasForwards says whether networks of a mode can have forwards: those whose guests
// nobody outside reaches otherwise, and who reach what is outside.
func HasForwards(mode spec.ModeName) bool { return mode == nat{}.Name() }

// noForwards refuses forwards on a network of a mode that cannot have them.
func noForwards(n spec.Network, why string) error {
	for f := range n.Forwards.All() {
		return &spec.InvalidError{Field: "forward", Reason: fmt.Sprintf("%s: network %q %s", f.Key(), n.Name, why)}
	}
	return nil
}
