package hosts

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/hostconf"
	"drawbridge/internal/nettest"
)

// greedy are files by which a manager would take whatever link appears, ports of
// guests included, if nobody told it not to.
var greedy = map[string]map[string]string{
	hostconf.Networkd: {"/etc/systemd/network/80-all.network": "[Match]\nName=*\n\n[Network]\nDHCP=ipv4\n"},
}

// disturbances are what is done to a manager on a host that lives: what a person does, and
// what the maintainer scripts of its package do when it is upgraded.
var disturbances = map[string][]string{
	hostconf.Networkd: {"networkctl reload", "systemctl restart systemd-networkd", "systemctl daemon-reload; systemctl stop systemd-networkd; systemctl start systemd-networkd"},
	hostconf.NetworkManager: {"nmcli general reload; nmcli connection reload", "systemctl restart NetworkManager",
		"systemctl daemon-reload; systemctl stop NetworkManager; systemctl start NetworkManager"},
	hostconf.IfUpDown2: {"ifreload -a", "systemctl reload networking"},
}

// TestHandsOff has guests on taps of a NAT network and of a bridged one ping
// while the host's own network manager is reloaded, restarted and upgraded.
func TestHandsOff(t *testing.T) {
	need(t)
	for _, name := range []string{"networkd-static", "networkmanager-static", "ifupdown2-static"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range managerCases {
				if c.name == name {
					testHandsOff(t, c)
				}
			}
		})
	}
}

// handsOffGuest is a guest on a tap, with what has to stay.
type handsOffGuest struct {
	guest *guest
	tap   string
	pings *pinger
}

func testHandsOff(t *testing.T, c managerCase) {
	files := map[string]string{}
	for _, more := range []map[string]string{c.files, greedy[c.manager]} {
		for name, content := range more {
			files[name] = content
		}
	}
	c.files = files
	h := newBridged(t, c)
	h.run(t, "drawbridge", "change", "confirm", h.bridge(t, "1m").ID)
	h.wantBridge(t, c)
	guests := []handsOffGuest{
		h.pinging(t, "inside", "default", "192.168.122.77", "192.168.122.1"),
		h.pinging(t, "outside", "lan", "192.168.99.77", nettest.Router4),
	}
	h.wantUnmanaged(t, c.manager, guests[0].tap, guests[1].tap, "virbr0")
	look := "for t in virbr0 br0 " + guests[0].tap + " " + guests[1].tap + "; do echo $t $(cat /sys/class/net/$t/ifindex) $(basename $(readlink /sys/class/net/$t/master)); done"
	plugged := h.sh(t, look)
	h.healthy(t, "guests on a NAT network and on the LAN")
	for _, do := range disturbances[c.manager] {
		h.sh(t, do)
		for _, g := range guests {
			g.pings.more(t, 100)
		}
		if now := h.sh(t, look); now != plugged {
			t.Errorf("%s: bridges and taps were\n%s and are\n%s", do, plugged, now)
		}
		h.wantUnmanaged(t, c.manager, guests[0].tap, guests[1].tap, "virbr0")
		h.wantBridge(t, c)
		for _, g := range guests {
			t.Logf("%s: guest %s waited at most %s for an answer", do, g.guest.name, g.pings.longest().Round(time.Millisecond))
		}
	}
	h.testPulledOff(t, guests)
	for _, g := range guests {
		sent, lost := g.pings.stop()
		t.Logf("guest %s: %d of %d pings lost in all", g.guest.name, lost, sent)
	}
}

// testPulledOff: what takes a tap off its bridge all the same is mended by the
// event, long before the next look.
func (h *managed) testPulledOff(t *testing.T, guests []handsOffGuest) {
	t.Helper()
	for _, g := range guests {
		master := strings.TrimSpace(h.sh(t, "basename $(readlink /sys/class/net/"+g.tap+"/master)"))
		ctx := context.Background()
		if err := h.node.IP(ctx, "link set "+g.tap+" nomaster"); err != nil {
			t.Fatal(err)
		}
		took := within(t, 20*time.Second, func() error {
			out, err := h.node.Run(ctx, "ip", "link", "show", "dev", g.tap)
			if err == nil && !strings.Contains(out, " master "+master+" ") {
				err = fmt.Errorf("%s is off its bridge:\n%s", g.tap, out)
			}
			return err
		})
		g.pings.more(t, 100)
		t.Logf("%s, pulled off %s, was put back within %s; its guest waited at most %s for an answer", g.tap, master,
			took.Round(time.Millisecond), g.pings.longest().Round(time.Millisecond))
	}
}

// pinging plugs a guest into a network by a tap of the program's and has it ping.
func (h *managed) pinging(t *testing.T, name, network, addr, to string) handsOffGuest {
	t.Helper()
	var port struct{ Tap, MAC string }
	h.decode(t, &port, "port", "attach", network, "--name", name, "-o", "json")
	g := newGuest(t, name)
	h.onTap(t, g, port.Tap, port.MAC)
	if err := g.IP(context.Background(), "addr add "+addr+"/24 dev eth0"); err != nil {
		t.Fatal(err)
	}
	g.addr = addr
	p := g.ping(t, to)
	p.more(t, 50)
	p.longest()
	return handsOffGuest{g, port.Tap, p}
}

// wantUnmanaged asks the manager itself.
func (h *managed) wantUnmanaged(t *testing.T, manager string, links ...string) {
	t.Helper()
	ask, want := []string{"networkctl", "--no-legend", "--no-pager", "list"}, "unmanaged"
	switch manager {
	case hostconf.NetworkManager:
		ask = []string{"nmcli", "-t", "-f", "DEVICE,STATE", "device"}
	case hostconf.IfUpDown2:
		// It says what it has configured.
		if out := h.run(t, "ifquery", "-l"); strings.Contains(out, "vnet") || strings.Contains(out, "virbr") {
			t.Errorf("ifupdown2 has:\n%s", out)
		}
		return
	}
	within(t, 20*time.Second, func() error {
		out, err := h.Try(ask[0], ask[1:]...)
		if err != nil {
			return err
		}
		for _, link := range links {
			said := false
			for line := range strings.Lines(out) {
				said = said || strings.Contains(" "+strings.ReplaceAll(line, ":", " "), " "+link+" ") && strings.Contains(line, want)
			}
			if !said {
				return fmt.Errorf("%s is not %s:\n%s", link, want, out)
			}
		}
		return nil
	})
}
