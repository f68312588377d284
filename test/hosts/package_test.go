package hosts

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/nettest"
)

// buildDeb builds the package as `make deb` does and puts it where the host sees
// it. It returns the path there.
func (h *whole) buildDeb(t *testing.T, version string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(h.Src, "scripts/deb"), version)
	cmd.Env = append(os.Environ(), "OUT="+h.Deb)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build the package: %v", err)
	}
	return "/deb/" + filepath.Base(strings.TrimSpace(string(out)))
}

// TestPackage lives the life of the Debian package on one host. Each chapter
// stands on the one before.
func TestPackage(t *testing.T) {
	need(t)
	h := newWhole(t)
	first, second := h.buildDeb(t, "1.0.0"), h.buildDeb(t, "1.0.1")
	t.Logf("boot: %s", h.boot(t).Round(time.Millisecond))
	before := h.files(t)
	for _, chapter := range []struct {
		name string
		tell func(*testing.T)
	}{
		{"install", func(t *testing.T) { h.testInstall(t, first) }},
		{"rights", h.testRights},
		{"resolver", h.testResolver},
		{"network stop", h.testStop},
		{"nothing is lost", func(t *testing.T) { h.testNothingLost(t, second) }},
		{"crash after crash", h.testCrashes},
		{"reboot", h.testReboot},
		{"power cut", h.testPowerCut},
		{"removal is refused", h.testRemoveRefused},
		{"removal", func(t *testing.T) { h.testRemove(t, first, before) }},
	} {
		if !t.Run(chapter.name, chapter.tell) {
			t.FailNow()
		}
	}
}

// testInstall: the package does nothing by itself; enabled, it gives the host its
// first network.
func (h *whole) testInstall(t *testing.T, deb string) {
	if out := h.run(t, "dpkg", "-i", deb); !strings.Contains(out, "systemctl enable --now drawbridge") {
		t.Errorf("dpkg -i does not say how to start:\n%s", out)
	}
	h.run(t, "dpkg", "--verify", "drawbridge")
	if out := h.sh(t, "ip -br link; systemctl is-active drawbridge || true"); strings.Contains(out, "virbr") || !strings.Contains(out, "inactive") {
		t.Errorf("installing alone changed the host:\n%s", out)
	}
	if out, err := h.Try("systemd-analyze", "verify", "drawbridge.service", "drawbridge-guests.service", "drawbridge-boot.service"); err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	began := time.Now()
	h.run(t, "systemctl", "enable", "--now", "drawbridge")
	t.Logf("systemctl enable --now: %s", time.Since(began).Round(time.Millisecond))
	h.wantDefault(t)
	for _, unit := range []string{"drawbridge", "drawbridge-guests"} {
		if got := h.property(t, unit, "ActiveState"); got != "active" {
			t.Errorf("%s is %s", unit, got)
		}
	}
	if out := h.run(t, "drawbridge", "status"); !strings.Contains(out, "default") || !strings.Contains(out, "1.0.0") {
		t.Errorf("status:\n%s", out)
	}
	if problems := h.status(t).Problems; len(problems) > 0 {
		t.Errorf("status has problems: %v", problems)
	}
	page := h.sh(t, "export MANWIDTH=100; for p in /usr/share/man/man8/drawbridge*.8.gz; do man --warnings -l $p >/tmp/page || exit 1; test -s /tmp/page; done")
	if page != "" {
		t.Errorf("man says:\n%s", page)
	}
	h.run(t, "man", "-w", "8", "drawbridge-network-create")
	completed := h.run(t, "bash", "-ec", `. /usr/share/bash-completion/bash_completion
		_completion_loader drawbridge || [ $? = 124 ]
		complete -p drawbridge
		compopt() { :; } # works only while completing
		COMP_LINE='drawbridge network sho' COMP_POINT=${#COMP_LINE} COMP_WORDS=(drawbridge network sho) COMP_CWORD=2 COMP_TYPE=9
		__start_drawbridge; echo "reply: ${COMPREPLY[*]}"`)
	if !strings.Contains(completed, "reply: show") {
		t.Errorf("bash completes:\n%s", completed)
	}
}

// status as the client shows it.
type status struct {
	Version     string
	PID         int
	ServicesPID int `json:"services_pid"`
	Problems    []string
	Networks    []struct{ Name, State string }
}

func (h *whole) status(t *testing.T) status {
	t.Helper()
	var s status
	if err := json.Unmarshal([]byte(h.run(t, "drawbridge", "status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// wantDefault looks at the default network with the kernel's own tools.
func (h *whole) wantDefault(t *testing.T) {
	t.Helper()
	if err := h.seeDefault(); err != nil {
		t.Error(err)
	}
}

func (h *whole) seeDefault() error {
	var links []struct {
		Ifname   string
		Flags    []string
		AddrInfo []struct {
			Local     string
			Prefixlen int
		} `json:"addr_info"`
	}
	out, err := h.Try("ip", "-j", "addr", "show", "dev", "virbr0")
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 || !slices.Contains(links[0].Flags, "UP") {
		return fmt.Errorf("virbr0: %w: %s", err, out)
	}
	if a := links[0].AddrInfo; len(a) == 0 || a[0].Local != "192.168.122.1" || a[0].Prefixlen != 24 {
		return fmt.Errorf("virbr0 has addresses %v", a)
	}
	rules, err := h.Try("nft", "-j", "list", "ruleset")
	if err != nil {
		return err
	}
	for _, want := range []string{`"drawbridge"`, `"masquerade"`, `"virbr0"`, `"192.168.122.0"`} {
		if !strings.Contains(rules, want) {
			return fmt.Errorf("the rules do not have %s:\n%s", want, rules)
		}
	}
	return nil
}

// testRights compares what the processes may do with what the units say.
func (h *whole) testRights(t *testing.T) {
	numbers := map[string]uint{"cap_dac_read_search": 2, "cap_net_bind_service": 10, "cap_net_admin": 12, "cap_net_raw": 13, "cap_sys_ptrace": 19, "cap_bpf": 39}
	var want uint64
	for _, name := range strings.Fields(h.property(t, "drawbridge", "CapabilityBoundingSet")) {
		bit, known := numbers[name]
		if !known {
			t.Errorf("the daemon is given %s", name)
		}
		want |= 1 << bit
	}
	daemon, services := h.process(t, "drawbridge"), h.process(t, "drawbridge-guests")
	for _, set := range []string{"CapBnd", "CapEff", "CapPrm"} {
		if got, _ := strconv.ParseUint(daemon[set][0], 16, 64); got != want || got == 0 {
			t.Errorf("the daemon's %s is %s, want %016x", set, daemon[set][0], want)
		}
		if got := services[set][0]; strings.Trim(got, "0") != "" {
			t.Errorf("the guest services' %s is %s, want none", set, got)
		}
	}
	id := strings.TrimSpace(h.run(t, "id", "-u", "drawbridge-guests"))
	if got := services["Uid"]; id == "0" || slices.Compact(slices.Clone(got))[0] != id || len(slices.Compact(slices.Clone(got))) != 1 {
		t.Errorf("the guest services run as %v, drawbridge-guests is %s", got, id)
	}
	for who, p := range map[string]map[string][]string{"daemon": daemon, "guest services": services} {
		if p["NoNewPrivs"][0] != "1" || p["Seccomp"][0] != "2" {
			t.Errorf("%s: NoNewPrivs %v, Seccomp %v", who, p["NoNewPrivs"], p["Seccomp"])
		}
	}
	// Lower is better; systemd calls up to 4.9 OK.
	for unit, limit := range map[string]float64{"drawbridge.service": 4.0, "drawbridge-guests.service": 1.5} {
		out := h.run(t, "systemd-analyze", "--no-pager", "security", unit)
		m := regexp.MustCompile(`exposure level for \S+: ([0-9.]+) (\S+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("systemd-analyze security: %s", out)
		}
		t.Logf("systemd-analyze security %s: %s %s", unit, m[1], m[2])
		if got, _ := strconv.ParseFloat(m[1], 64); got > limit {
			t.Errorf("%s is exposed %v, want at most %v", unit, got, limit)
		}
	}
	if got := h.run(t, "stat", "-c", "%a %U", "/run/drawbridge/drawbridge.sock", "/var/lib/drawbridge-guests", "/var/lib/drawbridge"); got != "666 root\n700 drawbridge-guests\n711 root\n" {
		t.Errorf("modes and owners:\n%s", got)
	}
}

// process reads /proc/PID/status of a unit's main process.
func (h *whole) process(t *testing.T, unit string) map[string][]string {
	t.Helper()
	fields := map[string][]string{}
	for line := range strings.Lines(h.run(t, "cat", "/proc/"+h.property(t, unit, "MainPID")+"/status")) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.Fields(value)
		}
	}
	return fields
}

const otherMAC = "52:54:00:00:00:01"

// testResolver: the host resolves guests through systemd-resolved, which a
// restart does not change, and questions do not go in circles.
func (h *whole) testResolver(t *testing.T) {
	g := newGuest(t, "alpha")
	h.plug(t, g, "vethalpha", otherMAC, "virbr0")
	t.Logf("DHCP: %s", g.dhcp(t).Round(time.Millisecond))
	resolves := func() error {
		for _, name := range []string{"alpha.default.internal", "alpha"} {
			if err := h.says([]string{g.addr}, "getent", "ahostsv4", name)(); err != nil {
				return err
			}
		}
		return nil
	}
	within(t, 5*time.Second, resolves)
	within(t, 5*time.Second, h.says([]string{"alpha.default.internal"}, "getent", "hosts", g.addr))
	if out := h.run(t, "resolvectl", "domain", "virbr0"); !strings.Contains(out, " default.internal") || !strings.Contains(out, " ~122.168.192.in-addr.arpa") {
		t.Errorf("resolvectl domain: %s", out)
	}
	// Not from the cache nor from a file, but from us; and other addresses are not asked of us.
	within(t, 5*time.Second, h.says([]string{"alpha.default.internal", "link: virbr0"}, "resolvectl", "--cache=no", "query", g.addr))
	for _, addr := range []string{"192.168.123.9", hostAddr, "10.0.0.9"} {
		if out, err := h.Try("resolvectl", "--cache=no", "query", addr); strings.Contains(out, "virbr0") {
			t.Errorf("resolvectl query %s: %v: %s", addr, err, out)
		}
	}
	if out := h.run(t, "resolvectl", "status", "virbr0"); !strings.Contains(out, "-DefaultRoute") || !strings.Contains(out, "192.168.122.1") {
		t.Errorf("resolvectl status: %s", out)
	}
	h.testNoCircle(t, g)
	h.testVPN(t, g)
	h.run(t, "drawbridge", "network", "create", "six", "--subnet", "10.76.0.0/23", "--ipv6", "fd00:76::/64")
	h.plug(t, newGuest(t, "carrier"), "vethsix", "52:54:00:00:00:06", "virbr1") // no carrier, no questions
	for _, addr := range []string{"10.76.0.1", "fd00:76::1"} {
		within(t, 5*time.Second, h.says([]string{"host.six.internal", "link: virbr1"}, "resolvectl", "--cache=no", "query", addr))
	}
	if out := h.run(t, "resolvectl", "domain", "virbr1"); !strings.Contains(out, " ~1.76.10.in-addr.arpa") || !strings.Contains(out, "~0.0.0.0.0.0.0.0.6.7.0.0.0.0.d.f.ip6.arpa") {
		t.Errorf("resolvectl domain: %s", out)
	}
	h.run(t, "drawbridge", "network", "rm", "six", "--cut-guests")
	h.run(t, "systemctl", "restart", "systemd-resolved")
	t.Logf("set again after a restart of resolved: %s", within(t, 10*time.Second, resolves).Round(time.Millisecond))

	// The host's own names are asked of its own servers.
	asked := h.lan.DNS.Asked("machine.lan.example.")
	within(t, 5*time.Second, h.says([]string{nettest.Machine4}, "getent", "ahostsv4", "machine.lan.example"))
	if h.lan.DNS.Asked("machine.lan.example.") == asked {
		t.Error("the host's question did not reach its server")
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// testNoCircle asks what nobody knows. The guest's question goes to our DNS,
// which asks the host's servers; the host's goes to resolved.
func (h *whole) testNoCircle(t *testing.T, g *guest) {
	for _, name := range []string{"nobody.example", "nobody.default.internal", "nobody"} {
		began := time.Now()
		if out := g.dig(t, "@192.168.122.1", name); !strings.Contains(out, "status: NXDOMAIN") {
			t.Errorf("the guest asks for %s:\n%s", name, out)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the guest's question for %s took %s", name, took)
		}
		began = time.Now()
		if err := h.fails("getent", "hosts", name+".")(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the host's question for %s took %s", name, took)
		}
		// A and AAAA of the host, A of the guest; in a circle there would be hundreds.
		if n := h.lan.DNS.Asked(name + "."); n > 6 {
			t.Errorf("the LAN's server was asked for %s %d times", name, n)
		}
	}
	if h.lan.DNS.Asked("nobody.default.internal.") > 0 {
		t.Error("a name of ours was asked of the LAN's server")
	}
	if out := g.dig(t, "@192.168.122.1", "web.beyond.example"); !strings.Contains(out, nettest.Beyond4) {
		t.Errorf("the guest asks for a name beyond:\n%s", out)
	}
}

// testStop: a stopped network leaves nothing in the resolver, and comes back.
func (h *whole) testStop(t *testing.T) {
	within(t, 5*time.Second, func() error {
		out, err := h.Try("drawbridge", "network", "stop", "default")
		if err != nil {
			return fmt.Errorf("the guest is gone, and yet: %w: %s", err, out)
		}
		return nil
	})
	if out := h.sh(t, "resolvectl domain; resolvectl dns; ip -br link; nft list ruleset"); strings.Contains(out, "default.internal") || strings.Contains(out, "virbr0") || strings.Contains(out, "192.168.122") {
		t.Errorf("left behind by network stop:\n%s", out)
	}
	if err := h.fails("getent", "hosts", "alpha.default.internal")(); err != nil {
		t.Error(err)
	}
	h.run(t, "drawbridge", "network", "start", "default")
	h.wantDefault(t)
	within(t, 5*time.Second, h.says([]string{"default.internal"}, "resolvectl", "domain", "virbr0"))
}

// testNothingLost restarts, kills and upgrades while a guest pings the internet
// each 10 ms.
func (h *whole) testNothingLost(t *testing.T, upgrade string) {
	var port struct{ Tap, MAC string }
	if err := json.Unmarshal([]byte(h.run(t, "drawbridge", "port", "attach", "default", "--name", "steady", "-o", "json")), &port); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, "steady")
	let := h.onTap(t, g, port.Tap, port.MAC)
	defer let()
	g.dhcp(t)
	for _, event := range []struct {
		name, unit string
		do         func()
	}{
		{"systemctl restart drawbridge", "drawbridge", func() { h.run(t, "systemctl", "restart", "drawbridge") }},
		{"kill -9 of the daemon", "drawbridge", func() { h.run(t, "systemctl", "kill", "-s", "KILL", "--kill-who=main", "drawbridge") }},
		{"systemctl restart drawbridge-guests", "drawbridge-guests", func() { h.run(t, "systemctl", "restart", "drawbridge-guests") }},
		{"kill -9 of the guest services", "drawbridge-guests", func() { h.run(t, "systemctl", "kill", "-s", "KILL", "--kill-who=main", "drawbridge-guests") }},
		{"restart of the guest services without a message bus", "drawbridge-guests", func() {
			h.run(t, "systemctl", "stop", "dbus.socket", "dbus.service")
			h.run(t, "systemctl", "stop", "drawbridge-guests")
			within(t, 20*time.Second, func() error { return h.active("drawbridge-guests") })
			h.run(t, "systemctl", "start", "dbus.socket", "dbus.service")
		}},
		{"upgrade of the package", "drawbridge", func() { h.run(t, "dpkg", "-i", upgrade) }},
	} {
		pid := h.property(t, event.unit, "MainPID")
		p := g.ping(t, nettest.Beyond4)
		p.more(t, 20)
		began := time.Now()
		event.do()
		within(t, 20*time.Second, func() error {
			if err := h.active(event.unit); err != nil {
				return err
			}
			if now := h.property(t, event.unit, "MainPID"); now == pid || now == "0" {
				return fmt.Errorf("%s is process %s, as before", event.unit, now)
			}
			return nil
		})
		up := time.Since(began)
		// The services are whole again when DHCP and DNS answer.
		g.dhcp(t)
		served := within(t, 15*time.Second, h.says([]string{g.addr}, "getent", "ahostsv4", "steady.default.internal"))
		p.more(t, 20)
		sent, lost := p.stop()
		t.Logf("%s: lost %d of %d pings; up again after %s, guests' services %s later", event.name, lost, sent, up.Round(time.Millisecond), served.Round(time.Millisecond))
		if lost != 0 {
			t.Errorf("%s: lost %d of %d pings", event.name, lost, sent)
		}
		if out := h.run(t, "drawbridge", "port", "ls"); !strings.Contains(out, port.Tap) || !strings.Contains(out, "steady") {
			t.Errorf("after %s the port is not listed:\n%s", event.name, out)
		}
	}
	within(t, 10*time.Second, func() error {
		if s := h.status(t); s.Version != "1.0.1" || len(s.Problems) > 0 {
			return fmt.Errorf("after the upgrade: version %s, problems %v", s.Version, s.Problems)
		}
		return nil
	})
	let()
	h.run(t, "drawbridge", "port", "detach", port.Tap)
}

func (h *whole) active(unit string) error {
	_, err := h.Try("systemctl", "is-active", "-q", unit)
	return err
}

// dockerStandIn is a docker.service that notes what Docker looks at when it
// starts. Like Docker's own it does not know us.
const dockerStandIn = `cat >/etc/systemd/system/docker.service <<'END'
[Unit]
After=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=cp /proc/sys/net/ipv4/ip_forward /run/docker-saw
[Install]
WantedBy=multi-user.target
END
systemctl enable -q docker
`

// testReboot: networks are up before the host says that it is, those that are not
// to start are not, and leases are kept.
func (h *whole) testReboot(t *testing.T) {
	h.run(t, "drawbridge", "network", "create", "lab", "--mode", "isolated", "--subnet", "10.77.0.0/24")
	h.run(t, "drawbridge", "network", "create", "sleeper", "--subnet", "10.78.0.0/24")
	h.run(t, "drawbridge", "network", "set", "sleeper", "autostart=false")
	first := newGuest(t, "beta")
	h.plug(t, first, "vethbeta", otherMAC, "virbr0")
	first.dhcp(t)
	lease := first.addr
	leases := h.run(t, "drawbridge", "lease", "ls")
	if !strings.Contains(leases, lease) {
		t.Errorf("lease ls:\n%s", leases)
	}
	boot := h.run(t, "cat", "/proc/sys/kernel/random/boot_id")
	first.Close()
	h.run(t, "sh", "-ec", dockerStandIn)
	h.off(t)
	t.Logf("boot with networks: %s", h.boot(t).Round(time.Millisecond))
	if h.run(t, "cat", "/proc/sys/kernel/random/boot_id") == boot {
		t.Fatal("this was no reboot")
	}
	h.wantDefault(t)
	if saw := h.run(t, "cat", "/run/docker-saw"); strings.TrimSpace(saw) != "1" {
		t.Errorf("when Docker starts ip_forward is %q: it turns it on, and drops what is forwarded", saw)
	}
	h.run(t, "sh", "-ec", "systemctl disable -q docker; rm /etc/systemd/system/docker.service; systemctl daemon-reload")
	if up, down := h.property(t, "drawbridge", "ActiveEnterTimestampMonotonic"), h.property(t, "multi-user.target", "ActiveEnterTimestampMonotonic"); len(up) > len(down) || len(up) == len(down) && up > down {
		t.Errorf("the daemon was ready at %s µs, the host at %s µs", up, down)
	}
	for network, want := range map[string]string{"default": "running", "lab": "running", "sleeper": "stopped"} {
		var n struct{ State string }
		if err := json.Unmarshal([]byte(h.run(t, "drawbridge", "network", "show", network, "-o", "json")), &n); err != nil {
			t.Fatal(err)
		}
		if n.State != want {
			t.Errorf("network %s is %s, want %s", network, n.State, want)
		}
	}
	if out := h.run(t, "ip", "-br", "addr"); !strings.Contains(out, "10.77.0.1") || strings.Contains(out, "10.78.0.1") {
		t.Errorf("addresses after the reboot:\n%s", out)
	}
	if out := h.run(t, "drawbridge", "lease", "ls"); !strings.Contains(out, lease) {
		t.Errorf("the lease of %s is gone:\n%s", lease, out)
	}
	// Who was there before gets what it had; somebody else something else.
	again, other := newGuest(t, "gamma"), newGuest(t, "delta")
	h.plug(t, other, "vethdelta", "52:54:00:00:00:02", "virbr0")
	other.dhcp(t)
	h.plug(t, again, "vethgamma", otherMAC, "virbr0")
	again.dhcp(t)
	if again.addr != lease || other.addr == lease {
		t.Errorf("after the reboot the guest has %s and another %s; it had %s", again.addr, other.addr, lease)
	}
	other.Close()
}

// testCrashes: however often something ends, it comes back.
func (h *whole) testCrashes(t *testing.T) {
	const times = 8 // systemd gives up after 5 in 10 s unless told otherwise
	for range times {
		h.run(t, "systemctl", "restart", "drawbridge")
	}
	for range times {
		// Without a process there is nothing to kill, which is an end too.
		_, _ = h.Try("systemctl", "kill", "-s", "KILL", "drawbridge-guests")
		within(t, 20*time.Second, func() error { return h.active("drawbridge-guests") })
	}
	g := newGuest(t, "epsilon")
	h.plug(t, g, "vethepsilon", "52:54:00:00:00:03", "virbr0")
	g.dhcp(t)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// testPowerCut: what was answered "done" is there after the power went.
func (h *whole) testPowerCut(t *testing.T) {
	h.run(t, "drawbridge", "network", "create", "late", "--subnet", "10.79.0.0/24")
	h.cut(t)
	h.boot(t)
	h.wantDefault(t)
	if out := h.run(t, "ip", "-br", "addr"); !strings.Contains(out, "10.79.0.1") {
		t.Errorf("addresses after the power cut:\n%s", out)
	}
	if problems := h.status(t).Problems; len(problems) > 0 {
		t.Errorf("status has problems: %v", problems)
	}
}

// testTapUser: the daemon's few rights are enough to name the process behind a
// tap, also another user's.
func (h *whole) testTapUser(t *testing.T, tap string) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.Deb, "vmm"), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	vmm := h.Command("env", holdTap+"="+tap, "/deb/vmm")
	in, err := vmm.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := vmm.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close() // ends it
		if err := vmm.Wait(); err != nil {
			t.Error(err)
		}
	}()
	within(t, 5*time.Second, func() error {
		var ports []struct {
			Tap, Process string
			PID          int
		}
		out := h.run(t, "drawbridge", "port", "ls", "-o", "json")
		if err := json.Unmarshal([]byte(out), &ports); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, p := range ports {
			if p.Tap == tap && p.Process == "vmm" && p.PID != 0 {
				return nil
			}
		}
		return fmt.Errorf("port ls does not name the process behind %s:\n%s", tap, out)
	})
}

// testRemoveRefused: the package does not go while a guest is plugged in.
func (h *whole) testRemoveRefused(t *testing.T) {
	var port struct{ Tap string }
	if err := json.Unmarshal([]byte(h.run(t, "drawbridge", "port", "attach", "default", "--name", "webserver", "-o", "json")), &port); err != nil {
		t.Fatal(err)
	}
	h.plug(t, newGuest(t, "foreign"), "vethforeign", otherMAC, "virbr0")
	h.testTapUser(t, port.Tap)
	out, err := h.Try("dpkg", "-r", "drawbridge")
	if err == nil || !strings.Contains(out, "webserver") || !strings.Contains(out, "vethforeign") {
		t.Errorf("removal with guests plugged in: %v:\n%s", err, out)
	}
	h.wantDefault(t)
	for _, unit := range []string{"drawbridge", "drawbridge-guests"} {
		if err := h.active(unit); err != nil {
			t.Error(err)
		}
	}
	if out := h.run(t, "dpkg-query", "-W", "-f", "${db:Status-Status}", "drawbridge"); out != "installed" {
		t.Errorf("the package is %s", out)
	}
	h.run(t, "drawbridge", "port", "detach", port.Tap)
	h.run(t, "ip", "link", "del", "vethforeign")
}

// testRemove: what the package and the daemon made goes, the state last.
func (h *whole) testRemove(t *testing.T, deb string, before []string) {
	// The daemon is down; its networks are not.
	h.run(t, "systemctl", "stop", "drawbridge")
	within(t, 5*time.Second, func() error { _, err := h.Try("dpkg", "-r", "drawbridge"); return err })
	h.wantNothing(t)
	if out := h.sh(t, "stat -c '%U %n' /var/lib/drawbridge /var/lib/drawbridge-guests /var/lib/drawbridge-guests/*"); !strings.Contains(out, "leases.db") || strings.Contains(out, "UNKNOWN") {
		t.Errorf("the state after removal:\n%s", out)
	}
	// Who comes back finds everything as it was.
	h.run(t, "dpkg", "-i", deb)
	h.run(t, "systemctl", "enable", "--now", "drawbridge")
	h.wantDefault(t)
	if out := h.run(t, "drawbridge", "lease", "ls"); !strings.Contains(out, otherMAC) {
		t.Errorf("leases after coming back:\n%s", out)
	}
	h.run(t, "dpkg", "--purge", "drawbridge")
	h.wantNothing(t)
	if out, err := h.Try("getent", "group", "drawbridge"); err == nil {
		t.Errorf("left: %s", out)
	}
	h.wantFiles(t, before)
}

// wantNothing looks for anything that the program left on the host.
func (h *whole) wantNothing(t *testing.T) {
	t.Helper()
	out := h.sh(t, `ip -br link; nft list ruleset; ip rule; resolvectl domain; resolvectl dns
		systemctl list-units --all --no-legend 'drawbridge*'; systemctl list-unit-files --no-legend 'drawbridge*' || true
		getent passwd drawbridge-guests || true; ls /run | grep drawbridge || true; pgrep -lx drawbridge || true`)
	for _, bad := range []string{"virbr", "vnet", "drawbridge", "default.internal"} {
		if strings.Contains(out, bad) {
			t.Errorf("%q is left:\n%s", bad, out)
			return
		}
	}
}

// files lists what lies on the host's disk, without what its own services write.
func (h *whole) files(t *testing.T) []string {
	t.Helper()
	out := h.sh(t, `find /etc /usr /opt /root /home /var/lib /var/spool -xdev ! -type d \
		! -path '/var/lib/dpkg/*' ! -path '/var/lib/systemd/*' ! -path '/var/lib/apt/*' ! -path '/etc/*-' ! -path '/etc/.*.lock' -printf '%p %y %l\n' | sort`)
	return strings.Split(strings.TrimSpace(out), "\n")
}

func (h *whole) wantFiles(t *testing.T, before []string) {
	t.Helper()
	after := h.files(t)
	for _, f := range after {
		if _, was := slices.BinarySearch(before, f); !was {
			t.Errorf("left: %s", f)
		}
	}
	for _, f := range before {
		if _, is := slices.BinarySearch(after, f); !is {
			t.Errorf("gone: %s", f)
		}
	}
}
