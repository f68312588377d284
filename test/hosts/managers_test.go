package hosts

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/hostconf"
)

// managerCase is one way in which a host has its network configured.
type managerCase struct {
	name     string
	manager  string // as it shall be detected
	root     string // the variant of scripts/managers-root
	files    map[string]string
	services []string
	dhcp     bool
	// before runs on the host after each boot while its NIC is in no bridge.
	before string
	// again and last are done before the host is rebooted with the bridge, and
	// without it; bridged must succeed after the one and gone after the other.
	again, bridged string
	last, gone     string
	// edit is what somebody does to the manager's files while the bridge stands, and
	// edited the file that has it afterwards, and what. None: the case is like another.
	edit   string
	edited [2]string
}

func (c managerCase) address() string {
	if c.dhcp {
		return managedDHCP
	}
	return managedStatic
}

const seed = "/var/lib/cloud/seed/nocloud/meta-data"

// desktop is what an Ubuntu desktop's installer writes.
const desktop = "# Let NetworkManager manage all devices on this system\nnetwork:\n  version: 2\n  renderer: NetworkManager\n"

var managerCases = []managerCase{
	{
		name: "networkd-static", manager: hostconf.Networkd, services: []string{"systemd-networkd"},
		files: map[string]string{"/etc/systemd/network/20-lan.network": "# the LAN\n[Match]\nName=enp6s18\n\n[Network]\nAddress=192.168.99.66/24\nGateway=192.168.99.1\nDNS=192.168.99.1\nDomains=lan.example\n"},
		edit:  "echo '# mine' >>/etc/systemd/network/05-drawbridge-br0.network", edited: [2]string{"/var/lib/drawbridge/hostconf/edited/etc-systemd-network-05-drawbridge-br0.network", "# mine"},
	},
	{
		name: "networkd-dhcp", manager: hostconf.Networkd, services: []string{"systemd-networkd"}, dhcp: true,
		files: map[string]string{"/etc/systemd/network/20-lan.network": "[Match]\nMACAddress=52:54:00:aa:bb:01\n\n[Network]\nDHCP=ipv4\n"},
	},
	{
		name: "netplan-static", manager: hostconf.Netplan, services: []string{"systemd-networkd"},
		files: map[string]string{"/etc/netplan/01-lan.yaml": "# The LAN\nnetwork:\n  version: 2\n  renderer: networkd\n  ethernets:\n    enp6s18: # the only NIC\n      dhcp4: false\n      accept-ra: false\n      addresses: [192.168.99.66/24]\n      routes:\n        - to: default\n          via: 192.168.99.1\n      # the router\n      nameservers:\n        addresses: [192.168.99.1]\n        search: [lan.example]\n"},
		edit:  "sed -i 's/search: \\[lan.example\\]/search: [lan.example, mine.example]/' /etc/netplan/01-lan.yaml; netplan get >/dev/null", edited: [2]string{"/etc/netplan/01-lan.yaml", "search: [lan.example, mine.example]"},
	},
	{
		// As a cloud has it: cloud-init is told what the network is and writes netplan's file at
		// boot, anew whenever it finds itself in another instance than at the last boot.
		name: "netplan-dhcp", manager: hostconf.Netplan, services: []string{"systemd-networkd"}, dhcp: true,
		files: map[string]string{
			"/etc/cloud/cloud.cfg.d/90-test.cfg":         "datasource_list: [NoCloud]\nsystem_info: {network: {renderers: [netplan]}}\ncloud_init_modules: []\ncloud_config_modules: []\ncloud_final_modules: []\n",
			"/var/lib/cloud/seed/nocloud/meta-data":      "instance-id: first\n",
			"/var/lib/cloud/seed/nocloud/user-data":      "#cloud-config\n",
			"/var/lib/cloud/seed/nocloud/network-config": "version: 2\nethernets:\n  lan: {dhcp4: true, match: {name: enp6s18}}\n",
		},
		again:   "echo 'instance-id: second' >" + seed,
		bridged: "[ $(cat /var/lib/cloud/data/instance-id) = second ]; grep -qx 'network: {config: disabled}' /etc/cloud/cloud.cfg.d/99-drawbridge-network.cfg",
		last:    "echo 'instance-id: third' >" + seed + "; echo '# stale' >>/etc/netplan/50-cloud-init.yaml",
		gone:    "[ $(cat /var/lib/cloud/data/instance-id) = third ]; ! grep stale /etc/netplan/50-cloud-init.yaml",
	},
	{
		name: "ifupdown-static", manager: hostconf.IfUpDown, services: []string{"networking"},
		files: map[string]string{"/etc/network/interfaces": "# This file describes the network.\n\nsource /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\n# The LAN\nallow-hotplug enp6s18\nauto enp6s18\niface enp6s18 inet static\n\taddress 192.168.99.66/24\n\tgateway 192.168.99.1\n\tup ip route add 198.51.100.0/24 via 192.168.99.1 dev enp6s18\n\tdown ip route del 198.51.100.0/24 via 192.168.99.1 dev enp6s18\n"},
		edit:  "sed -i 's/^\\tgateway .*/&\\n\\tdns-search mine.example/' /etc/network/interfaces; ifquery br0 >/dev/null", edited: [2]string{"/etc/network/interfaces", "dns-search mine.example"},
	},
	{
		name: "ifupdown-dhcp", manager: hostconf.IfUpDown, services: []string{"networking"}, dhcp: true,
		files: map[string]string{"/etc/network/interfaces": "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n", "/etc/network/interfaces.d/lan": "auto enp6s18\niface enp6s18 inet dhcp\n"},
	},
	{
		name: "ifupdown2-static", manager: hostconf.IfUpDown2, root: "ifupdown2", services: []string{"networking"},
		files: map[string]string{"/etc/network/interfaces": "auto lo\niface lo inet loopback\n\n# The LAN\nauto enp6s18\niface enp6s18\n    address 192.168.99.66/24\n    gateway 192.168.99.1\n    # the office\n    post-up ip route add 198.51.100.0/24 via 192.168.99.1 dev enp6s18\n\nsource /etc/network/interfaces.d/*\n"},
		edit:  "sed -i 's/^    gateway .*/&\\n    alias mine/' /etc/network/interfaces; ifquery br0 >/dev/null", edited: [2]string{"/etc/network/interfaces", "alias mine"},
	},
	{
		name: "ifupdown2-dhcp", manager: hostconf.IfUpDown2, root: "ifupdown2", services: []string{"networking"}, dhcp: true,
		files: map[string]string{"/etc/network/interfaces": "auto lo\niface lo inet loopback\n\nauto enp6s18\niface enp6s18 inet dhcp\n"},
	},
	{
		name: "networkmanager-static", manager: hostconf.NetworkManager, services: []string{"NetworkManager"},
		files: map[string]string{"/etc/NetworkManager/system-connections/lan.nmconnection": "# by hand\n[connection]\nid=lan\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\ninterface-name=enp6s18\n\n[ethernet]\nwake-on-lan=64\n\n[ipv4]\nmethod=manual\naddress1=192.168.99.66/24,192.168.99.1\ndns=192.168.99.1;\ndns-search=lan.example;\nroute1=198.51.100.0/24,192.168.99.1\n\n[ipv6]\nmethod=disabled\n"},
		edit:  "nmcli connection modify lan +ipv4.dns 192.168.99.7", edited: [2]string{"/etc/NetworkManager/system-connections/lan.nmconnection", "dns=192.168.99.1;192.168.99.7;"},
	},
	{
		name: "networkmanager-dhcp", manager: hostconf.NetworkManager, services: []string{"NetworkManager"}, dhcp: true,
		files: map[string]string{"/etc/NetworkManager/system-connections/lan.nmconnection": "[connection]\nid=Office\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\n\n[ipv4]\nmethod=auto\n\n[ipv6]\naddr-gen-mode=eui64\nmethod=auto\n"},
	},
	{
		// Without any file NetworkManager makes a connection up, "Wired connection 1", also
		// where netplan only says that it shall, as on Ubuntu's desktops.
		name: "networkmanager-nofile", manager: hostconf.NetworkManager, services: []string{"NetworkManager"}, dhcp: true,
		files: map[string]string{"/etc/netplan/01-network-manager-all.yaml": desktop},
	},
	{
		name: "netplan-nm-static", manager: hostconf.NetplanNM, services: []string{"NetworkManager"},
		files: map[string]string{
			"/etc/netplan/01-network-manager-all.yaml": desktop,
			"/etc/netplan/60-lan.yaml":                 "# The LAN\nnetwork:\n  version: 2\n  ethernets:\n    enp6s18: # the only NIC\n      addresses: [192.168.99.66/24]\n      routes:\n        - to: default\n          via: 192.168.99.1\n      # the router\n      nameservers:\n        addresses: [192.168.99.1]\n        search: [lan.example]\n",
		},
		edit: "sed -i 's/search: \\[lan.example\\]/search: [lan.example, mine.example]/' /etc/netplan/60-lan.yaml; netplan get >/dev/null", edited: [2]string{"/etc/netplan/60-lan.yaml", "search: [lan.example, mine.example]"},
	},
	{
		// As NetworkManager of Ubuntu since 23.10 writes a connection of its own.
		name: "netplan-nm-dhcp", manager: hostconf.NetplanNM, services: []string{"NetworkManager"}, dhcp: true,
		files: map[string]string{
			"/etc/netplan/01-network-manager-all.yaml":                     desktop,
			"/etc/netplan/90-NM-11111111-2222-3333-4444-555555555555.yaml": "network:\n  version: 2\n  ethernets:\n    NM-11111111-2222-3333-4444-555555555555:\n      renderer: NetworkManager\n      match:\n        name: \"enp6s18\"\n      dhcp4: true\n      networkmanager:\n        uuid: \"11111111-2222-3333-4444-555555555555\"\n        name: \"Wired connection 1\"\n        passthrough:\n          connection.timestamp: \"1700000000\"\n          ethernet._: \"\"\n          proxy._: \"\"\n",
		},
	},
	{
		name: "none", manager: hostconf.None,
		before: "ip link set enp6s18 up; ip addr add 192.168.99.66/24 brd + dev enp6s18; ip route add default via 192.168.99.1; ip route add 198.51.100.0/24 via 192.168.99.1 metric 7",
	},
}

// TestManagers lives through the story with every manager: in, reboot, out,
// reboot; and once without confirmation. The kernel's part is done by plain ip.
func TestManagers(t *testing.T) {
	need(t)
	for _, c := range managerCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testManager(t, c)
		})
	}
}

func testManager(t *testing.T, c managerCase) {
	root := c.root
	if root == "" {
		root = "ifupdown"
	}
	h := newManaged(t, root, c.files, c.services...)
	h.before = c.before
	h.start(t, c.address())
	var d hostconf.Description
	h.profile(t, &d, "describe", managedNIC)
	t.Logf("described: %+v", d)
	if d.Manager != c.manager || d.IPv4.DHCP != c.dhcp || d.IPv4.Static == c.dhcp || len(d.Cannot) > 0 || len(d.Evidence) == 0 {
		t.Fatalf("described as %+v", d)
	}
	before := h.network(t)
	files := h.configuration(t)

	chapter := func(name string, tell func(*testing.T)) {
		t.Helper()
		if !t.Run(name, tell) {
			t.FailNow()
		}
	}
	chapter("rolled back", func(t *testing.T) {
		h.lossless(t, c, "in", func() { h.goIn(t, c) })
		h.wantBridge(t, c)
		h.lossless(t, c, "out", func() { h.goOut(t, c, host.Runtime) })
		h.wantNetwork(t, before)
		h.wantConfiguration(t, files)
	})
	chapter("in for good", func(t *testing.T) {
		h.lossless(t, c, "in", func() {
			h.goIn(t, c)
			// Any package's installation does this; systemd runs netplan then.
			h.sh(t, "systemctl daemon-reload")
			h.do(t, "make", host.Permanent, c.manager)
			if c.manager == hostconf.NetplanNM {
				h.sh(t, "nmcli connection reload")
			}
		})
		var seen []json.RawMessage
		h.profile(t, &seen, "observe")
		if len(seen) != 3 {
			t.Errorf("observed %s", seen)
		}
		h.wantBridge(t, c)
		h.sh(t, c.again)
		h.reboot(t, c.address())
		h.wantBridge(t, c)
		h.sh(t, c.bridged)
		// As the daemon does at start.
		h.do(t, "make", host.Reserved, c.manager)
		h.batch(t, []string{"link add vnet0 type veth peer name vguest0", "link set vnet0 master " + managedBridge + " up"})
	})
	chapter("out again", func(t *testing.T) {
		h.batch(t, []string{"link del vnet0"})
		h.lossless(t, c, "out", func() { h.goOut(t, c, host.Permanent) })
		h.wantNetwork(t, before)
		h.wantConfiguration(t, files)
		h.sh(t, c.last)
		h.reboot(t, c.address())
		h.wantNetwork(t, before)
		h.wantConfiguration(t, files)
		h.sh(t, c.gone)
	})
}

// goIn is what happens until the operator is asked.
func (h *managed) goIn(t *testing.T, c managerCase) {
	t.Helper()
	acks := h.served(t, "DHCPACK")
	h.do(t, "make", host.Reserved, c.manager)
	h.moveIn(t)
	h.do(t, "make", host.Runtime, c.manager)
	h.profile(t, nil, "verify", managedBridge)
	if c.dhcp && h.served(t, "DHCPACK") == acks {
		t.Error("the DHCP client did not ask for its lease on the bridge")
	}
}

// goOut is the way back, after the last confirmed stage.
func (h *managed) goOut(t *testing.T, c managerCase, last string) {
	t.Helper()
	h.do(t, "drop", host.Reserved, c.manager)
	h.moveOut(t)
	if told := h.do(t, "drop", host.Runtime, c.manager); len(told) > 0 {
		t.Errorf("told: %v", told)
	}
	if last == host.Permanent {
		if told := h.do(t, "drop", host.Permanent, c.manager); len(told) > 0 {
			t.Errorf("told: %v", told)
		}
	}
	if c.dhcp && h.served(t, "DHCPRELEASE") > 0 {
		t.Error("the lease was given back")
	}
}

// lossless does something while the LAN pings the host a thousand times a second.
// What is lost while plain ip moves addresses and routes is told, and is not the
// managers' fault: the program's own move has a test of its own.
func (h *managed) lossless(t *testing.T, c managerCase, what string, do func()) {
	t.Helper()
	s := h.pings(t, c.address())
	began := time.Now()
	do()
	took := time.Since(began)
	<-time.After(1500 * time.Millisecond) // what a manager does late
	sent, lost := s.end()
	all := len(lost)
	lost = slices.DeleteFunc(lost, func(at time.Time) bool { return at.After(h.moved[0].Add(-5*time.Millisecond)) && at.Before(h.moved[1]) })
	t.Logf("%s: %s; %d of %d pings lost, %d of them in the move itself", what, took.Round(time.Millisecond), all, sent, all-len(lost))
	if len(lost) > 0 {
		t.Errorf("%s: %d of %d pings lost, the first %s and the last %s after the beginning", what, len(lost), sent,
			lost[0].Sub(began).Round(time.Millisecond), lost[len(lost)-1].Sub(began).Round(time.Millisecond))
		t.Logf("it began %s\n%s", began.Format("15:04:05.000"), h.journal(began))
	}
}

// wantBridge looks at the bridge with the kernel's own tools.
func (h *managed) wantBridge(t *testing.T, c managerCase) {
	t.Helper()
	within(t, 20*time.Second, func() error {
		links, err := h.node.Run(t.Context(), "ip", "-j", "-d", "addr", "show", "dev", managedBridge)
		if err != nil {
			return err
		}
		var seen []struct {
			Address  string
			Mtu      int
			Linkinfo struct {
				InfoData struct {
					ForwardDelay int `json:"forward_delay"`
					STPState     int `json:"stp_state"`
				} `json:"info_data"`
			}
			AddrInfo []struct{ Local string } `json:"addr_info"`
		}
		if err := json.Unmarshal([]byte(links), &seen); err != nil || len(seen) != 1 {
			return fmt.Errorf("%w: %s", err, links)
		}
		b := seen[0]
		has := slices.ContainsFunc(b.AddrInfo, func(a struct{ Local string }) bool { return a.Local == c.address() })
		// Without STP a port forwards at once (br_make_forwarding in the kernel's
		// net/bridge/br_stp.c), and NetworkManager leaves its delay alone.
		delayed := b.Linkinfo.InfoData.ForwardDelay != 0 && c.manager != hostconf.NetworkManager && c.manager != hostconf.NetplanNM
		if b.Address != managedMAC || b.Mtu != 1500 || delayed || b.Linkinfo.InfoData.STPState != 0 || !has {
			return fmt.Errorf("the bridge is %+v", b)
		}
		return nil
	})
	within(t, 10*time.Second, h.says([]string{"default via 192.168.99.1 dev " + managedBridge}, "ip", "-4", "route"))
	within(t, 10*time.Second, h.says([]string{"master " + managedBridge}, "ip", "link", "show", "dev", managedNIC))
	if out := h.run(t, "ip", "-4", "addr", "show", "dev", managedNIC); strings.Contains(out, "inet ") {
		t.Errorf("the NIC has addresses:\n%s", out)
	}
}

func (h *managed) wantNetwork(t *testing.T, want string) {
	t.Helper()
	var got string
	for limit := time.Now().Add(15 * time.Second); time.Now().Before(limit); {
		if got = h.network(t); got == want {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	t.Errorf("the network is not as it was:\n%s\n--- before:\n%s", got, want)
}

func (h *managed) wantConfiguration(t *testing.T, want map[string]string) {
	t.Helper()
	got := h.configuration(t)
	for name := range maps.Keys(got) {
		if want[name] != got[name] {
			t.Errorf("%s is %s, was %q", name, got[name], want[name])
		}
	}
	for name := range maps.Keys(want) {
		if got[name] == "" {
			t.Errorf("%s is gone", name)
		}
	}
}
