package dhcp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/nettest/dhcpload"
	"drawbridge/internal/plan"
)

// link is a server on a bridge in a namespace, and a guest on the bridge in
// another.
type link struct {
	server, guest *nettest.Node
	dhcp          *Server
	leases        *Leases
	stop          context.CancelFunc
	ended         chan error
	// later is what Close left to be closed.
	later chan io.Closer
}

// newLink makes the bridge virbr0 and serves pool there. The guest's NIC is eth0.
func newLink(t testing.TB, ctx context.Context, pool host.Pool) *link {
	t.Helper()
	nettest.Need(t, nettest.Root, nettest.Namespace, "ip")
	l := &link{leases: openT(t, filepath.Join(t.TempDir(), "leases")), ended: make(chan error, 1), later: make(chan io.Closer, 1)}
	for _, n := range []struct {
		name string
		to   **nettest.Node
	}{{"server", &l.server}, {"guest", &l.guest}} {
		node, err := nettest.NewNode(ctx, n.name, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { node.Close() })
		*n.to = node
	}
	must(t, l.server.IP(ctx, "link add virbr0 type bridge", "link set virbr0 up", "addr add "+pool.Server.String()+" dev virbr0",
		fmt.Sprintf("link add vnet0 type veth peer name eth0 address 52:54:00:00:00:01 netns %d", l.guest.PID()),
		"link set vnet0 master virbr0 up"))
	must(t, l.guest.IP(ctx, "link set eth0 up"))
	l.dhcp = New(Config{Leases: l.leases, Log: quiet})
	must(t, l.dhcp.Apply(plan.Step{After: pool}))
	var conn Conn
	must(t, l.server.Do(func() (err error) {
		udp, packet := openSockets(t, "virbr0")
		conn, err = NewConn(udp, packet, func(c io.Closer) { l.later <- c })
		return err
	}))
	serving, stop := context.WithCancel(ctx)
	l.stop = stop
	go func() { l.ended <- l.dhcp.Serve(serving, "virbr0", conn) }()
	t.Cleanup(stop)
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func limited(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// script is what busybox udhcpc calls with what it learnt in its environment.
const script = `#!/bin/sh
env | sort >"$OUT.$1"
case $1 in
deconfig) ip addr flush dev "$interface" ;;
bound|renew) ip addr replace "$ip/$mask" dev "$interface" ;;
esac
`

// TestRealClient has busybox configure a real link, and looks at it with ip and
// at the packets with tcpdump.
func TestRealClient(t *testing.T) {
	nettest.Need(t, "busybox", "tcpdump")
	ctx := limited(t, 40*time.Second)
	l := newLink(t, ctx, thePool)
	must(t, l.dhcp.Apply(plan.Step{After: host.Reservation{
		Bridge: "virbr0", MAC: "52:54:00:00:00:01", Addr: netip.MustParseAddr("192.168.122.77"), Hostname: "web",
	}}))
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "script"), []byte(script), 0o700))

	// It counts no packets: a client that is kept waiting asks again.
	capture := l.guest.Command(ctx, "tcpdump", "--immediate-mode", "-lnvvei", "eth0", "udp", "port", "67", "or", "udp", "port", "68")
	seen, err := capture.StdoutPipe()
	must(t, err)
	complaints, err := capture.StderrPipe()
	must(t, err)
	must(t, capture.Start())
	if _, err := complaints.Read(make([]byte, 1)); err != nil { // "listening on eth0"
		t.Fatal(err)
	}
	go io.Copy(io.Discard, complaints) // tcpdump says more at its end

	client := l.guest.Command(ctx, "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "10", "-T", "1", "-x", "hostname:Guest.One", "-O", "mtu", "-s", filepath.Join(dir, "script"))
	client.Env = append(os.Environ(), "OUT="+filepath.Join(dir, "env"))
	if out, err := client.CombinedOutput(); err != nil {
		t.Fatalf("udhcpc: %v\n%s", err, out)
	}
	var packets strings.Builder
	for lines := bufio.NewScanner(seen); lines.Scan(); {
		fmt.Fprintln(&packets, lines.Text())
		if strings.Contains(lines.Text(), "DHCP-Message (53), length 1: ACK") {
			must(t, capture.Process.Signal(os.Interrupt)) // what it has seen of this packet, it still prints
		}
	}
	if err := capture.Wait(); err != nil {
		t.Fatalf("tcpdump: %v\n%s", err, packets.String())
	}

	out, err := l.guest.Run(ctx, "ip", "-j", "addr", "show", "dev", "eth0")
	must(t, err)
	var links []struct {
		Addrs []struct {
			Family, Local string
			Prefixlen     int
		} `json:"addr_info"`
	}
	must(t, json.Unmarshal([]byte(out), &links))
	found := false
	for _, a := range links[0].Addrs {
		found = found || (a.Family == "inet" && a.Local == "192.168.122.77" && a.Prefixlen == 24)
	}
	if !found {
		t.Errorf("the guest's link shows %s", out)
	}
	env, err := os.ReadFile(filepath.Join(dir, "env.bound"))
	must(t, err)
	for _, want := range []string{"ip=192.168.122.77", "subnet=255.255.255.0", "router=192.168.122.1", "dns=192.168.122.1", "domain=default.test", "hostname=web", "lease=3600", "serverid=192.168.122.1", "mtu=1500", "broadcast=192.168.122.255"} {
		if !strings.Contains("\n"+string(env), "\n"+want+"\n") {
			t.Errorf("udhcpc did not learn %s:\n%s", want, env)
		}
	}
	text := packets.String()
	if strings.Contains(text, "bad") || strings.Contains(text, "incorrect") {
		t.Errorf("wrong checksums:\n%s", text)
	}
	for _, want := range []string{"DHCP-Message (53), length 1: Offer", "DHCP-Message (53), length 1: ACK", "192.168.122.1.67 > 192.168.122.77.68: [udp sum ok]"} {
		if !strings.Contains(text, want) {
			t.Errorf("tcpdump did not see %q:\n%s", want, text)
		}
	}
	// An Offer and an ACK at least; who asked twice was answered twice.
	own, all := strings.Count(text, "> 52:54:00:00:00:01, ethertype IPv4"), strings.Count(text, "192.168.122.1.67 > ")
	if own < 2 || own != all {
		t.Errorf("%d of %d answers went to the client's own address:\n%s", own, all, text)
	}
	got := l.leases.List()
	if len(got) != 1 || got[0].Addr.String() != "192.168.122.77" || got[0].Hostname != "guest" || !got[0].Live(time.Now()) {
		t.Errorf("leases %v", got)
	}
}

// TestRealConflict: a kernel that uses an address answers the probe, so that the
// address is not given away.
func TestRealConflict(t *testing.T) {
	ctx := limited(t, 30*time.Second)
	two := thePool
	two.Last = two.First.Next()
	used, free := two.First, two.Last
	if spread([6]byte{0x02, 0xdb}, 2) == 1 { // what the guest is offered first
		used, free = free, used
	}
	l := newLink(t, ctx, two)
	squatter, err := nettest.NewNode(ctx, "squatter", "")
	must(t, err)
	defer squatter.Close()
	must(t, l.server.IP(ctx, fmt.Sprintf("link add vnet1 type veth peer name eth0 netns %d", squatter.PID()), "link set vnet1 master virbr0 up"))
	must(t, squatter.IP(ctx, "link set eth0 up", "addr add "+used.String()+"/24 dev eth0"))
	// A cable takes the kernel a moment (linkwatch); what is sent meanwhile is lost.
	for {
		if _, err := l.server.Run(ctx, "ping", "-c1", "-W1", used.String()); err == nil {
			break
		}
		must(t, ctx.Err())
	}
	c := l.client(t)
	r, err := c.Run(ctx, dhcpload.Load{Clients: 1, InFlight: 1, Exchanges: 1})
	must(t, err)
	if got := r.Addrs[0]; got != free {
		t.Errorf("the guest got %s, want %s: %s is in use", got, free, used)
	}
	if s := l.dhcp.Stats()[0]; s.Probes != 2 || s.Conflicts != 1 || s.SendErrors != 0 {
		t.Errorf("stats %+v, want 2 probes, 1 conflict", s)
	}
}

// client opens the guest's end for many clients.
func (l *link) client(t *testing.T) *dhcpload.Client {
	t.Helper()
	var c *dhcpload.Client
	must(t, l.guest.Do(func() (err error) {
		c, err = dhcpload.Open("eth0")
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

// TestBridgeGoes: the end of the bridge ends Serve with ErrGone; the link going
// down and up does not.
func TestBridgeGoes(t *testing.T) {
	ctx := limited(t, 30*time.Second)
	l := newLink(t, ctx, thePool)
	must(t, l.server.IP(ctx, "link set virbr0 down", "link set virbr0 up"))
	c := l.client(t)
	r, err := c.Run(ctx, dhcpload.Load{Clients: 1, InFlight: 1, Exchanges: 1})
	must(t, err)
	if r.Exchanges != 1 {
		t.Fatalf("after down and up: %s", r)
	}
	must(t, l.server.IP(ctx, "link del virbr0"))
	select {
	case err := <-l.ended:
		if !errors.Is(err, ErrGone) {
			t.Errorf("serve ended with %v, want ErrGone", err)
		}
	case <-ctx.Done():
		t.Fatal("serve goes on without a bridge")
	}
	if l.dhcp.Serving("virbr0") {
		t.Error("still serving")
	}
}

// TestEndWaitsForNoPacketSocket: Serve ends, and nobody has its port any more, while
// the packet socket is open still.
func TestEndWaitsForNoPacketSocket(t *testing.T) {
	ctx := limited(t, 30*time.Second)
	l := newLink(t, ctx, thePool)
	l.stop()
	select {
	case err := <-l.ended:
		must(t, err)
	case <-ctx.Done():
		t.Fatal("serve waits for its packet socket to be closed")
	}
	out, err := l.server.Run(ctx, "ss", "-Hlun", "sport = :67")
	must(t, err)
	if out != "" {
		t.Errorf("the port is still taken: %s", out)
	}
	must(t, (<-l.later).Close())
}

// TestRate is a short run of the measurement; make bench has the long one. The
// bound is far below what is measured, so that a busy machine does not fail it.
func TestRate(t *testing.T) {
	ctx := limited(t, 60*time.Second)
	l := newLink(t, ctx, bigPool())
	c := l.client(t)
	before := l.leases.Commits()
	r, err := c.Run(ctx, dhcpload.Load{Clients: 10000, InFlight: 64, Duration: 2 * time.Second})
	must(t, err)
	commits := l.leases.Commits() - before
	t.Logf("%s; %d writes to disk", r, commits)
	if r.Twice != 0 || r.PerSecond < 1000 || r.Naks != 0 {
		t.Errorf("%s, want 1000 exchanges/s at least, no address twice, no NAK", r)
	}
	if commits*2 > uint64(r.Exchanges) {
		t.Errorf("%d writes for %d exchanges: they are not shared", commits, r.Exchanges)
	}
	s := l.dhcp.Stats()[0]
	if s.SendErrors != 0 || s.CommitErrors != 0 || s.Dropped[dropPanic] != 0 {
		t.Errorf("stats %+v", s)
	}
}
