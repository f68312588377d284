package linux

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
)

func look(t *testing.T, h *Host) *host.Sight {
	t.Helper()
	s, err := h.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func shell(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// TestLookSeesAtOnce has other programs change things, one after the other: the next
// look shows each, and all else as a reading of everything does.
func TestLookSeesAtOnce(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun, "ip", "nft")
	link := func(s host.State, name string) host.Link { l, _ := s[host.LinkKey(name)].(host.Link); return l }
	address := func(s host.State, on, prefix string) bool {
		return s[host.Address{Link: on, Addr: netip.MustParsePrefix(prefix)}.Key()] != nil
	}
	route := func(s host.State, to string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Values(s)), func(r host.Resource) bool {
			route, ok := r.(host.Route)
			return ok && route.Dst == netip.MustParsePrefix(to)
		})
	}
	table := host.Table{Family: host.FamilyInet, Name: ourTable}
	for _, c := range []struct {
		line string
		so   func(host.State) bool
	}{
		{"ip link add kb0 type bridge forward_delay 0", func(s host.State) bool { return link(s, "kb0").Type == host.TypeBridge }},
		// Of changes of a link that is down the kernel tells little.
		{"ip link set kb0 alias something", func(s host.State) bool { return link(s, "kb0").Alias == "something" }},
		{"ip link set kb0 type bridge stp_state 1", func(s host.State) bool { return link(s, "kb0").STP }},
		{"echo 0 >/sys/class/net/kb0/bridge/stp_state", func(s host.State) bool { return !link(s, "kb0").STP }},
		{"ip link set kb0 up", func(s host.State) bool { return link(s, "kb0").Up }},
		{"ip link set kb0 type bridge stp_state 1", func(s host.State) bool { return link(s, "kb0").STP }},
		{"ip link set kb0 type bridge forward_delay 400", func(s host.State) bool { return link(s, "kb0").ForwardDelay == 400 }},
		{"ip link add kv0 type veth peer name kv1", func(s host.State) bool { return link(s, "kv0").Type == host.TypeVeth && link(s, "kv1").Name != "" }},
		{"ip link set kv0 mtu 1400", func(s host.State) bool { return link(s, "kv0").MTU == 1400 }},
		{"ip link set kv0 address 02:00:00:00:00:77", func(s host.State) bool { return link(s, "kv0").MAC == "02:00:00:00:00:77" }},
		{"ip link set kv0 alias something", func(s host.State) bool { return link(s, "kv0").Alias == "something" }},
		{"ip link set kv0 master kb0", func(s host.State) bool { return link(s, "kv0").Master == "kb0" }},
		{"ip link set kv0 up", func(s host.State) bool { return link(s, "kv0").Up }},
		{"bridge link set dev kv0 hairpin on", func(s host.State) bool { return link(s, "kv0").Hairpin }},
		{"bridge link set dev kv0 isolated on", func(s host.State) bool { return link(s, "kv0").Isolated }},
		{"echo 0 >/sys/class/net/kv0/brport/hairpin_mode", func(s host.State) bool { return !link(s, "kv0").Hairpin }},
		{"ip link set kv1 name kv9", func(s host.State) bool { return link(s, "kv1").Name == "" && link(s, "kv9").Name != "" }},
		{"ip link set kb0 down; ip link set kb0 name kb9; ip link set kb9 up", func(s host.State) bool { return link(s, "kv0").Master == "kb9" }},
		{"ip addr add 192.168.240.1/24 dev kb9", func(s host.State) bool { return address(s, "kb9", "192.168.240.1/24") && route(s, "192.168.240.0/24") }},
		{"ip addr add 2001:db8:240::1/64 dev kb9 nodad", func(s host.State) bool { return address(s, "kb9", "2001:db8:240::1/64") }},
		{"ip route add 203.0.113.0/24 via 192.168.240.9", func(s host.State) bool { return route(s, "203.0.113.0/24") }},
		{"ip -6 route add 2001:db8:241::/64 via 2001:db8:240::9", func(s host.State) bool { return route(s, "2001:db8:241::/64") }},
		{"ip route del 203.0.113.0/24", func(s host.State) bool { return !route(s, "203.0.113.0/24") }},
		{"ip route add 203.0.113.0/24 via 192.168.240.9", func(s host.State) bool { return route(s, "203.0.113.0/24") }},
		// Of this route's end the kernel tells nothing.
		{"ip addr del 192.168.240.1/24 dev kb9", func(s host.State) bool { return !route(s, "203.0.113.0/24") && !address(s, "kb9", "192.168.240.1/24") }},
		{"ip link set kv0 nomaster", func(s host.State) bool { return link(s, "kv0").Master == "" }},
		{"nft add table inet drawbridge", func(s host.State) bool { return s[table.Key()] != nil }},
		{"nft add set inet drawbridge some '{ type ifname; }'", func(s host.State) bool { return s[host.SetKey(table, "some")] != nil }},
		{"nft add element inet drawbridge some '{ vnet0 }'", func(s host.State) bool {
			return slices.ContainsFunc(s.Keys(), func(k host.Key) bool { return k.Kind == host.KindElement && strings.Contains(k.Name, "vnet0") })
		}},
		{"nft delete table inet drawbridge", func(s host.State) bool { return s[table.Key()] == nil }},
		{"ip link del kv0", func(s host.State) bool { return link(s, "kv0").Name == "" && link(s, "kv9").Name == "" }},
		{"ip link del kb9", func(s host.State) bool { return link(s, "kb9").Name == "" && !route(s, "2001:db8:241::/64") }},
	} {
		before := look(t, h)
		if c.so(before.State) {
			t.Fatalf("it is so before: %s", c.line)
		}
		shell(t, c.line)
		after := look(t, h)
		if !c.so(after.State) {
			t.Errorf("the next look does not show: %s", c.line)
		}
		all, err := h.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// The kernel goes on by itself for a while, with IPv6 addresses for instance.
		for k, r := range look(t, h).State {
			if all[k] == nil && k.Kind == host.KindLink || all[k] != nil && !host.Same(r, all[k]) {
				t.Errorf("after %s a look shows %+v, and reading everything %+v", c.line, r, all[k])
			}
		}
	}
}

// TestLookIsTheSame: where nothing happens, nothing is read and the answer is the same one.
func TestLookIsTheSame(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	ipText(t, "link", "add", "ks0", "type", "veth", "peer", "name", "ks1")
	defer ipText(t, "link", "del", "ks0")
	first := look(t, h)
	if second := look(t, h); second != first {
		t.Error("a second look is another one, and nothing happened")
	}
	seen := maps.Clone(first.State)
	ipText(t, "link", "set", "ks0", "alias", "other")
	if third := look(t, h); third == first {
		t.Error("a look is the same one although a link changed")
	}
	if !maps.Equal(seen, first.State) {
		t.Error("what was seen before was changed")
	}
}

// TestLookAfterMoreThanIsKept has more changes come than the socket holds.
func TestLookAfterMoreThanIsKept(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	ipText(t, "link", "add", "kl0", "type", "veth", "peer", "name", "kl1")
	ipText(t, "link", "set", "kl0", "up")
	look(t, h)
	var lines strings.Builder
	for i := range 6000 {
		fmt.Fprintf(&lines, "link set kl0 alias a%d\n", i)
	}
	ipBatch(t, lines.String()+"link set kl1 mtu 1300\nlink add kl5 type veth peer name kl6\n")
	s := look(t, h)
	for name, so := range map[string]func(host.Link) bool{
		"kl0": func(l host.Link) bool { return l.Alias == "a5999" }, "kl1": func(l host.Link) bool { return l.MTU == 1300 }, "kl6": func(l host.Link) bool { return l.Type == host.TypeVeth },
	} {
		if l, _ := s.State[host.LinkKey(name)].(host.Link); !so(l) {
			t.Errorf("after 6000 changes %s is %+v", name, l)
		}
	}
	ipText(t, "link", "del", "kl0")
	ipText(t, "link", "del", "kl5")
	if s := look(t, h); s.State[host.LinkKey("kl6")] != nil || s.State[host.LinkKey("kl1")] != nil {
		t.Error("links are seen after they went")
	}
}

// TestCarrierIsSeenAtOnce: the kernel tells of a carrier up to a second late.
func TestCarrierIsSeenAtOnce(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun, "ip")
	carries := func(name string) bool {
		t.Helper()
		all, err := h.Counters()
		if err != nil {
			t.Fatal(err)
		}
		return all[name].Carrier
	}
	for i := range 5 { // the first change after a second of peace is told at once
		files, err := h.OpenTap("tap-kept", 1, -1, true)
		if err != nil {
			t.Fatal(err)
		}
		ipText(t, "link", "set", "tap-kept", "up")
		if !carries("tap-kept") {
			t.Errorf("%d: an open tap has no carrier", i)
		}
		closeAll(files)
		if carries("tap-kept") {
			t.Errorf("%d: a tap that nobody has open has a carrier", i)
		}
		ipText(t, "link", "del", "tap-kept")
	}
	ipText(t, "link", "add", "kc0", "type", "veth", "peer", "name", "kc1")
	defer ipText(t, "link", "del", "kc0")
	ipText(t, "link", "set", "kc0", "up")
	for range 3 {
		if carries("kc0") {
			t.Error("a cable has a carrier whose other end is down")
		}
		ipText(t, "link", "set", "kc1", "up")
		if !carries("kc0") {
			t.Error("a cable whose other end is up has no carrier")
		}
		ipText(t, "link", "set", "kc1", "down")
	}
}

// TestCountersAreTheKernels compares with what the kernel has under /sys.
func TestCountersAreTheKernels(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip", "ping")
	ipText(t, "link", "set", "lo", "up")
	shell(t, "ping -q -c 3 -i 0.01 127.0.0.1")
	all, err := h.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]uint64{"rx_bytes": all["lo"].RxBytes, "tx_bytes": all["lo"].TxBytes, "rx_packets": all["lo"].RxPackets, "tx_packets": all["lo"].TxPackets} {
		b, err := os.ReadFile("/sys/class/net/lo/statistics/" + what)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.TrimSpace(string(b)); text != fmt.Sprint(got) || got == 0 {
			t.Errorf("%s of lo: %d, the kernel has %s", what, got, text)
		}
	}
}

// TestNeighboursAreSeenAtOnce has ip and bridge tell what is behind a port and on a link.
func TestNeighboursAreSeenAtOnce(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip", "bridge")
	for _, line := range []string{"link add kn0 type bridge", "link add kn1 type veth peer name kn2", "link set kn1 master kn0 up", "link set kn2 up", "link set kn0 up"} {
		ipText(t, strings.Fields(line)...)
	}
	defer ipText(t, "link", "del", "kn0")
	defer ipText(t, "link", "del", "kn1")
	behind := func() []string {
		t.Helper()
		all, err := h.Learned(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// The other end says something of its own.
		return slices.DeleteFunc(slices.Clone(all["kn1"]), func(mac string) bool { return !strings.HasPrefix(mac, "02:00:00:00:07") })
	}
	on := func(addr string) bool {
		t.Helper()
		all, err := h.Neighbours(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(all, func(n Neighbour) bool {
			return n.Link == "kn0" && n.Addr.String() == addr && n.MAC == "02:00:00:00:07:09"
		})
	}
	for range 2 {
		if got := behind(); len(got) > 0 || on("192.0.2.9") || on("2001:db8::9") {
			t.Fatalf("known before: %v", got)
		}
		shell(t, "bridge fdb add 02:00:00:00:07:01 dev kn1 master dynamic")
		if got := behind(); !slices.Equal(got, []string{"02:00:00:00:07:01"}) {
			t.Errorf("behind the port: %v", got)
		}
		ipText(t, "neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:07:09", "dev", "kn0", "nud", "stale")
		ipText(t, "neigh", "add", "2001:db8::9", "lladdr", "02:00:00:00:07:09", "dev", "kn0", "nud", "stale")
		if !on("192.0.2.9") || !on("2001:db8::9") {
			t.Error("new neighbours are not seen")
		}
		shell(t, "bridge fdb del 02:00:00:00:07:01 dev kn1 master")
		ipText(t, "neigh", "del", "192.0.2.9", "dev", "kn0")
		ipText(t, "neigh", "del", "2001:db8::9", "dev", "kn0")
	}
}

// TestTapUsersFollow hands a tap from process to process, of which the kernel tells nothing.
func TestTapUsersFollow(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun, nettest.Root)
	user := func() Process {
		t.Helper()
		users, err := h.TapUsers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return users["tap-pass"]
	}
	files, err := h.OpenTap("tap-pass", 1, -1, true)
	if err != nil {
		t.Fatal(err)
	}
	defer ipText(t, "link", "del", "tap-pass")
	ipText(t, "link", "set", "tap-pass", "up")
	if p := user(); p.PID != os.Getpid() {
		t.Errorf("our own tap is said to be of %+v", p)
	}
	first := holdOpen(t, files, "sh", "-c", "echo ready; read x; exec cat")
	if p := user(); p.PID != first.Process.Pid || p.Comm != "sh" {
		t.Errorf("a tap that sh and we have is said to be of %+v", p)
	}
	closeAll(files)
	if p := user(); p.PID != first.Process.Pid || p.Comm != "sh" {
		t.Errorf("sh's tap is said to be of %+v", p)
	}
	// It becomes another program.
	first.say("go on")
	first.say("are you there")
	first.hear(t)
	if p := user(); p.PID != first.Process.Pid || p.Comm != "cat" {
		t.Errorf("cat's tap is said to be of %+v", p)
	}
	first.end()
	if p := user(); p.PID != 0 {
		t.Errorf("nobody's tap is said to be of %+v", p)
	}
}

// heldBy is a process that has files open until it is told to end.
type heldBy struct {
	*exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

func holdOpen(t *testing.T, files []*os.File, name string, args ...string) *heldBy {
	t.Helper()
	p := &heldBy{Cmd: exec.Command(name, args...)}
	p.ExtraFiles = files
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, out
	p.hear(t)
	return p
}

// hear waits until it says something.
func (p *heldBy) hear(t *testing.T) {
	t.Helper()
	if _, err := p.out.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
}

func (p *heldBy) say(line string) { fmt.Fprintln(p.in, line) }

func (p *heldBy) end() {
	p.in.Close()
	_ = p.Wait() // how it ends says nothing
}
