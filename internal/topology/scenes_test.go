package topology

import (
	"fmt"
	"net/netip"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

func vlanOn(lower string) func(*host.Link) {
	return func(l *host.Link) { l.Type, l.Lower = typeVLAN, lower }
}

// scene is a host with one NIC and networks of so many guests each.
type scene struct {
	Input
	taps int
}

func newScene() *scene {
	return &scene{Input: Input{
		State: host.NewState(
			nic("lo"), addr("lo", "127.0.0.1/8"),
			nic("enp6s18"), addr("enp6s18", "192.168.99.66/24"), gateway("enp6s18", "192.168.99.1", 100),
		),
		Document: document(), Links: map[string]Link{"enp6s18": {Index: 2, SpeedMbit: 1000}}, Host: "hv1",
	}}
}

func (s *scene) network(n spec.Network) {
	s.Document.Networks[n.Name] = n
	s.State.Add(nic(n.Bridge, typed(host.TypeBridge)))
	for _, sub := range n.Subnets {
		s.State.Add(host.Address{Link: n.Bridge, Addr: netip.PrefixFrom(sub.Gateway, sub.Prefix.Bits())})
	}
}

func (s *scene) guest(bridge, name string, address ...string) {
	tap := fmt.Sprintf("vnet%d", s.taps)
	s.State.Add(nic(tap, typed(host.TypeTap), within(bridge)))
	s.Links[tap] = Link{Index: 10 + s.taps}
	s.Ports = append(s.Ports, Port{
		Bridge: bridge, Tap: tap, Guest: name, MAC: fmt.Sprintf("52:54:00:69:%02x:%02x", s.taps/256, s.taps%256), Addresses: address, Owner: "qemu-system-x86 4242",
	})
	s.taps++
}

func (s *scene) door(key, listen, target, guest, address, waiting string) {
	s.Forwards = append(s.Forwards, Forward{Key: key, Listen: listen, Target: target, Guest: guest, Address: address, Waiting: waiting, Network: "default"})
}

// readme is the picture in the README.
func readme() Input {
	s := newScene()
	s.Host = ""
	s.network(network("default", "nat", "virbr0", "192.168.122.0/24", true))
	s.guest("virbr0", "ubuntu-cloud", "192.168.122.32")
	s.guest("virbr0", "debian-cloud", "192.168.122.205")
	s.door("tcp/8080", "8080", "ubuntu-cloud:80", "ubuntu-cloud", "192.168.122.32", "")
	return s.Input
}

// guests is a host with n guests on default, some on others.
func guests(n int) Input {
	s := newScene()
	s.network(network("default", "nat", "virbr0", "192.168.0.0/16", true))
	s.network(network("lab", "isolated", "virbr1", "10.9.0.0/24", true))
	words := []string{"web", "db", "cache", "mail", "build", "proxy"}
	for i := range n {
		name := fmt.Sprintf("%s-%02d", words[i%len(words)], i/len(words)+1)
		bridge, a := "virbr0", fmt.Sprintf("192.168.%d.%d", 100+i/200, 10+i%200)
		if i%10 == 9 {
			bridge, a = "virbr1", fmt.Sprintf("10.9.0.%d", 10+i/10)
		}
		s.guest(bridge, name, a)
	}
	if n > 4 {
		s.guest("virbr1", "db-01", "10.9.0.200")
		s.guest("virbr1", "web-01", "10.9.0.201")
		s.State.Add(nic("vnet3", typed(host.TypeTap))) // pulled off
		s.door("tcp/8080", "8080", "web-01:80", "web-01", "192.168.100.10", "")
		s.door("tcp/2222", "2222", "db-01:22", "db-01", "192.168.100.11", "")
		s.door("udp/53", "53/udp", "ns:53", "", "", "no guest ns has an address on network default yet")
	}
	return s.Input
}

// bridged is a host whose only NIC is a port of br0, beside a NAT network and
// Docker.
func bridged() Input {
	s := newScene()
	s.Host = "hv2"
	for _, k := range s.State.Keys() {
		if l, ok := s.State[k].(host.Link); !ok || l.Name != "lo" {
			delete(s.State, k)
		}
	}
	lan := spec.Network{Name: "lan", Mode: "bridged", Bridge: "br0", Started: true, Uplinks: []string{"enp6s18"}}
	s.Document.Networks["lan"] = lan
	s.State.Add(nic("enp6s18", within("br0")), nic("br0", typed(host.TypeBridge)), addr("br0", "192.168.99.66/24"), gateway("br0", "192.168.99.1", 100))
	s.network(network("default", "nat", "virbr0", "192.168.122.0/24", true))
	s.network(network("lab", "isolated", "virbr1", "10.9.0.0/24", true))
	s.State.Add(nic("docker0", typed(host.TypeBridge)), addr("docker0", "172.17.0.1/16"))
	for i := range 3 {
		s.State.Add(nic(fmt.Sprintf("veth%04x", 0x7a11+i*97), typed(host.TypeVeth), within("docker0")))
	}
	s.guest("br0", "files", "192.168.99.71")
	s.guest("br0", "router", "192.168.99.72")
	s.guest("virbr0", "ubuntu-cloud", "192.168.122.32", "fd00:1:2:3::20")
	s.guest("virbr1", "router", "10.9.0.1")
	s.guest("virbr1", "test-client", "10.9.0.12")
	s.door("tcp/8080", "8080", "ubuntu-cloud:80", "ubuntu-cloud", "192.168.122.32", "")
	return s.Input
}

// stacked is a host with a bond, VLANs on it and a NIC without a cable.
func stacked() Input {
	s := newScene()
	s.Host = "hv3"
	s.State = host.NewState(
		nic("lo"), nic("eno1", within("bond0")), nic("eno2", within("bond0")), nic("bond0", typed(typeBond)),
		nic("bond0.10", vlanOn("bond0")), addr("bond0.10", "10.10.0.5/24"), gateway("bond0.10", "10.10.0.1", 0),
		nic("bond0.20", vlanOn("bond0")), addr("bond0.20", "10.20.0.5/24"),
		nic("bond0.30", vlanOn("bond0"), within("br30")), nic("br30", typed(host.TypeBridge)),
		nic("wg0", typed("wireguard")), addr("wg0", "10.200.0.2/24"),
	)
	s.Links = map[string]Link{
		"eno1": {SpeedMbit: 25000}, "eno2": {NoCarrier: true}, "bond0": {SpeedMbit: 25000}, "bond0.10": {VLANs: []string{"10"}},
		"bond0.20": {VLANs: []string{"20"}}, "bond0.30": {VLANs: []string{"30"}},
	}
	lan := spec.Network{Name: "prod", Mode: "bridged", Bridge: "br30", Started: true, Uplinks: []string{"bond0.30"}}
	s.Document.Networks["prod"] = lan
	s.network(network("default", "nat", "virbr0", "192.168.122.0/24", true))
	s.guest("br30", "app", "10.30.0.8")
	s.guest("virbr0", "runner", "192.168.122.44")
	return s.Input
}

// change is what a host looks like before and after one: the NIC moves into a
// bridge, lab goes with its guests, a door opens.
func change() (before, after Input) {
	before = guests(3)
	s := &scene{Input: before, taps: 3}
	s.guest("virbr1", "probe", "10.9.0.5")
	before = s.Input
	after = before
	after.State = host.State{}
	for k, r := range before.State {
		after.State[k] = r
	}
	for _, r := range []host.Resource{addr("enp6s18", "192.168.99.66/24"), gateway("enp6s18", "192.168.99.1", 100), nic("virbr1"), addr("virbr1", "10.9.0.1/24"), nic("vnet3")} {
		delete(after.State, r.Key())
	}
	after.State.Add(nic("enp6s18", within("br0")), nic("br0", typed(host.TypeBridge)), addr("br0", "192.168.99.66/24"), gateway("br0", "192.168.99.1", 100))
	after.Document = after.Document.Clone()
	delete(after.Document.Networks, "lab")
	after.Document.Networks["lan"] = spec.Network{Name: "lan", Mode: "bridged", Bridge: "br0", Started: true, Uplinks: []string{"enp6s18"}}
	after.Ports = after.Ports[:3]
	after.Forwards = []Forward{{Key: "tcp/8080", Listen: "8080", Target: "web-01:80", Guest: "web-01", Address: "192.168.100.10", Network: "default"}}
	return before, after
}

// scenes are graphs whose pictures are in testdata/<name>/.
func scenes() map[string]Graph {
	before, after := change()
	return map[string]Graph{
		"readme":  Build(readme()),
		"sharing": Build(sharing()), "guests-3": Build(guests(3)), "guests-30": Build(guests(30)), "guests-300": Build(guests(300)),
		"lan": Build(bridged()), "stacked": Build(stacked()), "findings": Build(troubled()), "before-after": Compare(Build(before), Build(after)),
	}
}

// troubled is a host that a closer look found fault with, in every place where
// something can be wrong.
func troubled() Input {
	in := bridged()
	in.Findings = []Finding{
		{ID: "mtu-differs:vnet1", Code: "mtu-differs", Severity: Alert, Network: "lan", Guest: "router", Link: "vnet1", Text: "port vnet1 has MTU 1400, bridge br0 has 1500", Fix: "ip link set vnet1 mtu 1500", Automatic: true},
		{ID: "guests-blocked:default", Code: "guests-blocked", Severity: Fault, Network: "default", Text: "what guests send out of virbr0 is dropped by inet <foreign> forward", Fix: "drawbridge doctor --fix", Automatic: true},
		{ID: "rules-unknown:default", Code: "rules-unknown", Severity: Note, Network: "default", Text: "a rule cannot be evaluated"},
		{ID: "uplink-down:enp6s18", Code: "uplink-down", Severity: Alert, Network: "lan", Link: "enp6s18", Text: "enp6s18 flaps"},
		{ID: "no-address:test-client", Code: "no-address", Severity: Fault, Network: "lab", Guest: "test-client", Text: "guest test-client is plugged in for 5 minutes and has no address"},
		{ID: "forwarding-off", Code: "forwarding-off", Severity: Fault, Text: "net.ipv4.ip_forward is 0", Fix: "sysctl -w net.ipv4.ip_forward=1"},
		{ID: "gone:nobody", Code: "gone", Severity: Alert, Guest: "nobody", Text: "is about somebody who is not there"},
	}
	return in
}

// sharing is a host whose guests share a NIC by macvtap.
func sharing() Input {
	s := newScene()
	n := spec.Network{Name: "shared", Mode: direct, Uplinks: []string{"enp6s20"}, Started: true}
	s.Document.Networks[n.Name] = n
	s.State.Add(nic("enp6s20"), nic("vnet0", func(l *host.Link) { l.Type, l.Lower = host.TypeMacvtap, "enp6s20" }))
	s.Links["vnet0"] = Link{Index: 10}
	s.Ports = append(s.Ports, Port{Bridge: "enp6s20", Tap: "vnet0", Guest: "web", MAC: "52:54:00:69:00:01", VLANs: []string{"30", "40-49 tagged"}})
	return s.Input
}
