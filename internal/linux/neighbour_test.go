package linux

import (
	"net"
	"os"
	"strings"
	"testing"

	"drawbridge/internal/nettest"
)

// A link on which IPv6 is off takes what it can: ifupdown2 turns it off on ports.
func TestNeighboursOfALinkWithoutIPv6(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	ipText(t, "link", "add", "br-from", "type", "bridge")
	ipText(t, "link", "add", "br-to", "type", "bridge")
	ipText(t, "link", "set", "br-from", "up")
	ipText(t, "link", "set", "br-to", "up")
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/br-to/disable_ipv6", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"fe80::9", "192.0.2.9", "2001:db8::9"} {
		ipText(t, "neigh", "add", n, "lladdr", "52:54:00:00:00:09", "dev", "br-from", "nud", "permanent")
	}
	t.Cleanup(func() { ipText(t, "link", "del", "br-from"); ipText(t, "link", "del", "br-to") })
	from, err1 := net.InterfaceByName("br-from")
	to, err2 := net.InterfaceByName("br-to")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := h.takeNeighbours(from.Index, to.Index); err != nil {
		t.Fatal(err)
	}
	if out := ipText(t, "neigh", "show", "dev", "br-to"); !strings.Contains(out, "192.0.2.9 lladdr 52:54:00:00:00:09") {
		t.Errorf("br-to knows:\n%s", out)
	}
}

// What a link asked for in vain, as a port of a bridge does, it is told anew; what it
// is sure of stays.
func TestNeighboursThatALinkLostTouchWith(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	for _, l := range []string{"br-from", "br-to"} {
		ipText(t, "link", "add", l, "type", "bridge")
		t.Cleanup(func() { ipText(t, "link", "del", l) })
		ipText(t, "link", "set", l, "up")
	}
	for n, states := range map[string][2]string{
		"2001:db8::1": {"reachable", "incomplete"}, "2001:db8::2": {"stale", "failed"}, "2001:db8::3": {"reachable", "stale"},
		"2001:db8::4": {"reachable", "reachable"}, "2001:db8::5": {"reachable", "permanent"}, "192.0.2.2": {"stale", "failed"},
	} {
		ipText(t, "neigh", "add", n, "lladdr", "52:54:00:00:00:09", "dev", "br-from", "nud", states[0])
		ipText(t, "neigh", "add", n, "lladdr", "52:54:00:00:00:0a", "dev", "br-to", "nud", states[1])
	}
	from, err1 := net.InterfaceByName("br-from")
	to, err2 := net.InterfaceByName("br-to")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := h.takeNeighbours(from.Index, to.Index); err != nil {
		t.Fatal(err)
	}
	out := ipText(t, "neigh", "show", "dev", "br-to", "nud", "all")
	for n, mac := range map[string]string{"2001:db8::1": "09", "2001:db8::2": "09", "2001:db8::3": "09", "2001:db8::4": "0a", "2001:db8::5": "0a", "192.0.2.2": "09"} {
		if !strings.Contains(out, n+" lladdr 52:54:00:00:00:"+mac+" ") {
			t.Errorf("%s is not …:%s: br-to knows:\n%s", n, mac, out)
		}
	}
}
