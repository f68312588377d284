package hostconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	mdns "github.com/miekg/dns"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
)

// resolvedIn is where a package's content was unpacked; "/" for installed.
var resolvedIn string

func TestMain(m *testing.M) {
	if err := findResolved(); err != nil {
		fmt.Fprintln(os.Stderr, "no systemd-resolved:", err)
	}
	nettest.Main(m)
}

// findResolved looks for an installed systemd-resolved, else for one in the cache,
// else downloads and unpacks one there: installing the package would turn the
// machine's own resolver over. It runs before the test is in a namespace, from
// where there is no way to a mirror.
func findResolved() error {
	const program = "lib/systemd/systemd-resolved"
	cache, err := nettest.CacheDir()
	if err != nil {
		return err
	}
	dir := filepath.Join(cache, "systemd-resolved")
	for _, root := range []string{"/", filepath.Join(dir, "root")} {
		if _, err := os.Stat(filepath.Join(root, program)); err == nil {
			resolvedIn = root
			return nil
		}
	}
	tmp := dir + ".new"
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	const script = `apt-get -qq -o APT::Sandbox::User=root download systemd-resolved && dpkg-deb -x systemd-resolved_*.deb root`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	resolvedIn = filepath.Join(dir, "root")
	return nil
}

// testHost is a namespace with a bus of its own and a bridge.
type testHost struct {
	bus      string
	resolved *exec.Cmd
	flags    uintptr // of clone(2), for resolved
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func bind(t *testing.T, content, at string) {
	t.Helper()
	at, err := filepath.EvalSymlinks(at)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(file, at, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(at, syscall.MNT_DETACH) })
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy></busconfig>`

func newTestHost(t *testing.T) *testHost {
	t.Helper()
	nettest.Need(t, nettest.Namespace, nettest.Root, "ip", "dbus-daemon")
	if resolvedIn == "" {
		nettest.Need(t, "/lib/systemd/systemd-resolved")
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount("/run", syscall.MNT_DETACH) })
	for _, file := range []struct{ path, line string }{
		{"/etc/passwd", "systemd-resolve:x:65534:65534::/:/bin/false\n"}, {"/etc/group", "systemd-resolve:x:65534:\n"},
	} {
		old, err := os.ReadFile(file.path)
		if err != nil {
			t.Fatal(err)
		}
		bind(t, string(old)+file.line, file.path)
	}
	bind(t, "nameserver 127.0.0.1\n", "/etc/resolv.conf")
	if err := os.MkdirAll("/run/systemd/resolve", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown("/run/systemd/resolve", 65534, 65534); err != nil {
		t.Fatal(err)
	}
	h := &testHost{bus: "unix:path=/run/bus"}
	config := filepath.Join(t.TempDir(), "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, "/run/bus"), 0o644); err != nil {
		t.Fatal(err)
	}
	bus := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile", "--print-address")
	bus.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := bus.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Process.Kill(); _ = bus.Wait() })
	if _, err := out.Read(make([]byte, 256)); err != nil { // the address: it listens
		t.Fatal(err)
	}
	run(t, "ip", "link", "add", "virbr0", "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "virbr0").Run() })
	run(t, "ip", "addr", "add", "192.168.122.1/24", "dev", "virbr0")
	run(t, "ip", "addr", "add", "fd00:a::1/64", "dev", "virbr0", "nodad")
	run(t, "ip", "link", "set", "virbr0", "up")
	// Without a carrier resolved does not use the link; a guest's port gives it one.
	run(t, "ip", "link", "add", "vnet0", "type", "veth", "peer", "name", "guest0")
	run(t, "ip", "link", "set", "vnet0", "master", "virbr0", "up")
	run(t, "ip", "link", "set", "guest0", "up")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "vnet0").Run() })
	return h
}

// start starts resolved and waits until it is on the bus.
func (h *testHost) start(t *testing.T) {
	t.Helper()
	h.resolved = exec.Command(filepath.Join(resolvedIn, "lib/systemd/systemd-resolved"))
	h.resolved.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+h.bus, "SYSTEMD_LOG_LEVEL=warning")
	h.resolved.Stderr = os.Stderr
	h.resolved.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: h.flags}
	conn, err := dbus.Connect(h.bus)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	if err := conn.AddMatchSignal(dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, resolvedName)); err != nil {
		t.Fatal(err)
	}
	if err := h.resolved.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.stop() })
	limit := time.After(20 * time.Second)
	for {
		select {
		case s := <-signals:
			if len(s.Body) == 3 && s.Body[0] == resolvedName && s.Body[2] != "" {
				return
			}
		case <-limit:
			t.Fatal("systemd-resolved does not come up")
		}
	}
}

func (h *testHost) stop() {
	if h.resolved != nil {
		_ = h.resolved.Process.Kill()
		_ = h.resolved.Wait()
		h.resolved = nil
	}
}

// resolvectl is the second opinion.
func (h *testHost) resolvectl(t *testing.T, args ...string) string {
	t.Helper()
	// It asks about the links that it sees itself.
	args = append([]string{"--net", "--target", strconv.Itoa(h.resolved.Process.Pid), filepath.Join(resolvedIn, "usr/bin/resolvectl")}, args...)
	cmd := exec.Command("nsenter", args...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+h.bus)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("resolvectl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var entry = host.Resolver{
	Link: "virbr0", Server: netip.MustParseAddr("192.168.122.1"), Domain: "default.internal",
	Reverse: "0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa 122.168.192.in-addr.arpa",
}

// wantSeen compares what is observed, with and without naming it.
func wantSeen(t *testing.T, r *Resolved, want ...host.Resource) {
	t.Helper()
	for _, keys := range [][]host.Key{nil, {entry.Key(), {Kind: host.KindResolver, Name: "gone0"}, host.LinkKey("virbr0")}} {
		got, err := r.Observe(context.Background(), keys...)
		if err != nil {
			t.Fatal(err)
		}
		state := host.NewState(want...)
		if len(got) != len(state) || len(want) == 1 && got[entry.Key()] != want[0] {
			t.Errorf("observed %v, want %v", got, state)
		}
	}
}

func TestResolved(t *testing.T) {
	h := newTestHost(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	r := NewResolved(h.bus)
	defer r.Close()
	restarts := r.Restarts(ctx)

	// Where it does not run.
	if err := r.Absence(ctx); !errors.Is(err, errNotRunning) {
		t.Fatalf("before it runs: %v", err)
	}
	wantSeen(t, r)
	if err := r.Apply(ctx, []plan.Step{{Before: entry}}); err != nil {
		t.Errorf("reverting where it does not run: %v", err)
	}
	if err := r.Apply(ctx, []plan.Step{{After: entry}}); err == nil {
		t.Error("set where it does not run")
	}

	h.start(t)
	if !r.Available(ctx) {
		t.Fatal("not available")
	}
	wantSeen(t, r)
	for range 2 { // steps are idempotent
		if err := r.Apply(ctx, []plan.Step{{After: entry}}); err != nil {
			t.Fatal(err)
		}
		wantSeen(t, r, entry)
	}
	status := h.resolvectl(t, "status", "virbr0")
	for _, want := range []string{"-DefaultRoute", "-LLMNR", "-mDNS", "-DNSOverTLS", "DNSSEC=no", "DNS Servers: 192.168.122.1",
		"default.internal", "~122.168.192.in-addr.arpa", "~0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in:\n%s", want, status)
		}
	}

	six := entry
	six.Server = netip.MustParseAddr("fd00:a::1")
	six.Domain = "other.internal"
	if err := r.Apply(ctx, []plan.Step{{Before: entry, After: six}}); err != nil {
		t.Fatal(err)
	}
	wantSeen(t, r, six)

	// What others change shows as a difference.
	spoilt := entry
	spoilt.Server = netip.Addr{}
	for _, c := range []struct {
		args []string
		want host.Resolver
	}{
		{[]string{"default-route", "virbr0", "yes"}, spoilt},
		{[]string{"llmnr", "virbr0", "yes"}, spoilt},
		{[]string{"dns", "virbr0", "192.168.122.1", "192.168.122.9"}, spoilt},
		{[]string{"domain", "virbr0", "~default.internal"}, host.Resolver{Link: "virbr0", Reverse: "default.internal"}},
		{[]string{"domain", "virbr0", "default.internal"}, host.Resolver{Link: "virbr0", Server: entry.Server, Domain: "default.internal"}},
	} {
		if err := r.Apply(ctx, []plan.Step{{After: entry}}); err != nil {
			t.Fatal(err)
		}
		h.resolvectl(t, c.args...)
		wantSeen(t, r, c.want)
	}

	// Each restart is told. It remembers what it noted below /run; without that it
	// forgets.
	if err := r.Apply(ctx, []plan.Step{{After: entry}}); err != nil {
		t.Fatal(err)
	}
	for _, forget := range []bool{false, true} {
		drain(restarts)
		h.stop()
		if forget {
			if err := os.RemoveAll("/run/systemd/resolve/netif"); err != nil {
				t.Fatal(err)
			}
		}
		h.start(t)
		select {
		case <-restarts:
		case <-ctx.Done():
			t.Fatal("a restart is not told")
		}
		if forget {
			wantSeen(t, r)
		} else {
			wantSeen(t, r, entry)
		}
	}
	if err := r.Apply(ctx, []plan.Step{{After: entry}}); err != nil {
		t.Fatal(err)
	}
	wantSeen(t, r, entry)

	for range 2 {
		if err := r.Apply(ctx, []plan.Step{{Before: entry}}); err != nil {
			t.Fatal(err)
		}
		wantSeen(t, r)
	}
	if status := h.resolvectl(t, "status", "virbr0"); strings.Contains(status, "192.168.122.1") || !strings.Contains(status, "+LLMNR") {
		t.Errorf("not taken back:\n%s", status)
	}

	// A link that was made just now may not have reached resolved yet.
	run(t, "ip", "link", "add", "virbr7", "type", "bridge")
	fresh := entry
	fresh.Link = "virbr7"
	if err := r.Apply(ctx, []plan.Step{{After: fresh}}); err != nil {
		t.Error(err)
	}
	run(t, "ip", "link", "del", "virbr7")
	if err := r.Apply(ctx, []plan.Step{{Before: fresh}}); err != nil {
		t.Errorf("reverting a link that is gone: %v", err)
	}
	if err := r.Apply(ctx, []plan.Step{{After: fresh}}); err == nil {
		t.Error("set on a link that is gone")
	}
	cancel()
	for range restarts { // closed when ctx ends
	}
}

func drain(c <-chan struct{}) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// TestHostResolvesGuests asks resolved itself: the guest's name with and without
// the domain comes from the network's service, and no other name is asked there.
func TestHostResolvesGuests(t *testing.T) {
	h := newTestHost(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var mu sync.Mutex
	asked := map[string][]string{}
	for _, server := range []struct{ addr, answer, name string }{
		{"192.168.122.1:53", "192.168.122.50", "web.default.internal."}, {"127.0.0.1:53", "198.18.0.1", "www.example.org."},
	} {
		conn, err := net.ListenPacket("udp", server.addr)
		if err != nil {
			t.Fatal(err)
		}
		s := &mdns.Server{PacketConn: conn, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
			mu.Lock()
			asked[server.addr] = append(asked[server.addr], q.Question[0].Name)
			mu.Unlock()
			m := new(mdns.Msg).SetReply(q)
			m.RecursionAvailable = true
			if q.Question[0].Qtype == mdns.TypeA {
				m.Answer = append(m.Answer, &mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 1}, A: net.ParseIP(server.answer)})
			}
			if q.Question[0].Qtype == mdns.TypePTR {
				m.Answer = append(m.Answer, &mdns.PTR{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypePTR, Class: mdns.ClassINET, Ttl: 1}, Ptr: server.name})
			}
			_ = w.WriteMsg(m)
		})}
		go s.ActivateAndServe() //nolint:errcheck // it ends by Shutdown
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	h.start(t)
	r := NewResolved(h.bus)
	defer r.Close()
	if err := r.Apply(ctx, []plan.Step{{After: entry}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"web.default.internal": "192.168.122.50", "web": "192.168.122.50", "www.example.org": "198.18.0.1"} {
		if out := h.resolvectl(t, "query", "-4", name); !strings.Contains(out, want) {
			t.Errorf("%s: no %s in %s", name, want, out)
		}
	}
	for addr, want := range map[string]string{
		"192.168.122.50": "web.default.internal", "fd00:a::50": "web.default.internal", "198.18.0.1": "www.example.org", "192.168.123.50": "www.example.org",
	} {
		if out := h.resolvectl(t, "query", addr); !strings.Contains(out, want) {
			t.Errorf("%s: no %s in %s", addr, want, out)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, name := range asked["192.168.122.1:53"] {
		name = strings.ToLower(name)
		if !strings.HasSuffix(name, "default.internal.") && !strings.HasSuffix(name, ".122.168.192.in-addr.arpa.") && !strings.HasSuffix(name, ".a.0.0.0.0.0.d.f.ip6.arpa.") {
			t.Errorf("the network's service was asked for %s", name)
		}
	}
	for _, name := range asked["127.0.0.1:53"] {
		if strings.HasSuffix(strings.ToLower(name), "default.internal.") {
			t.Errorf("the outside was asked for %s", name)
		}
	}
}

// A daemon in a network namespace reaches the host's resolved, which has other
// links of the same numbers: it must leave them alone.
func TestResolvedOfAnotherNetwork(t *testing.T) {
	h := newTestHost(t)
	h.flags = syscall.CLONE_NEWNET
	h.start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r := NewResolved(h.bus)
	defer r.Close()
	if err := r.Absence(ctx); !errors.Is(err, errElsewhere) || r.Available(ctx) {
		t.Errorf("resolved of another network namespace is taken for ours: %v", err)
	}
	wantSeen(t, r)
	// Its link 1 is as good as ours: without the check this would set it.
	r.link = func(string) (int, error) { return 1, nil }
	if err := r.Apply(ctx, []plan.Step{{After: entry}}); !errors.Is(err, errElsewhere) {
		t.Errorf("an entry was set in another network namespace: %v", err)
	}
	if out := h.resolvectl(t, "domain"); strings.Contains(out, entry.Domain) {
		t.Errorf("resolved was changed:\n%s", out)
	}
}
