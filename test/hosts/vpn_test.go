package hosts

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"drawbridge/internal/nettest"
)

// testVPN: a name that the host asks of one link's servers only, a guest's
// question is asked of them only; and a guest never sees what the host's own
// file says.
func (h *whole) testVPN(t *testing.T, g *guest) {
	ctx := context.Background()
	far, err := nettest.NewNode(ctx, "vpn", "")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if err := h.node.IP(ctx, fmt.Sprintf("link add vpn0 type veth peer name eth0 netns %d", far.PID()),
		"addr add 10.8.0.1/24 dev vpn0", "link set vpn0 up"); err != nil {
		t.Fatal(err)
	}
	if err := far.IP(ctx, "addr add 10.8.0.2/24 dev eth0", "link set eth0 up"); err != nil {
		t.Fatal(err)
	}
	var conn net.PacketConn
	err = far.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", "10.8.0.2:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &mdns.Server{PacketConn: conn, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		if name := q.Question[0].Name; !strings.EqualFold(name, "db.corp.example.") {
			m.Rcode = mdns.RcodeNameError
		} else if q.Question[0].Qtype == mdns.TypeA {
			m.Answer = append(m.Answer, &mdns.A{Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 1}, A: net.IPv4(10, 8, 0, 9)})
		}
		_ = w.WriteMsg(m)
	})}
	go server.ActivateAndServe() //nolint:errcheck // it ends by Shutdown
	defer server.Shutdown()      //nolint:errcheck // the test ends

	h.run(t, "resolvectl", "dns", "vpn0", "10.8.0.2")
	h.run(t, "resolvectl", "domain", "vpn0", "~corp.example")
	h.run(t, "resolvectl", "default-route", "vpn0", "no")
	within(t, 5*time.Second, h.says([]string{"10.8.0.9"}, "resolvectl", "--cache=no", "query", "db.corp.example"))
	for _, args := range [][]string{{"db.corp.example"}, {"+tcp", "db.corp.example"}} {
		if out := g.dig(t, append([]string{"@192.168.122.1"}, args...)...); !strings.Contains(out, "10.8.0.9") {
			t.Errorf("the guest asks for %v:\n%s", args, out)
		}
	}
	if out := g.dig(t, "@192.168.122.1", "nobody.corp.example"); !strings.Contains(out, "status: NXDOMAIN") {
		t.Errorf("the guest asks for what the VPN does not know:\n%s", out)
	}
	for _, name := range []string{"db.corp.example.", "nobody.corp.example."} {
		if n := h.lan.DNS.Asked(name); n > 0 {
			t.Errorf("the LAN's server was asked for %s %d times", name, n)
		}
	}
	if out := g.dig(t, "@192.168.122.1", "router.lan.example"); !strings.Contains(out, nettest.Router4) {
		t.Errorf("the guest asks for a name of the LAN:\n%s", out)
	}

	// Not in place: a file that was there comes back as it was.
	h.sh(t, `[ ! -e /etc/hosts ] || mv /etc/hosts /etc/hosts.before
		printf '127.0.0.1 localhost\n127.0.1.1 host secret.lan.example\n' >/etc/hosts`)
	within(t, 5*time.Second, h.says([]string{"127.0.1.1"}, "resolvectl", "--cache=no", "query", "secret.lan.example"))
	if out := g.dig(t, "@192.168.122.1", "secret.lan.example"); !strings.Contains(out, "status: NXDOMAIN") || strings.Contains(out, "127.0") {
		t.Errorf("the guest asks for a loopback entry of the host:\n%s", out)
	}
	h.sh(t, "rm /etc/hosts; [ ! -e /etc/hosts.before ] || mv /etc/hosts.before /etc/hosts; ip link del vpn0")
}
