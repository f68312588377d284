package nettest

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func testContext(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func newTestLAN(t *testing.T, ctx context.Context) *LAN {
	t.Helper()
	lan, err := NewLAN(ctx, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lan.Close(); err != nil {
			t.Error(err)
		}
	})
	return lan
}

func mustRun(t *testing.T, ctx context.Context, n *Node, name string, args ...string) string {
	t.Helper()
	out, err := n.Run(ctx, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestLANConnectsItsMachines(t *testing.T) {
	Need(t, Root, "ip", "nsenter", "curl", "dig")
	ctx := testContext(t, 20*time.Second)
	lan := newTestLAN(t, ctx)
	for _, c := range []struct{ url, want string }{
		{"http://" + Machine4, "machine saw " + HostA4},
		{"http://[" + Machine6 + "]", "machine saw " + HostA6},
		{"http://" + Beyond4, "router saw " + HostA4},
		{"http://[" + Beyond6 + "]", "router saw " + HostA6},
		{"http://web.beyond.example", "router saw " + HostA4}, // by resolv.conf; from a ULA IPv4 is preferred (RFC 6724)
	} {
		if got := mustRun(t, ctx, lan.HostA, "curl", "-sS", "--max-time", "5", c.url); got != c.want {
			t.Errorf("%s says %q, want %q", c.url, got, c.want)
		}
	}
	if lan.DNS.Asked("web.beyond.example.") == 0 {
		t.Error("the upstream server was not asked for web.beyond.example")
	}
	for _, c := range []struct{ question, want string }{
		{"machine.lan.example A", Machine4},
		{"machine.lan.example AAAA", Machine6},
		{"-x " + Machine4, "machine.lan.example."},
		{"-x " + Beyond6, "web.beyond.example."},
		{"+tcp web.beyond.example A", Beyond4},
	} {
		args := append([]string{"+short", "+time=2", "+tries=1"}, strings.Fields(c.question)...)
		if got := mustRun(t, ctx, lan.HostA, "dig", args...); got != c.want {
			t.Errorf("dig %s says %q, want %q", c.question, got, c.want)
		}
	}
	if out := mustRun(t, ctx, lan.HostA, "dig", "+time=2", "+tries=1", "nothing.example"); !strings.Contains(out, "status: NXDOMAIN") {
		t.Errorf("an unknown name is answered by %s", out)
	}
}

func TestLANHostSeesOnlyItself(t *testing.T) {
	Need(t, Root, "ip", "nsenter")
	ctx := testContext(t, 20*time.Second)
	lan, other := newTestLAN(t, ctx), newTestLAN(t, ctx)
	for _, l := range []*LAN{lan, other} {
		var links []struct{ Ifname, Operstate, Link_type string }
		if err := json.Unmarshal([]byte(mustRun(t, ctx, l.HostA, "ip", "-j", "link")), &links); err != nil {
			t.Fatal(err)
		}
		if len(links) != 2 || links[0].Ifname != "lo" || links[1].Ifname != HostANIC || links[1].Operstate != "UP" {
			t.Errorf("host A has links %+v, want lo and %s, up", links, HostANIC)
		}
		if got := mustRun(t, ctx, l.HostA, "ls", "/sys/class/net"); got != HostANIC+"\nlo" {
			t.Errorf("host A has %q in /sys/class/net", got)
		}
		if got := mustRun(t, ctx, l.HostA, "hostname"); got != "host-a" {
			t.Errorf("host A is called %q", got)
		}
	}
	mustRun(t, ctx, lan.HostA, "touch", "/run/one")
	if _, err := other.HostA.Run(ctx, "test", "-e", "/run/one"); err == nil {
		t.Error("two hosts share /run")
	}
	if _, err := os.Stat("/run/one"); err == nil {
		t.Error("host A writes to /run of the machine below")
	}
}

func TestLANRefusalIsSeen(t *testing.T) {
	Need(t, Root, "ip", "nsenter", "nft")
	ctx := testContext(t, 20*time.Second)
	lan := newTestLAN(t, ctx)
	mustRun(t, ctx, lan.HostA, "nft", `add table inet t;
		add chain inet t in { type filter hook input priority 0; };
		add rule inet t in tcp dport 1 reject with icmpx admin-prohibited;
		add rule inet t in tcp dport 2 reject with icmpx host-unreachable;
		add rule inet t in tcp dport 3 drop`)
	for _, host := range []string{HostA4, HostA6} {
		addr := netip.MustParseAddr(host)
		r, err := lan.Machine.Refused(ctx, netip.AddrPortFrom(addr, 1))
		if err != nil {
			t.Fatal(err)
		}
		if !r.AdminProhibited() || r.From != addr {
			t.Errorf("connecting to %s port 1 is refused by %s, want administratively prohibited from %s", host, r, host)
		}
		if r, err = lan.Machine.Refused(ctx, netip.AddrPortFrom(addr, 2)); err != nil || r.AdminProhibited() {
			t.Errorf("connecting to %s port 2 gives %s, %v, want another kind of refusal", host, r, err)
		}
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		if r, err = lan.Machine.Refused(short, netip.AddrPortFrom(addr, 3)); err == nil {
			t.Errorf("silence of %s counts as refusal %s", host, r)
		}
		cancel()
		if r, err = lan.Machine.Refused(ctx, netip.AddrPortFrom(addr, 4)); err == nil {
			t.Errorf("a reset by %s counts as refusal %s", host, r)
		}
	}
	if r, err := lan.HostA.Refused(ctx, netip.AddrPortFrom(netip.MustParseAddr(Machine4), 80)); err == nil {
		t.Errorf("a connection counts as refusal %s", r)
	}
}

// TestLANCloseEndsDaemons starts a process that leaves its parent and session, as daemons do.
func TestLANCloseEndsDaemons(t *testing.T) {
	Need(t, Root, "ip", "nsenter", "setsid")
	ctx := testContext(t, 20*time.Second)
	lan, err := NewLAN(ctx, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	pid := mustRun(t, ctx, lan.HostA, "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
	proc := filepath.Join("/proc", pid, "comm")
	if _, err := os.Stat(proc); err != nil {
		t.Fatalf("the daemon does not run before Close: %v", err)
	}
	ns, err := os.Readlink(filepath.Join("/proc", pid, "ns/net"))
	if err != nil {
		t.Fatal(err)
	}
	if err := lan.Close(); err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && at == ns {
			t.Errorf("%s is still in host A's namespace", link)
		}
	}
}
