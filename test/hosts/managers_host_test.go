package hosts

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
)

// A managed host has one NIC, which nobody but its own network manager configures.
const (
	managedNIC    = "enp6s18"
	managedMAC    = "52:54:00:aa:bb:01"
	managedBridge = "br0"
	// managedStatic is its address where the configuration says so; by DHCP it gets
	// managedDHCP, of the router.
	managedStatic = "192.168.99.66"
	managedDHCP   = "192.168.99.150"
)

// managed is a whole host with a network manager of its own, on a LAN with a DHCP
// server.
type managed struct {
	*whole
	dhcpLog string
	before  string       // what runs after each boot while the NIC is in no bridge
	moved   [2]time.Time // when the last move of addresses and routes began and ended
}

// newManaged prepares a host that is off. root is a variant of scripts/managers-root,
// files are put over it, and services are enabled.
func newManaged(t *testing.T, root string, files map[string]string, services ...string) *managed {
	t.Helper()
	need(t)
	nettest.Need(t, "dnsmasq")
	h := &managed{whole: newHost(t, "scripts/managers-root", root)}
	h.write(t, "/etc/hostname", "host\n")
	if files["/var/lib/cloud/seed/nocloud/meta-data"] == "" {
		// It would take this machine's cloud for the host's.
		h.write(t, "/etc/cloud/cloud-init.disabled", "")
	}
	for name, content := range files {
		h.write(t, name, content)
	}
	if err := h.Enable(services...); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(h.Deb, "profile"), "./test/hosts/profile")
	build.Dir, build.Env = h.Src, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the driver: %v\n%s", err, out)
	}
	h.serveDHCP(t)
	t.Cleanup(func() {
		if t.Failed() && h.Running() {
			out, _ := h.Try("sh", "-c", "drawbridge change ls -o json; ip addr; ip route; ip -6 route; bridge link")
			t.Logf("the host:\n%s%s", out, h.journal(time.Now().Add(-time.Minute)))
			log, _ := os.ReadFile(h.dhcpLog)
			t.Logf("the DHCP server:\n%s", log)
		}
		h.off(t)
	})
	return h
}

// journal is what the network managers and the program said since then; of this
// boot only, so it is asked for as soon as something went wrong.
func (h *managed) journal(since time.Time) string {
	out, _ := h.Try("sh", "-c", fmt.Sprintf("journalctl --no-pager -b -o short-precise -n 200 -S @%d -u systemd-networkd -u networking -u NetworkManager -u 'drawbridge*'", since.Unix()))
	return out
}

// serveDHCP starts dnsmasq on the LAN's router: DHCPv4 by client identifier, so
// that a client that says another one gets another address.
func (h *managed) serveDHCP(t *testing.T) {
	t.Helper()
	h.dhcpLog = filepath.Join(h.Dir, "dhcp.log")
	server := h.lan.Router.Command(context.Background(), "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--port=0",
		"--interface=eth0", "--bind-interfaces", "--no-ping", "--dhcp-authoritative", "--dhcp-sequential-ip",
		"--dhcp-range="+managedDHCP+",192.168.99.199,10m", "--dhcp-option=option:dns-server,"+nettest.Router4,
		"--dhcp-option=option:domain-name,lan.example", "--dhcp-leasefile="+filepath.Join(h.Dir, "leases"), "--log-facility="+h.dhcpLog)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
}

// served counts the server's messages of one kind so far.
func (h *managed) served(t *testing.T, kind string) int {
	t.Helper()
	b, err := os.ReadFile(h.dhcpLog)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), " "+kind+"(")
}

// start boots the host and waits until it has its address.
func (h *managed) start(t *testing.T, address string) {
	t.Helper()
	h.plugIn(t, "managed-host", managedNIC+" address "+managedMAC)
	if _, err := h.Boot(h.node); err != nil {
		t.Fatal(err)
	}
	if h.before != "" && !strings.Contains(h.run(t, "ip", "link", "show", "dev", managedNIC), " master ") {
		h.sh(t, h.before)
	}
	within(t, 30*time.Second, h.says([]string{" " + address + "/24 "}, "ip", "-br", "-4", "addr"))
}

// reboot turns the host off and on again.
func (h *managed) reboot(t *testing.T, address string) {
	t.Helper()
	h.off(t)
	h.start(t, address)
}

// profile runs the driver on the host and decodes what it says.
func (h *managed) profile(t *testing.T, into any, args ...string) {
	t.Helper()
	cmd := h.Command("/deb/profile", args...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("profile %s: %v: %s", strings.Join(args, " "), err, complaints.String())
	}
	if into != nil {
		if err := json.Unmarshal(out, into); err != nil {
			t.Fatalf("profile %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
}

// do makes or drops the host's profile of a stage.
func (h *managed) do(t *testing.T, verb, stage, manager string) (told []string) {
	t.Helper()
	b, err := json.Marshal(host.Profile{Stage: stage, Manager: manager, Bridge: managedBridge, Uplinks: managedNIC, MAC: managedMAC, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	h.profile(t, &told, verb, string(b))
	return told
}

// lines runs ip on the host with JSON output.
func (h *managed) ip(t *testing.T, args ...string) (out []map[string]any) {
	t.Helper()
	text, err := h.node.Run(context.Background(), "ip", append([]string{"-j", "-d"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, text)
	}
	return out
}

const forever = 4294967295

// addressLines copies the addresses of a link onto another, with flags and
// lifetimes.
func (h *managed) addressLines(t *testing.T, from, to string) (add, remove []string) {
	for _, link := range h.ip(t, "addr", "show", "dev", from) {
		infos, _ := link["addr_info"].([]any)
		for _, i := range infos {
			a := i.(map[string]any)
			if a["scope"] == "link" {
				continue
			}
			line := fmt.Sprintf("%v/%v dev %s", a["local"], a["prefixlen"], to)
			if b, ok := a["broadcast"]; ok {
				line += fmt.Sprintf(" broadcast %v", b)
			}
			if m, ok := a["metric"]; ok {
				line += fmt.Sprintf(" metric %v", m)
			}
			if a["family"] == "inet6" {
				line += " nodad"
			}
			if v, _ := a["valid_life_time"].(float64); v != 0 && v != forever {
				line += fmt.Sprintf(" valid_lft %d preferred_lft %d", int64(v), int64(a["preferred_life_time"].(float64)))
			}
			add = append(add, "addr add "+line+" noprefixroute")
			remove = append(remove, fmt.Sprintf("addr del %v/%v dev %s", a["local"], a["prefixlen"], from))
		}
	}
	return add, remove
}

// routeLines copies the routes of the main table; those to the link first.
func (h *managed) routeLines(t *testing.T, from, to string) (lines []string) {
	for _, family := range []string{"-4", "-6"} {
		routes := h.ip(t, family, "route", "show", "dev", from)
		slices.SortStableFunc(routes, func(a, b map[string]any) int {
			_, x := a["gateway"]
			_, y := b["gateway"]
			switch {
			case x == y:
				return 0
			case y:
				return -1
			}
			return 1
		})
		for _, r := range routes {
			dst := fmt.Sprint(r["dst"])
			if strings.HasPrefix(dst, "fe80") || strings.HasPrefix(dst, "ff00") {
				continue
			}
			if dst == "default" {
				// In a batch the family is told by the destination.
				dst = map[string]string{"-4": "0.0.0.0/0", "-6": "::/0"}[family]
			}
			line := "route replace " + dst
			for _, word := range [][2]string{{"gateway", "via"}, {"prefsrc", "src"}, {"protocol", "proto"}, {"metric", "metric"}} {
				if v, ok := r[word[0]]; ok {
					line += fmt.Sprintf(" %s %v", word[1], v)
				}
			}
			if v, ok := r["scope"]; ok && family == "-4" {
				line += fmt.Sprintf(" scope %v", v)
			}
			lines = append(lines, line+" dev "+to)
		}
	}
	return lines
}

// neighbourLines copies who answers at which address. While the routes are on one
// link and the frames come in by the other, an answer to ARP or neighbour discovery
// is an answer on the wrong link, and the question is asked again only after 1 s.
func (h *managed) neighbourLines(t *testing.T, from, to string) (lines []string) {
	for _, n := range h.ip(t, "neigh", "show", "dev", from) {
		if n["lladdr"] != nil && !strings.HasPrefix(fmt.Sprint(n["dst"]), "fe80") {
			lines = append(lines, fmt.Sprintf("neigh replace %v lladdr %v dev %s nud stale", n["dst"], n["lladdr"], to))
		}
	}
	return lines
}

// moveIn makes the bridge and moves the NIC into it, in the order in which
// nothing is lost; with plain ip, as the program's own move does it.
func (h *managed) moveIn(t *testing.T) {
	t.Helper()
	h.moved[0] = time.Now()
	defer func() { h.moved[1] = time.Now() }()
	add, remove := h.addressLines(t, managedNIC, managedBridge)
	routes := h.routeLines(t, managedNIC, managedBridge)
	lines := []string{fmt.Sprintf("link add %s address %s type bridge stp_state 0 forward_delay 0", managedBridge, managedMAC),
		"link set " + managedBridge + " up"}
	lines = append(lines, add...)
	h.batch(t, append(lines, "link set "+managedNIC+" master "+managedBridge))
	// Until the kernel has seen the carrier the bridge drops what is sent over it, and
	// the first to go is the question for the gateway's address, asked again after 1 s.
	within(t, 5*time.Second, func() error {
		out, err := h.node.Run(t.Context(), "ip", "link", "show", "dev", managedBridge)
		if err == nil && !strings.Contains(out, "LOWER_UP") {
			err = errors.New("the bridge has no carrier")
		}
		return err
	})
	h.batch(t, slices.Concat(h.neighbourLines(t, managedNIC, managedBridge), routes, remove))
}

// moveOut is the way back.
func (h *managed) moveOut(t *testing.T) {
	t.Helper()
	h.moved[0] = time.Now()
	defer func() { h.moved[1] = time.Now() }()
	add, _ := h.addressLines(t, managedBridge, managedNIC)
	lines := slices.Concat(add, h.neighbourLines(t, managedBridge, managedNIC), h.routeLines(t, managedBridge, managedNIC))
	h.batch(t, append(lines, "link set "+managedNIC+" nomaster", "link del "+managedBridge))
}

func (h *managed) batch(t *testing.T, lines []string) {
	t.Helper()
	if err := h.node.IP(context.Background(), lines...); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(lines, "\n"))
	}
}

// network is what an operator would call the state of the host's network: links,
// addresses, routes; without lifetimes, indexes and addresses of single links.
func (h *managed) network(t *testing.T) string {
	t.Helper()
	var out []string
	for _, l := range h.ip(t, "addr") {
		line := fmt.Sprintf("link %v master %v mtu %v ipv6 off %s", l["ifname"], l["master"], l["mtu"],
			strings.TrimSpace(h.run(t, "cat", fmt.Sprintf("/proc/sys/net/ipv6/conf/%v/disable_ipv6", l["ifname"]))))
		infos, _ := l["addr_info"].([]any)
		for _, i := range infos {
			switch a := i.(map[string]any); {
			case a["scope"] != "link":
				line += fmt.Sprintf(" %v/%v", a["local"], a["prefixlen"])
			case a["dadfailed"] != nil:
				line += fmt.Sprintf(" (%v is somebody else's too)", a["local"])
			}
		}
		out = append(out, line)
	}
	for _, r := range h.ip(t, "route", "show", "table", "main") {
		out = append(out, fmt.Sprintf("route %v via %v dev %v src %v metric %v", r["dst"], r["gateway"], r["dev"], r["prefsrc"], r["metric"]))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// configuration is every file below the folders in which managers keep theirs,
// with its mode.
func (h *managed) configuration(t *testing.T) map[string]string {
	t.Helper()
	out := h.run(t, "sh", "-c", `find /etc/network /etc/systemd/network /etc/netplan /etc/NetworkManager /etc/cloud /etc/resolv.conf /etc/systemd/system -type f 2>/dev/null | sort |
		while read -r f; do printf '%s %s %s\n' "$f" "$(stat -c %a:%u:%g "$f")" "$(sha256sum <"$f")"; done`)
	files := map[string]string{}
	for line := range strings.Lines(out) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[name] = rest
	}
	return files
}

// stream is echo requests from the LAN's other machine to the host, one each
// millisecond.
type stream struct {
	conn *icmp.PacketConn
	stop chan struct{}
	sent chan map[int]time.Time

	mu  sync.Mutex
	got map[int]bool
	// first is the one from which on it is counted, last the last that was answered.
	first, last int
}

// pings begins a stream.
func (h *managed) pings(t *testing.T, to string) *stream {
	t.Helper()
	s := &stream{stop: make(chan struct{}), sent: make(chan map[int]time.Time, 1), got: map[int]bool{}}
	err := h.lan.Machine.Do(func() (err error) {
		s.conn, err = icmp.ListenPacket("ip4:icmp", nettest.Machine4)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	// What this program is too late to read must not count as lost.
	raw, err := s.conn.IPv4PacketConn().PacketConn.(syscall.Conn).SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) })
		err = errors.Join(err, ctlErr)
	}
	if err != nil {
		t.Fatal(err)
	}
	go s.receive()
	go s.send(&net.IPAddr{IP: net.ParseIP(to)})
	// A host that was just booted is asked for its address first, and what waits for
	// the answer overflows. Counted is from when the answers come.
	within(t, 5*time.Second, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.got) < 50 {
			return errors.New("the host does not answer pings")
		}
		s.first = s.last
		return nil
	})
	return s
}

func (s *stream) send(to net.Addr) {
	ticks := time.NewTicker(time.Millisecond)
	defer ticks.Stop()
	sent := map[int]time.Time{}
	for n := 0; ; n++ {
		select {
		case <-s.stop:
			s.sent <- sent
			return
		case <-ticks.C:
		}
		payload := binary.BigEndian.AppendUint64(nil, uint64(n))
		m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 815, Seq: n & 0xffff, Data: payload}}
		if b, err := m.Marshal(nil); err == nil {
			sent[n] = time.Now()
			_, _ = s.conn.WriteTo(b, to) // what is not sent is counted as lost
		}
	}
}

func (s *stream) receive() {
	buf := make([]byte, 1500)
	for {
		n, _, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		m, err := icmp.ParseMessage(unix.IPPROTO_ICMP, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == 815 && len(echo.Data) == 8 {
			s.mu.Lock()
			s.last = int(binary.BigEndian.Uint64(echo.Data))
			s.got[s.last] = true
			s.mu.Unlock()
		}
	}
}

// end stops the stream and says how many were sent and when those were that got no
// answer.
func (s *stream) end() (sent int, lost []time.Time) {
	close(s.stop)
	times := <-s.sent
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.got)
	}
	for limit := time.Now().Add(time.Second); count() < len(times) && time.Now().Before(limit); {
		<-time.After(10 * time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := s.first; n < len(times); n++ {
		if !s.got[n] {
			lost = append(lost, times[n])
		}
	}
	return len(times) - s.first, lost
}
