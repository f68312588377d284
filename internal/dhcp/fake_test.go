package dhcp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// chanConn is a link made of channels.
type chanConn struct {
	in   chan []byte
	arp  chan ARPReply
	out  chan Reply
	ask  chan netip.Addr
	once sync.Once
	done chan struct{}
}

func newChanConn() *chanConn {
	return &chanConn{
		in: make(chan []byte, 4096), arp: make(chan ARPReply, 64), out: make(chan Reply, 8192),
		ask: make(chan netip.Addr, 8192), done: make(chan struct{}),
	}
}

func (c *chanConn) Receive(room *Room) ([]Message, error) {
	into := room.Take()
	n := 0
	put := func(b []byte) {
		into[n].Data = append(into[n].Data[:0], b...)
		n++
	}
	select {
	case b := <-c.in:
		put(b)
	case <-c.done:
		return nil, net.ErrClosed
	}
	for n < len(into) {
		select {
		case b := <-c.in:
			put(b)
		default:
			return into[:n], nil
		}
	}
	return into[:n], nil
}

func (c *chanConn) ReceiveARP() (ARPReply, error) {
	select {
	case r := <-c.arp:
		return r, nil
	case <-c.done:
		return ARPReply{}, net.ErrClosed
	}
}

func (c *chanConn) Send(replies []Reply) error {
	for _, r := range replies {
		c.out <- r
	}
	return nil
}

func (c *chanConn) Probe(a netip.Addr) error {
	c.ask <- a
	return nil
}

func (c *chanConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

var thePool = host.Pool{
	Bridge: "virbr0", Network: "default", Server: netip.MustParsePrefix("192.168.122.1/24"),
	First: netip.MustParseAddr("192.168.122.10"), Last: netip.MustParseAddr("192.168.122.19"), LeaseSeconds: 3600,
	Router: netip.MustParseAddr("192.168.122.1"), DNS: netip.MustParseAddr("192.168.122.1"), Domain: "default.test", MTU: 1500,
}

// world is a server with one link, in a synctest bubble where time is fake.
type world struct {
	t      *testing.T
	path   string
	leases *Leases
	server *Server
	conn   *chanConn
	stop   func()
}

// inWorld runs f with a server that serves thePool.
func inWorld(t *testing.T, f func(*world)) {
	path := filepath.Join(t.TempDir(), "leases")
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, path: path}
		w.start(thePool)
		defer w.halt()
		f(w)
	})
}

func (w *world) start(pools ...host.Pool) {
	w.t.Helper()
	leases, err := OpenLeases(w.path, quiet)
	if err != nil {
		w.t.Fatal(err)
	}
	w.leases, w.conn = leases, newChanConn()
	w.server = New(Config{Leases: leases, Log: quiet})
	for _, p := range pools {
		w.apply(nil, p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	conn := w.conn
	go func() { ended <- w.server.Serve(ctx, "virbr0", conn) }()
	w.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("serve: %v", err)
		}
		if err := leases.Close(); err != nil {
			w.t.Errorf("close: %v", err)
		}
	}
}

func (w *world) halt() { w.stop() }

func (w *world) restart(pools ...host.Pool) {
	w.t.Helper()
	w.halt()
	w.start(pools...)
}

func (w *world) apply(before, after host.Resource) {
	w.t.Helper()
	if err := w.server.Apply(plan.Step{Before: before, After: after}); err != nil {
		w.t.Fatal(err)
	}
}

// settle waits until all that can happen now has happened.
func (w *world) settle() { synctest.Wait() }

// pass moves the bubble's clock; no time passes outside.
func (w *world) pass(d time.Duration) {
	<-time.After(d)
	w.settle()
}

// exchange sends a message and returns the replies that come before the clock
// has moved by d.
func (w *world) exchange(b []byte, d time.Duration) []Reply {
	w.t.Helper()
	w.conn.in <- b
	w.settle()
	if d > 0 {
		w.pass(d)
	}
	var out []Reply
	for {
		select {
		case r := <-w.conn.out:
			out = append(out, r)
		default:
			return out
		}
	}
}

// want expects exactly one reply of a kind.
func (w *world) want(kind dhcpv4.MessageType, replies []Reply) (*dhcpv4.DHCPv4, Reply) {
	w.t.Helper()
	if len(replies) != 1 {
		w.t.Fatalf("%d replies, want one %s", len(replies), kind)
	}
	m, err := dhcpv4.FromBytes(replies[0].Payload)
	if err != nil {
		w.t.Fatal(err)
	}
	if m.MessageType() != kind {
		w.t.Fatalf("got %s, want %s: %s", m.MessageType(), kind, m.Summary())
	}
	return m, replies[0]
}

func (w *world) silent(replies []Reply) {
	w.t.Helper()
	for _, r := range replies {
		m, _ := dhcpv4.FromBytes(r.Payload)
		w.t.Fatalf("got an answer, want none: %v", m.Summary())
	}
}

// message makes a client's message; every option is a function on it.
func message(mac byte, kind dhcpv4.MessageType, edits ...func(*dhcpv4.DHCPv4)) []byte {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: net.HardwareAddr(macOf(mac)),
		TransactionID: dhcpv4.TransactionID{1, 2, 3, mac},
		ClientIPAddr:  net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{},
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	for _, edit := range edits {
		edit(m)
	}
	return m.ToBytes()
}

func macOf(n byte) []byte { return []byte{0x52, 0x54, 0, 0, 0, n} }

func macText(n byte) string { return fmt.Sprintf("52:54:00:00:00:%02x", n) }

type edit = func(*dhcpv4.DHCPv4)

func requested(a string) edit {
	return func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(a))) }
}

func serverID(a string) edit {
	return func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptServerIdentifier(net.ParseIP(a))) }
}

func ciaddr(a string) edit {
	return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = net.ParseIP(a) }
}

func giaddr(a string) edit {
	return func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = net.ParseIP(a) }
}

func option(code uint8, value ...byte) edit {
	return func(m *dhcpv4.DHCPv4) { m.Options[code] = value }
}

func text(code uint8, value string) edit { return option(code, []byte(value)...) }

func broadcastFlag(m *dhcpv4.DHCPv4) { m.SetBroadcast() }

// lease takes a client through DISCOVER and REQUEST and returns its address.
func (w *world) lease(mac byte, edits ...edit) string {
	w.t.Helper()
	offer, _ := w.want(dhcpv4.MessageTypeOffer, w.exchange(message(mac, dhcpv4.MessageTypeDiscover, edits...), probeWait))
	addr := offer.YourIPAddr.String()
	edits = append(edits[:len(edits):len(edits)], requested(addr), serverID("192.168.122.1"))
	ack, _ := w.want(dhcpv4.MessageTypeAck, w.exchange(message(mac, dhcpv4.MessageTypeRequest, edits...), 0))
	if got := ack.YourIPAddr.String(); got != addr {
		w.t.Fatalf("offered %s, acknowledged %s", addr, got)
	}
	return addr
}

func (w *world) stats() Stats {
	w.t.Helper()
	all := w.server.Stats()
	if len(all) != 1 {
		w.t.Fatalf("%d bridges, want 1", len(all))
	}
	return all[0]
}
