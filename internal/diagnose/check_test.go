package diagnose

import (
	"flag"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

var update = flag.Bool("update", false, "write golden files")

func TestTheDocumentationIsWrittenFromTheChecks(t *testing.T) {
	const file = "../../docs/troubleshooting.md"
	want := Document()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Fatalf("%s is not what the checks say (%v): go test ./internal/diagnose -update", file, err)
	}
}

func TestCodesAreWordsAndEachHasOneMeaning(t *testing.T) {
	seen := map[Code]bool{}
	for _, c := range Checks() {
		if seen[c.Code] || !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)+$`).MatchString(string(c.Code)) {
			t.Errorf("code %q is taken or not words", c.Code)
		}
		seen[c.Code] = true
		if c.Title == "" || c.Means == "" || c.Mends == "" || c.Find == nil || severities[c.Severity] == 0 && c.Severity != Fault {
			t.Errorf("%s does not say everything", c.Code)
		}
		for _, text := range []string{c.Means, c.Mends} {
			if !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, ")") {
				t.Errorf("%s: %q is no sentence", c.Code, text)
			}
		}
	}
}

// healthy is a host with one NAT network and one guest, and nothing wrong.
func healthy() *Facts {
	sub := spec.Subnet{
		Prefix: netip.MustParsePrefix("192.168.122.0/24"), Gateway: netip.MustParseAddr("192.168.122.1"), LeaseSeconds: 3600,
		Range: spec.Range{First: netip.MustParseAddr("192.168.122.2"), Last: netip.MustParseAddr("192.168.122.254")},
	}
	n := spec.Network{Name: "default", Mode: "nat", Bridge: "virbr0", Subnets: []spec.Subnet{sub}, Started: true, Domain: "default.internal"}
	return &Facts{
		Document: spec.Document{Networks: map[spec.NetworkName]spec.Network{"default": n}},
		State: host.NewState(
			host.Link{Name: "eth0", MTU: 1500, Up: true}, host.Link{Name: "virbr0", Type: host.TypeBridge, MTU: 1500, Up: true, MAC: "52:54:00:00:00:01"},
			host.Link{Name: "tap0", Type: host.TypeTap, MTU: 1500, Up: true, Master: "virbr0"},
			host.Address{Link: "virbr0", Addr: netip.MustParsePrefix("192.168.122.1/24")}, host.Address{Link: "eth0", Addr: netip.MustParsePrefix("192.0.2.5/24")},
			host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.1"), Link: "eth0", Table: host.MainTable, Type: 1},
			host.Route{Dst: netip.MustParsePrefix("192.168.122.0/24"), Link: "virbr0", Table: host.MainTable, Type: 1},
		),
		Sysctls:     map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "0"},
		Ports:       []Port{{Network: "default", Bridge: "virbr0", Tap: "tap0", Guest: "web", MAC: "52:54:00:aa:aa:aa", Addresses: []string{"192.168.122.9"}, Ours: true, PID: 7, Since: 1000}},
		Leases:      []Lease{{Network: "default", MAC: "52:54:00:aa:aa:aa", Addr: netip.MustParseAddr("192.168.122.9"), Expires: 10_000 + 3600}},
		Conntrack:   100,
		NameServers: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, ConntrackMax: 262144, Recorded: 9_999, Now: 10_000,
	}
}

func codes(all []Finding) (list []string) {
	for _, x := range all {
		list = append(list, string(x.Code))
	}
	return list
}

func TestAHealthyHostHasNoFindings(t *testing.T) {
	if all := Examine(healthy()); len(all) > 0 {
		t.Errorf("%+v", all)
	}
	if all := Examine(&Facts{}); len(all) > 0 {
		t.Errorf("where nothing is known something is found: %+v", all)
	}
}

// Faults that this machine, or any test machine, cannot make; each says where its
// numbers are from. The others are made for real in test/scripts (doctor*.txtar).
func TestFindings(t *testing.T) {
	change := func(f *Facts, edit func(*spec.Network)) {
		n := f.Document.Networks["default"]
		edit(&n)
		f.Document.Networks["default"] = n
	}
	for _, c := range []struct {
		name string
		make func(*Facts)
		want []string
	}{
		{"forwarding-off", func(f *Facts) { f.Sysctls["net/ipv4/ip_forward"] = "0" }, []string{"forwarding-off"}},
		{"forwarding of a family that no network has", func(f *Facts) { f.Sysctls["net/ipv6/conf/all/forwarding"] = "0" }, nil},
		{"a stopped network needs nothing", func(f *Facts) {
			f.Sysctls["net/ipv4/ip_forward"] = "0"
			change(f, func(n *spec.Network) { n.Started = false })
		}, nil},
		{"network-held", func(f *Facts) {
			f.Held = map[spec.NetworkName]string{"default": "link virbr0 exists and was not made by this program"}
		}, []string{"network-held"}},
		{"network-drift", func(f *Facts) { f.Drift = []Drift{{host.LinkKey("virbr0"), "link virbr0 is missing"}} }, []string{"network-drift"}},
		{"others-undo", func(f *Facts) { f.Quarrel = "networkd keeps undoing link virbr0" }, []string{"others-undo"}},
		{"a VPN's route over the whole of 192.168.0.0/16", func(f *Facts) {
			f.State.Add(host.Route{Dst: netip.MustParsePrefix("192.168.0.0/16"), Link: "wg0", Table: host.MainTable, Type: 1})
		}, []string{"subnet-overlap"}},
		{"a VPN's table of its own", func(f *Facts) {
			f.State.Add(host.Route{Dst: netip.MustParsePrefix("192.168.122.128/25"), Link: "tailscale0", Table: 52, Type: 1})
		}, []string{"subnet-overlap"}},
		// What wg-quick and OpenVPN (redirect-gateway def1) add is a default route.
		{"halves of the default route", func(f *Facts) {
			f.State.Add(host.Route{Dst: netip.MustParsePrefix("128.0.0.0/1"), Link: "tun0", Table: host.MainTable, Type: 1}, host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Link: "wg0", Table: 51820, Type: 1})
		}, nil},
		{"the LAN's own multicast and broadcast", func(f *Facts) {
			f.State.Add(host.Route{Dst: netip.MustParsePrefix("224.0.0.0/4"), Link: "eth0", Table: host.MainTable, Type: 1})
		}, nil},
		{"no-default-route", func(f *Facts) {
			f.State = host.NewState(host.Link{Name: "virbr0", Type: host.TypeBridge, MTU: 1500, Up: true})
		}, []string{"no-default-route"}},
		{"stp-delay", func(f *Facts) {
			f.State.Add(host.Link{Name: "br0", Type: host.TypeBridge, MTU: 1500, STP: true, ForwardDelay: 1500}, host.Link{Name: "vnet0", Type: host.TypeTap, Master: "br0", MTU: 1500})
		}, []string{"stp-delay"}},
		{"STP that was asked for", func(f *Facts) {
			f.Document = f.Document.With(spec.Network{Name: "lan", Mode: "bridged", Bridge: "br0", STP: true, Started: true})
			f.State.Add(host.Link{Name: "br0", Type: host.TypeBridge, MTU: 1500, STP: true, ForwardDelay: 400})
		}, nil},
		{"STP on a bridge without guests", func(f *Facts) {
			f.State.Add(host.Link{Name: "br0", Type: host.TypeBridge, MTU: 1500, STP: true, ForwardDelay: 1500})
		}, nil},
		{"mtu-mismatch", func(f *Facts) {
			f.State.Add(host.Link{Name: "tap0", Type: host.TypeTap, MTU: 1400, Up: true, Master: "virbr0"})
		}, []string{"mtu-mismatch"}},
		{"libvirt's default network, active", func(f *Facts) {
			f.Libvirt = []LibvirtNetwork{{Name: "default", Bridge: "virbr7", Mode: "nat", Active: true, Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.122.1/24")}}}
		}, []string{"libvirt-conflict"}},
		{"libvirt's default network as Debian installs it, off", func(f *Facts) {
			f.Libvirt = []LibvirtNetwork{{Name: "default", Bridge: "virbr0", Mode: "nat", Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.122.1/24")}}}
		}, nil},
		// net/ipv6/route.c: RTPROT_RA (9); ip-sysctl.rst, accept_ra.
		{"route-accepts-ra", func(f *Facts) {
			f.Sysctls["net/ipv6/conf/all/forwarding"], f.Sysctls["net/ipv6/conf/eth0/accept_ra"] = "1", "1"
			f.State.Add(host.Route{Dst: netip.MustParsePrefix("::/0"), Link: "eth0", Table: host.MainTable, Type: 1, Protocol: 9})
		}, []string{"route-accepts-ra"}},
		{"rp-filter", func(f *Facts) {
			change(f, func(n *spec.Network) {
				n.Forwards = spec.MakeForwards(spec.Forward{Proto: spec.TCP, Listen: netip.IPv4Unspecified(), First: 80, Last: 80, Target: "192.168.122.9", TargetPort: 80})
			})
			f.Sysctls["net/ipv4/conf/eth1/rp_filter"] = "1"
			f.State.Add(host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Link: "eth1", Table: host.MainTable, Metric: 200, Type: 1})
		}, []string{"rp-filter"}},
		{"port-off-bridge", func(f *Facts) { f.State.Add(host.Link{Name: "tap0", Type: host.TypeTap, MTU: 1500, Up: true}) }, []string{"port-off-bridge"}},
		{"a guest that shares a NIC", func(f *Facts) {
			f.Document.Networks["shared"] = spec.Network{Name: "shared", Mode: "direct", Uplinks: []string{"eth0"}, Started: true}
			f.State.Add(host.NIC{Link: "eth0", Carrier: true}, host.Link{Name: "mv0", Type: host.TypeMacvtap, MTU: 1500, Up: true, Lower: "eth0"})
			f.Ports = append(f.Ports, Port{Network: "shared", Bridge: "eth0", Tap: "mv0", Guest: "mail", MAC: "52:54:00:bb:bb:bb", Ours: true, PID: 8, Since: 1000})
		}, nil},
		{"port-down", func(f *Facts) { f.State.Add(host.Link{Name: "tap0", Type: host.TypeTap, MTU: 1500, Master: "virbr0"}) }, []string{"port-down"}},
		{"duplicate-mac", func(f *Facts) {
			f.Ports = append(f.Ports, Port{Network: "default", Bridge: "virbr0", Tap: "tap1", Guest: "db", Addresses: []string{"x"}})
			f.Learned = map[string][]string{"tap1": {"52:54:00:aa:aa:aa"}}
		}, []string{"duplicate-mac"}},
		{"a guest with the bridge's own address", func(f *Facts) { f.Learned = map[string][]string{"tap0": {"52:54:00:00:00:01"}} }, []string{"duplicate-mac"}},
		{"the same hardware address on two networks is nobody's harm", func(f *Facts) {
			f.Ports = append(f.Ports, Port{Network: "lab", Bridge: "virbr1", Tap: "tap1", Guest: "db", MAC: "52:54:00:aa:aa:aa"})
		}, nil},
		{"duplicate-address: another guest", func(f *Facts) {
			f.Neighbours = []Neighbour{{"virbr0", "52:54:00:bb:bb:bb", netip.MustParseAddr("192.168.122.9")}}
		}, []string{"duplicate-address"}},
		{"an address that came free", func(f *Facts) {
			f.Leases[0].Expires = 9_000
			f.Neighbours = []Neighbour{{"virbr0", "52:54:00:bb:bb:bb", netip.MustParseAddr("192.168.122.9")}}
		}, nil},
		{"no-address", func(f *Facts) { f.Ports[0].Addresses = nil }, []string{"no-address"}},
		{"a guest that boots", func(f *Facts) { f.Ports[0].Addresses, f.Ports[0].Since = nil, 9_990 }, nil},
		{"reservation-outside", func(f *Facts) {
			change(f, func(n *spec.Network) {
				n.Reservations = []spec.Reservation{{MAC: "52:54:00:aa:aa:aa", Addr: netip.MustParseAddr("10.0.0.9")}}
			})
		}, []string{"reservation-outside"}},
		{"pool-full", func(f *Facts) {
			change(f, func(n *spec.Network) { n.Subnets[0].Range.Last = netip.MustParseAddr("192.168.122.3") })
			f.Leases[0].Addr = netip.MustParseAddr("192.168.122.2")
			f.Leases = append(f.Leases, Lease{Network: "default", Addr: netip.MustParseAddr("192.168.122.3"), Expires: 10_100})
		}, []string{"pool-full"}},
		{"bridge-full", func(f *Facts) {
			for i := range 950 {
				f.State.Add(host.Link{Name: "t" + string(rune('a'+i%26)) + string(rune('a'+i/26)), Type: host.TypeTap, MTU: 1500, Up: true, Master: "virbr0"})
			}
		}, []string{"bridge-full"}},
		{"forward-waits", func(f *Facts) {
			change(f, func(n *spec.Network) {
				n.Forwards = spec.MakeForwards(spec.Forward{Proto: spec.TCP, Listen: netip.IPv4Unspecified(), First: 80, Last: 80, Target: "nobody", TargetPort: 80})
			})
		}, []string{"forward-waits"}},
		{"dns-port-taken", func(f *Facts) {
			f.Services = []Blocked{{Bridge: "virbr0", Service: "dns", Why: "udp port 53 on 192.168.122.1 is taken by dnsmasq (812)", Holder: "dnsmasq"}}
		}, []string{"dns-port-taken"}},
		{"dhcp-port-taken", func(f *Facts) {
			f.Services = []Blocked{{Bridge: "virbr0", Service: "dhcp", Why: "udp port 67 is taken by dnsmasq (812)", Holder: "dnsmasq"}}
		}, []string{"dhcp-port-taken"}},
		{"services-silent", func(f *Facts) { f.Silent = "connection refused" }, []string{"services-silent"}},
		{"services-fail", func(f *Facts) { f.Services = []Blocked{{Why: "the lease file is damaged"}} }, []string{"services-fail"}},
		{"resolver-loop", func(f *Facts) { f.NameServers = []netip.Addr{netip.MustParseAddr("192.168.122.1")} }, []string{"resolver-loop"}},
		{"no-name-server", func(f *Facts) { f.NameServers = []netip.Addr{} }, []string{"no-name-server"}},
		{"clock-jumped: an hour back", func(f *Facts) { f.Now -= 3600 }, []string{"clock-jumped"}},
		{"leases that were given for longer than the network gives them now", func(f *Facts) { f.Leases[0].Expires = 10_000 + 86_400 }, nil},
		{"NTP steps by a second", func(f *Facts) { f.Now -= 1 }, nil},
		{"change-waits", func(f *Facts) { f.Changes = []Change{{ID: "c0ffee01", Title: "start network", Phase: "waiting"}} }, []string{"change-waits"}},
		{"change-stuck", func(f *Facts) { f.Changes = []Change{{ID: "c0ffee01", Phase: "stuck", Problem: "no such device"}} }, []string{"change-stuck"}},
		{"change-unfinished", func(f *Facts) { f.Changes = []Change{{ID: "c0ffee01", Phase: "confirmed", Problem: "disk full"}} }, []string{"change-unfinished"}},
		{"conntrack-full", func(f *Facts) { f.Conntrack = 240_000 }, []string{"conntrack-full"}},
		{"kernel-lacks", func(f *Facts) { f.Lacks = []string{host.Taps} }, []string{"kernel-lacks"}},
		{"kernel-lacks: VLANs of a port", func(f *Facts) { f.Lacks, f.Ports[0].Tagged = []string{host.BridgeVLANs}, true }, []string{"kernel-lacks"}},
		{"what no network rests on may be missing", func(f *Facts) { f.Lacks = []string{host.BridgeVLANs, host.Macvtaps, host.ConnectionEvents} }, nil},
		{"daemon-down", func(f *Facts) { f.Offline = true }, []string{"daemon-down"}},
		{"manager-grabs", func(f *Facts) {
			f.Grabbers = []Grabber{{Manager: "systemd-networkd", Links: []string{"virbr0", "vnet*"}, Why: "its file 80-all.network matches", Fix: "networkctl reload"}}
		}, []string{"manager-grabs"}},
		{"uplink-down", func(f *Facts) {
			change(f, func(n *spec.Network) { n.Uplinks = []string{"eth0"} })
			f.State.Add(host.NIC{Link: "eth0"})
		}, []string{"uplink-down"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := healthy()
			c.make(f)
			all := Examine(f)
			if got := codes(all); !slices.Equal(got, c.want) {
				t.Fatalf("found %v, want %v: %+v", got, c.want, all)
			}
			for _, x := range all {
				if x.Seen == "" || x.Means == "" || x.Fix.Command == "" && x.Fix.Advice == "" {
					t.Errorf("%s does not say everything: %+v", x.Code, x)
				}
				for _, turn := range x.Fix.Turns {
					if turn.After == nil && turn.Before == nil {
						t.Errorf("%s turns nothing", x.Code)
					}
				}
			}
		})
	}
}

func TestConcerning(t *testing.T) {
	f := healthy()
	f.Ports = append(f.Ports, Port{Network: "lab", Bridge: "virbr1", Tap: "tap9", Guest: "other"})
	f.Document.Networks["lab"] = spec.Network{Name: "lab", Mode: "isolated", Bridge: "virbr1", Started: true}
	all := []Finding{
		{Code: "host"}, {Code: "network", About: Subject{Network: "default"}}, {Code: "guest", About: Subject{Network: "default", Guest: "web", Link: "tap0"}},
		{Code: "other", About: Subject{Network: "lab", Guest: "other"}}, {Code: "bridge", About: Subject{Link: "virbr0"}}, {Code: "nic", About: Subject{Link: "eth7"}},
	}
	for about, want := range map[string][]string{
		"web": {"host", "network", "guest", "bridge"}, "default": {"host", "network", "guest", "bridge"}, "lab": {"host", "other"}, "other": {"host", "other"},
	} {
		if got := codes(Concerning(all, about, f)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", about, got, want)
		}
	}
	if n := f.Names(); slices.Contains(n, "nobody") || !slices.Contains(n, "web") || !slices.Contains(n, "lab") || !slices.Contains(n, "tap9") {
		t.Error("who is known")
	}
}
