package hosts

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// guest is a namespace behind a port of the host's.
type guest struct {
	*nettest.Node
	name string
	addr string // by DHCP
}

func newGuest(t *testing.T, name string) *guest {
	t.Helper()
	node, err := nettest.NewNode(context.Background(), name, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	return &guest{Node: node, name: name}
}

// plug gives a guest a NIC on a bridge as another program would do it.
func (h *whole) plug(t *testing.T, g *guest, port, mac, bridge string) {
	t.Helper()
	ctx := context.Background()
	if err := h.node.IP(ctx,
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %d", port, mac, g.PID()),
		fmt.Sprintf("link set %s master %s up", port, bridge)); err != nil {
		t.Fatal(err)
	}
	if err := g.IP(ctx, "link set eth0 up"); err != nil {
		t.Fatal(err)
	}
}

// onTap gives a guest a NIC on a persistent tap, as a hypervisor does: it opens
// the tap by name and carries frames between it and the guest's end. The returned
// function lets go of the tap.
func (h *whole) onTap(t *testing.T, g *guest, tap, mac string) func() {
	t.Helper()
	host := openTap(t, h.node, tap)
	inside := openTap(t, g.Node, "eth0")
	if err := g.IP(context.Background(), "link set eth0 address "+mac+" up"); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	for _, way := range [][2]*os.File{{host, inside}, {inside, host}} {
		both.Go(func() {
			frame := make([]byte, 1<<16)
			for {
				n, err := way[0].Read(frame)
				if err != nil {
					return // closed
				}
				_, _ = way[1].Write(frame[:n]) // a link that is down loses frames
			}
		})
	}
	return sync.OnceFunc(func() { host.Close(); inside.Close(); both.Wait() })
}

// openTap opens a tap on a node; one that is not there is made, and goes with the
// file. Reads of the file end when it is closed.
func openTap(t *testing.T, on *nettest.Node, name string) *os.File {
	t.Helper()
	var f *os.File
	err := on.Do(func() (err error) {
		f, err = tapFile(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func tapFile(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	// After the ioctl: before it the file cannot be polled.
	return os.NewFile(uintptr(fd), name), nil
}

// holdTap in the environment makes the test binary a hypervisor of few words,
// for a host where no other is: it opens the tap of that name, becomes an ordinary
// user, and stays until its input ends.
const holdTap = "DRAWBRIDGE_HOLD_TAP"

func TestMain(m *testing.M) {
	name := os.Getenv(holdTap)
	if name == "" {
		os.Exit(m.Run())
	}
	f, err := tapFile(name)
	if err == nil {
		defer f.Close()
		err = syscall.Setuid(65534)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// leaseScript is what udhcpc calls with what it learnt in its environment.
const leaseScript = `#!/bin/sh
case $1 in bound | renew)
	ip addr replace "$ip/$mask" dev "$interface"
	ip route replace default via "$router"
	printf 'nameserver %s\nsearch %s\n' "$dns" "$domain" >/etc/resolv.conf
	echo "$ip" >"$LEASE"
esac
`

// dhcp has a guest ask for an address until it gets one, and returns how long it
// took.
func (g *guest) dhcp(t *testing.T) time.Duration {
	t.Helper()
	dir := t.TempDir()
	script, lease := filepath.Join(dir, "script"), filepath.Join(dir, "lease")
	if err := os.WriteFile(script, []byte(leaseScript), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// One question a second; more often is refused.
	client := g.Command(ctx, "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "10", "-T", "1", "-x", "hostname:"+g.name, "-s", script)
	client.Env = append(os.Environ(), "LEASE="+lease)
	began := time.Now()
	if out, err := client.CombinedOutput(); err != nil {
		t.Fatalf("udhcpc: %v\n%s", err, out)
	}
	took := time.Since(began)
	b, err := os.ReadFile(lease)
	if err != nil {
		t.Fatal(err)
	}
	g.addr = strings.TrimSpace(string(b))
	if _, err := netip.ParseAddr(g.addr); err != nil {
		t.Fatal(err)
	}
	return took
}

// dig asks a server from the guest and returns the status and the first answers.
func (g *guest) dig(t *testing.T, args ...string) string {
	t.Helper()
	out, err := g.Run(t.Context(), "dig", append([]string{"+tries=1", "+time=5", "+noall", "+comments", "+answer"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pinger counts what is lost of one echo request each 10 ms.
type pinger struct {
	conn     net.PacketConn
	stopped  chan struct{}
	sent     chan int
	mu       sync.Mutex
	received map[int]bool
	last     time.Time     // when the last reply came
	gap      time.Duration // the longest between two replies
}

const pingEvery = 10 * time.Millisecond

// ping begins to ping an address from the guest.
func (g *guest) ping(t *testing.T, to string) *pinger {
	t.Helper()
	p := &pinger{stopped: make(chan struct{}), sent: make(chan int, 1), received: map[int]bool{}}
	err := g.Do(func() (err error) {
		p.conn, err = net.ListenPacket("ip4:icmp", g.addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	go p.receive()
	go p.send(&net.IPAddr{IP: net.ParseIP(to)})
	return p
}

func (p *pinger) send(to net.Addr) {
	ticks := time.NewTicker(pingEvery)
	defer ticks.Stop()
	for n := 0; ; n++ {
		select {
		case <-p.stopped:
			p.sent <- n
			return
		case <-ticks.C:
		}
		var payload [8]byte
		binary.BigEndian.PutUint64(payload[:], uint64(n))
		m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 4711, Seq: n & 0xffff, Data: payload[:]}}
		b, err := m.Marshal(nil)
		if err == nil {
			_, _ = p.conn.WriteTo(b, to) // what is not sent is counted as lost
		}
	}
}

func (p *pinger) receive() {
	buf := make([]byte, 1500)
	for {
		n, _, err := p.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		m, err := icmp.ParseMessage(unix.IPPROTO_ICMP, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && len(echo.Data) == 8 {
			p.mu.Lock()
			p.received[int(binary.BigEndian.Uint64(echo.Data))] = true
			now := time.Now()
			if !p.last.IsZero() {
				p.gap = max(p.gap, now.Sub(p.last))
			}
			p.last = now
			p.mu.Unlock()
		}
	}
}

// count is how many replies came so far.
func (p *pinger) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.received)
}

// longest is how long it took at most from one reply to the next since it was asked
// last.
func (p *pinger) longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	gap := p.gap
	p.gap = 0
	return gap
}

// more waits until that many further replies came.
func (p *pinger) more(t *testing.T, n int) {
	t.Helper()
	from := p.count()
	within(t, 10*time.Second, func() error {
		if got := p.count() - from; got < n {
			return fmt.Errorf("%d of %d replies came", got, n)
		}
		return nil
	})
}

// stop ends the pinging, waits for replies on their way, and returns the counts.
func (p *pinger) stop() (sent, lost int) {
	close(p.stopped)
	sent = <-p.sent
	for limit := time.Now().Add(2 * time.Second); p.count() < sent && time.Now().Before(limit); {
		<-time.After(pingEvery)
	}
	return sent, sent - p.count()
}
