package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"drawbridge/internal/host"
)

// burst asks everything before the server starts, so that it finds full batches,
// and wants each question answered once and rightly.
func burst(t *testing.T, s *Server, bridge string, listen *net.UDPConn, clients []*net.UDPConn, names int) {
	t.Helper()
	const each = 40 // what waits must fit the socket's buffer
	for i, c := range clients {
		for id := range each {
			p := pack(t, fmt.Sprintf("n%d.", id%names), mdns.TypeA, edns(1232, false), func(m *mdns.Msg) { m.Id = uint16(i<<8 | id) })
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeUDP(ctx, bridge, listen) }()
	for i, c := range clients {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		seen := map[uint16]bool{}
		for range each {
			b := make([]byte, 2000)
			n, err := c.Read(b)
			if err != nil {
				t.Fatalf("client %d has %d answers: %v", i, len(seen), err)
			}
			m := new(mdns.Msg)
			if err := m.Unpack(b[:n]); err != nil {
				t.Fatal(err)
			}
			id := int(m.Id & 255)
			want := fmt.Sprintf("n%d.", id%names)
			if int(m.Id>>8) != i || id >= each || seen[m.Id] || m.Question[0].Name != want || len(m.Answer) == 0 || m.Answer[0].Header().Name != want {
				t.Errorf("client %d: answer %v to question %d", i, m, id)
			}
			seen[m.Id] = true
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func dialAll(t *testing.T, to net.Addr, n int) []*net.UDPConn {
	t.Helper()
	var clients []*net.UDPConn
	for range n {
		c, err := net.DialUDP("udp", nil, to.(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
	}
	return clients
}

// named has n0 to n14 with 1 to 15 addresses, so that answers differ in length.
func named(s *Server, bridge string) {
	for i := range 15 {
		for j := range i + 1 {
			mac := fmt.Sprintf("52:54:00:00:%02x:%02x", i, j)
			s.Names.SetReservation(host.Reservation{Bridge: bridge, MAC: mac, Addr: netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j)}), Hostname: fmt.Sprintf("n%d", i)})
		}
	}
}

func TestBatches(t *testing.T) {
	z := host.Zone{Bridge: "lo", Network: "n", Addr4: netip.MustParsePrefix("127.0.0.1/30"), Addr6: netip.MustParsePrefix("::1/128")}
	for _, a := range []string{"127.0.0.1", "::1"} {
		for _, tt := range []struct{ clients, names int }{{1, 1}, {1, 15}, {3, 15}, {5, 2}} {
			t.Run(fmt.Sprintf("%s %d clients %d names", a, tt.clients, tt.names), func(t *testing.T) {
				s := newTestServer(t, Config{}, z)
				named(s, "lo")
				listen, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(a)})
				if err != nil {
					t.Fatal(err)
				}
				burst(t, s, "lo", listen, dialAll(t, listen.LocalAddr(), tt.clients), tt.names)
			})
		}
	}
}

// On a link that is too narrow for the answers they cannot go in one, and go in
// fragments.
func TestBatchesOnANarrowLink(t *testing.T) {
	guest := guestOnBridge(t)
	s := threeNetworks(t, Config{})
	for i := range 40 {
		s.Names.SetReservation(host.Reservation{Bridge: "virbr0", MAC: fmt.Sprintf("52:54:00:00:01:%02x", i), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Hostname: "n0"})
	}
	if out, err := exec.Command("ip", "link", "set", "virbr0", "mtu", "576").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	listen, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(192, 168, 122, 1), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	var clients []*net.UDPConn
	err = guest.Do(func() error { clients = dialAll(t, listen.LocalAddr(), 2); return nil })
	if err != nil {
		t.Fatal(err)
	}
	burst(t, s, "virbr0", listen, clients, 1)
}
