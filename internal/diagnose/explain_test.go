package diagnose

import (
	"net/netip"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
)

func addrOf(s string) netip.Addr { return netip.MustParseAddr(s) }

// bridgeScene is a host whose br0 has the LAN's card up0 and the taps of guests a
// and b, as a kernel of Debian's shows one (`ip -d link`, `bridge vlan show`).
func bridgeScene() *Scene {
	port := func() Link { return Link{Kind: "tun", Master: "br0", Up: true, Carrier: true, MTU: 1500} }
	links := map[string]Link{
		"br0":  {Index: 2, Kind: host.TypeBridge, Up: true, Carrier: true, MTU: 1500, MAC: "02:00:00:00:00:01", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.99.66/24")}, Forward4: true},
		"up0":  port(),
		"tapa": port(), "tapb": port(),
	}
	guest := func(name, addr, mac string) End {
		return End{Kind: Guest, Name: name, Addr: addrOf(addr), MAC: mac, Port: "tap" + name, Bridge: "br0", Plugged: true, Subnet: netip.MustParsePrefix("192.168.99.0/24"), Gateway: addrOf("192.168.99.1"), Network: "lan"}
	}
	s := &Scene{
		Rules:      &ruleset.Ruleset{},
		Host:       &Host{Links: links},
		Neighbours: map[string]map[netip.Addr]Heard{"br0": {addrOf("192.168.99.1"): {MAC: "02:00:00:00:00:99"}}},
		Learned:    map[string]map[string]string{"br0": {"02:00:00:00:00:99": "up0"}},
		Places:     map[string]map[string][]Place{"br0": {}},
		Guests:     []End{guest("a", "192.168.99.10", "52:54:00:00:00:0a"), guest("b", "192.168.99.11", "52:54:00:00:00:0b")},
	}
	s.Host.Route = func(q RouteQuery) (RouteAnswer, bool) {
		for _, l := range links {
			if hasAddr(l, q.Target) {
				return RouteAnswer{Type: typeLocal, Out: "lo"}, true
			}
		}
		return RouteAnswer{Type: typeUnicast, Out: "br0", From: addrOf("192.168.99.66")}, true
	}
	return s
}

func (s *Scene) change(link string, f func(*Link)) {
	l := s.Host.Links[link]
	f(&l)
	s.Host.Links[link] = l
}

// filtering switches VLANs on, with every port in VLAN 1.
func (s *Scene) filtering() {
	for name := range s.Host.Links {
		s.change(name, func(l *Link) { l.VLANs = host.VLANSet{1: host.PVID | host.Untagged} })
	}
	s.change("br0", func(l *Link) { l.Filters = true })
}

func TestExplainOnBridges(t *testing.T) {
	access := func(id int) host.VLANSet { return host.VLANSet{id: host.PVID | host.Untagged} }
	a, b := 0, 1
	lan := End{Kind: Outside, Name: "lan", Addr: addrOf("192.168.99.1")}
	self := End{Kind: Itself, Name: "host", Addr: addrOf("192.168.99.66")}
	elsewhere := End{Kind: Guest, Name: "c", Addr: addrOf("10.5.0.5"), MAC: "52:54:00:00:00:0c", Port: "tapc", Bridge: "virbr1", Plugged: true, Network: "lab"}
	for _, c := range []struct {
		name   string
		spoil  func(*Scene)
		to     any // index of a guest, or an End
		kind   Kind
		says   string
		mend   string
		filter bool
	}{
		{"all is well", func(*Scene) {}, b, Accepted, "reaches b", "", false},
		{"one VLAN", func(*Scene) {}, b, Accepted, "reaches b", "", true},
		{"another VLAN", func(s *Scene) { s.change("tapb", func(l *Link) { l.VLANs = access(30) }) }, b, Dropped,
			"ends at port tapb: different VLANs: what a sends is in VLAN 1, and b's port in 30", "bridge vlan add dev tapb vid 1 pvid untagged; bridge vlan del dev tapb vid 30", true},
		{"not filtered", func(s *Scene) { s.change("tapb", func(l *Link) { l.VLANs = access(30) }) }, b, Accepted, "reaches b", "", false},
		{"both in the other", func(s *Scene) {
			for _, p := range []string{"tapa", "tapb"} {
				s.change(p, func(l *Link) { l.VLANs = access(30) })
			}
		}, b, Accepted, "reaches b", "", true},
		{"no VLAN without a tag", func(s *Scene) { s.change("tapa", func(l *Link) { l.VLANs = host.VLANSet{30: 0} }) }, b, Dropped, "it has no VLAN for them (no PVID)", "bridge vlan add dev tapa vid VLAN pvid untagged", true},
		{"the tag stays on", func(s *Scene) { s.change("tapb", func(l *Link) { l.VLANs = host.VLANSet{1: host.PVID} }) }, b, Dropped, "comes out with the tag of VLAN 1, though b sends without one", "bridge vlan add dev tapb vid 1 pvid untagged", true},
		{"the host is in another", func(s *Scene) { s.change("tapa", func(l *Link) { l.VLANs = access(30) }) }, self, Dropped,
			"ends at bridge br0: different VLANs: the frame is in VLAN 30, and the host has 192.168.99.66 in 1", "bridge vlan add dev tapa vid 1 pvid untagged; bridge vlan del dev tapa vid 30", true},
		{"the uplink does not carry it", func(s *Scene) { s.change("tapa", func(l *Link) { l.VLANs = access(30) }) }, lan, Dropped,
			"ends at port up0: different VLANs: what a sends is in VLAN 30, and 192.168.99.1's port in 1", "bridge vlan add dev up0 vid 30", true},
		{"the uplink carries it with a tag", func(s *Scene) {
			s.change("tapa", func(l *Link) { l.VLANs = access(30) })
			s.change("up0", func(l *Link) { l.VLANs = host.VLANSet{1: host.PVID | host.Untagged, 30: 0} })
			s.Places["br0"]["02:00:00:00:00:99"] = []Place{{Port: "up0", VLAN: 30}}
		}, lan, Accepted, "reaches lan", "", true},
		{"the uplink carries it, and the LAN is in another", func(s *Scene) {
			s.change("tapa", func(l *Link) { l.VLANs = access(30) })
			s.change("up0", func(l *Link) { l.VLANs = host.VLANSet{1: host.PVID | host.Untagged, 30: 0} })
			s.Places["br0"]["02:00:00:00:00:99"] = []Place{{Port: "up0", VLAN: 1}}
		}, lan, Dropped, "ends at bridge br0: different VLANs: the frame is in VLAN 30, and 192.168.99.1 is in 1", "", true},
		{"the uplink carries it, and where the LAN is was not seen", func(s *Scene) {
			s.change("tapa", func(l *Link) { l.VLANs = access(30) })
			s.change("up0", func(l *Link) { l.VLANs = host.VLANSet{1: host.PVID | host.Untagged, 30: 0} })
		}, lan, Unknown, "whether that is in 30 too is not known", "", true},
		{"isolated", func(s *Scene) {
			for _, p := range []string{"tapa", "tapb"} {
				s.change(p, func(l *Link) { l.Isolated = true })
			}
		}, b, Dropped, "both ports are isolated", "ip link set tapb type bridge_slave isolated off", false},
		{"spanning tree", func(s *Scene) { s.change("tapa", func(l *Link) { l.Waits = "listening" }) }, b, Dropped, "does not forward yet: it is listening", "ip link set br0 type bridge stp_state 0 && ip link set br0 type bridge forward_delay 0 && bridge link set dev tapa state 3", false},
		{"a guest of another network, by somebody else's router", func(s *Scene) {
			s.Host.Links["virbr1"] = Link{Kind: host.TypeBridge, Up: true, Carrier: true, MTU: 1500}
			s.Host.Links["tapc"] = Link{Kind: "tun", Master: "virbr1", Up: true, Carrier: true, MTU: 1500}
			s.Guests = append(s.Guests, elsewhere)
		}, elsewhere, Unknown, "it goes out to look for 10.5.0.5, which is a guest of this host", "", false},
		{"a wrong entry by hand", func(s *Scene) { s.Places["br0"]["52:54:00:00:00:0b"] = []Place{{Port: "up0", Fixed: true}} }, b, Dropped,
			"somebody told it that 52:54:00:00:00:0b is behind up0", "bridge fdb del 52:54:00:00:00:0b dev up0 master", false},
		{"of another VLAN", func(s *Scene) { s.Places["br0"]["52:54:00:00:00:0b"] = []Place{{Port: "up0", Fixed: true, VLAN: 30}} }, b, Accepted, "", "", true},
		{"locked", func(s *Scene) { s.change("tapa", func(l *Link) { l.Locked = true }) }, b, Dropped, "it is locked", "ip link set tapa type bridge_slave locked off", false},
		{"a small MTU", func(s *Scene) { s.change("tapb", func(l *Link) { l.MTU = 1400 }) }, b, Accepted, "", "", false},
		{"the router does not answer", func(s *Scene) {
			s.Neighbours["br0"][addrOf("192.168.99.1")] = Heard{Failed: true}
		}, self, Accepted, "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := bridgeScene()
			if c.filter {
				s.filtering()
			}
			c.spoil(s)
			q := PathQuestion{From: s.Guests[a], Proto: protoICMP}
			switch to := c.to.(type) {
			case int:
				q.To = s.Guests[to]
			case End:
				q.To = to
			}
			said := Explain(s, q)
			if said.Kind != c.kind || !strings.Contains(said.Sentence, c.says) || said.Mend != c.mend {
				t.Errorf("%s: %s\nmend: %s\nwant %s: %s\nmend: %s\nsteps: %+v", said.Kind, said.Sentence, said.Mend, c.kind, c.says, c.mend, said.Steps)
			}
			if c.name == "a small MTU" && (said.MTU != 1400 || len(said.Notes) != 1 || !strings.Contains(said.Notes[0], "more than 1400 bytes are dropped in silence at port tapb")) {
				t.Errorf("MTU %d, notes %q", said.MTU, said.Notes)
			}
		})
	}
}

// An answer comes back where the packet went out, or where its source's address
// is; where that is no way from outside, it is not known.
func TestExplainWayBack(t *testing.T) {
	eth := func(addr string) Link {
		return Link{Up: true, Carrier: true, MTU: 1500, Forward4: true, Addresses: []netip.Prefix{netip.MustParsePrefix(addr)}}
	}
	far := End{Kind: Outside, Name: "far", Addr: addrOf("203.0.113.9")}
	for _, c := range []struct {
		name, source string
		usual        string // by which the host sends to far
		out          string // by which a rule sends this packet
		kind         Kind
		says         string
	}{
		{"one way", "10.1.0.2", "eth0", "eth0", Accepted, ""},
		{"another card, as its own address", "10.2.0.2", "eth0", "eth1", Accepted, ""},
		{"another card, as the first's address", "10.1.0.2", "eth0", "eth1", Accepted, "comes in at eth0, while the question went out at eth1"},
		{"as an address of neither", "10.3.0.1", "eth0", "eth1", Unknown, "where 203.0.113.9 sends its answer is not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Scene{Rules: &ruleset.Ruleset{}, Host: &Host{Links: map[string]Link{"eth0": eth("10.1.0.2/24"), "eth1": eth("10.2.0.2/24"), "dummy": eth("10.3.0.1/24")}}}
			s.Host.Route = func(q RouteQuery) (RouteAnswer, bool) {
				switch {
				case q.Target != far.Addr:
					return RouteAnswer{Type: typeLocal, Out: "lo"}, true
				case q.Source.IsValid():
					return RouteAnswer{Type: typeUnicast, Out: c.out, From: q.Source}, true
				}
				return RouteAnswer{Type: typeUnicast, Out: c.usual, From: addrOf(c.source)}, true
			}
			said := Explain(s, PathQuestion{From: End{Kind: Itself, Name: "host"}, To: far, Proto: protoICMP})
			text := said.Sentence
			for _, step := range said.Steps {
				text += "\n" + step.What
			}
			if said.Kind != c.kind || !strings.Contains(text, c.says) {
				t.Errorf("%s: %s", said.Kind, text)
			}
		})
	}
}
