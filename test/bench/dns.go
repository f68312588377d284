package main

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
	"time"

	"github.com/miekg/dns"

	"drawbridge/internal/nettest"
	"drawbridge/internal/nettest/dnsload"
)

func dnsGroup() Group {
	return Group{"dns", "DNS", `
Clients ask from a guest of namespaces on the bridge, on the same cores as the server: dnsperf with 8 sockets and 200 questions
outstanding, and a client of our own ("saturated") that takes less CPU for a question than dnsperf does; on two cores dnsperf measures itself as much as
the server, so the server's own CPU time for a question is given too, and what a server reaches that sends questions back unread. The questions are a thousand local names (reservations of ours, a hosts file of dnsmasq's), then a thousand names of an upstream server that both
have cached. dnsmasq runs with libvirt's settings but a cache of 10 000 names, so that it need not forget any.`, runDNS}
}

// upstreamAddr is where both hosts' /etc/resolv.conf points: an address on their loopback.
const upstreamAddr = "192.0.2.53"

func runDNS(ctx context.Context, b *Bench) (err error) {
	sides, err := newServers(ctx, b, "dns")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sides.Close()) }()
	for _, s := range []*server{sides.ours, sides.peer} {
		stop, err := serveUpstream(s.node)
		if err != nil {
			return err
		}
		defer stop()
	}
	var local, cached []string
	for i := range dnsNames {
		local = append(local, fmt.Sprintf("vm%d.lab.internal A", i))
		cached = append(cached, fmt.Sprintf("h%d.example.org A", i))
	}
	for _, what := range []struct {
		work      string
		questions []string
	}{{"local names", local}, {"cached forwards", cached}} {
		if err := b.askBoth(ctx, sides, what.work, what.questions); err != nil {
			return err
		}
	}
	return b.mirror(ctx, sides.ours, local)
}

// asking is one way to load a server.
type asking struct {
	name     string
	run      func(context.Context, func(context.Context, string, ...string) *exec.Cmd, dnsload.Load) (dnsload.Result, error)
	duration time.Duration
	rate     [2]Series // of ours and of the peer
	cpu      [2]Series
	sent     [2]int
	lost     [2]int
}

func (b *Bench) askBoth(ctx context.Context, sides servers, work string, questions []string) error {
	both := []*server{sides.ours, sides.peer}
	for _, s := range both {
		// Fills the caches, with fewer outstanding than either server's bound on forwards at one time.
		load := dnsload.Load{Server: s.addr, Questions: questions, Duration: time.Second, Outstanding: 32}
		if _, err := dnsload.Run(ctx, s.guest.Command, load); err != nil {
			return err
		}
	}
	ways := []*asking{
		{name: "dnsperf", run: dnsload.Run, duration: time.Duration(b.runs(2, 1)) * time.Second},
		{name: "saturated", run: dnsload.Saturate, duration: time.Duration(b.runs(2, 1)) * time.Second},
	}
	for range b.runs(4, 1) {
		for _, way := range ways {
			for i, s := range both {
				before, err := cpuTime(s.pid)
				if err != nil {
					return err
				}
				r, err := way.run(ctx, s.guest.Command, dnsload.Load{Server: s.addr, Questions: questions, Duration: way.duration})
				if err != nil {
					return fmt.Errorf("%s: %s: %w", s.node.Name, way.name, err)
				}
				// A server may lose some of what it cannot keep up with; one that loses most is broken.
				if bad := r.Sent - r.Lost - r.Codes["NOERROR"]; way.name == "dnsperf" && bad > 0 || r.Lost*2 > r.Sent {
					return fmt.Errorf("%s: %s: %d sent, %d lost, answers %v", s.node.Name, work, r.Sent, r.Lost, r.Codes)
				}
				after, err := cpuTime(s.pid)
				if err != nil {
					return err
				}
				way.sent[i] += r.Sent
				way.lost[i] += r.Lost
				way.rate[i].Counted(Rate, r.PerSecond)
				way.cpu[i].Counted("µs", float64((after-before).Microseconds())/float64(r.Sent-r.Lost))
			}
		}
	}
	for _, way := range ways {
		b.add(Row{Work: "DNS, " + work + ", " + way.name, Ours: way.rate[0], Peer: way.rate[1], Target: more(2),
			Notes: []string{fmt.Sprintf("lost: ours %d of %d, the peer %d of %d", way.lost[0], way.sent[0], way.lost[1], way.sent[1])}})
		b.add(Row{Work: "DNS, " + work + ", " + way.name + ": server's CPU for a question", Ours: way.cpu[0], Peer: way.cpu[1]})
	}
	return nil
}

// cpuTime is what a process has used so far, in ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the CPU time of %d: %q", pid, stat)
	}
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err, err2)
}

const dnsNames = 1000

// serveUpstream answers every question for an A record with 198.18.0.1 for a day.
func serveUpstream(n *nettest.Node) (stop func(), err error) {
	var conn net.PacketConn
	if err := n.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", upstreamAddr+":53")
		return err
	}); err != nil {
		return nil, err
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 86400}, A: net.IPv4(198, 18, 0, 1),
		})
		_ = w.WriteMsg(m) // who asked asks again
	})}
	go s.ActivateAndServe() //nolint:errcheck // it ends with the run
	return func() { _ = s.Shutdown() }, nil
}

// server is one side of DHCP and DNS: a host with one bridge, and a guest on it.
type server struct {
	*Host
	guest *nettest.Node
	addr  netip.Addr
	pid   int // of the process that answers
}

type servers struct{ ours, peer *server }

func (s servers) Close() error {
	var errs []error
	for _, one := range []*server{s.ours, s.peer} {
		if one != nil {
			if one.guest != nil {
				errs = append(errs, one.guest.Close())
			}
			errs = append(errs, one.Host.Close())
		}
	}
	return errors.Join(errs...)
}

// newServers makes both sides alike: bridge virbr0 with 10.64.0.1/16 and a thousand names.
func newServers(ctx context.Context, b *Bench, name string) (s servers, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	gateway := netip.MustParseAddr("10.64.0.1")
	h, err := newOurs(ctx, b, "ours-"+name)
	if err != nil {
		return s, err
	}
	s.ours = &server{Host: h, addr: gateway}
	var doc strings.Builder
	fmt.Fprintf(&doc, "networks:\n- name: lab\n  bridge: virbr0\n  domain: lab.internal\n  subnets:\n  - cidr: 10.64.0.0/16\n    dhcp_range: %s\n  reservations:\n", strings.ReplaceAll(dhcpRange, ",", "-"))
	for i := range dnsNames {
		fmt.Fprintf(&doc, "  - {mac: '52:54:00:01:%02x:%02x', ip: %s, hostname: vm%d}\n", i>>8, i&255, reserved(i), i)
	}
	if _, err := h.feed(ctx, doc.String(), "apply", "-f", "-"); err != nil {
		return s, err
	}
	status, err := h.client.Status(ctx)
	if err != nil {
		return s, err
	}
	s.ours.pid = status.ServicesPID
	if s.ours.guest, err = newGuest(ctx, h, "virbr0", "10.64.0.2/16", "10.64.0.1"); err != nil {
		return s, err
	}
	p := &Host{dir: filepath.Join(b.scratch, "peer-"+name), tool: "true"} // nothing to talk to
	s.peer = &server{Host: p, addr: gateway}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return s, err
	}
	p.start = p.dnsmasq
	if err := p.boot(ctx, "peer-"+name, "ip link add virbr0 type bridge forward_delay 0; ip addr add 10.64.0.1/16 dev virbr0; ip link set virbr0 up"); err != nil {
		return s, err
	}
	s.peer.pid = p.daemon.Process.Pid
	s.peer.guest, err = newGuest(ctx, p, "virbr0", "10.64.0.2/16", "10.64.0.1")
	return s, err
}

func reserved(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 64, byte(8 + i>>8), byte(i)}) }
