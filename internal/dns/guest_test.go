package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/nettest/dnsload"
)

// guestOnBridge makes a bridge with the host's addresses in the test's own
// namespace, and a guest of namespaces plugged into it.
func guestOnBridge(t testing.TB) *nettest.Node {
	t.Helper()
	nettest.Need(t, nettest.Namespace, nettest.Root, "ip", "nsenter")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	guest, err := nettest.NewNode(ctx, "guest", "nameserver 192.168.122.1\nsearch default.internal\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = guest.Close()
		_ = exec.Command("ip", "link", "del", "virbr0").Run()
	})
	for _, line := range []string{
		"link add virbr0 type bridge forward_delay 0",
		"link set virbr0 up",
		"addr add 192.168.122.1/24 dev virbr0",
		"addr add 192.168.122.2/24 dev virbr0",
		"addr add fd00:a::1/64 dev virbr0 nodad",
		fmt.Sprintf("link add vnet0 type veth peer name eth0 netns %d", guest.PID()),
		"link set vnet0 master virbr0 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	err = guest.IP(ctx, "link set eth0 up", "addr add 192.168.122.60/24 dev eth0", "addr add 172.31.0.9/24 dev eth0",
		"addr add fd00:a::60/64 dev eth0 nodad", "route add default via 192.168.122.1")
	if err != nil {
		t.Fatal(err)
	}
	return guest
}

// serveBridge serves on both addresses of virbr0, port 53, as the daemon opens
// the sockets.
func serveBridge(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for _, a := range []string{"192.168.122.1:53", "[fd00:a::1]:53"} {
		conn, err := net.ListenPacket("udp", a)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		go s.ServeUDP(ctx, "virbr0", conn.(*net.UDPConn)) //nolint:errcheck // it ends with the test
		go s.ServeTCP(ctx, "virbr0", ln)                  //nolint:errcheck // it ends with the test
	}
}

// TestDig is the second opinion: ISC's dig asks over a real bridge.
func TestDig(t *testing.T) {
	guest := guestOnBridge(t)
	nettest.Need(t, "dig", "getent")
	up := upstreamAt(t, "127.0.0.1", 0, func(network string, r *mdns.Msg) *mdns.Msg {
		if strings.EqualFold(r.Question[0].Name, "long.example.org.") {
			var texts []string
			for i := range 100 {
				texts = append(texts, fmt.Sprintf("long.example.org. 60 IN A 198.18.1.%d", i))
			}
			m := records(r, 0, texts...)
			m.Truncate(map[string]int{"udp": 1232, "tcp": 65535}[network])
			return m
		}
		return records(r, 0, r.Question[0].Name+" 60 IN A 198.18.0.1")
	})
	s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: up.port})
	serveBridge(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	tests := []struct {
		args string
		want []string
		not  []string
	}{
		{"@192.168.122.1 web.default.internal", []string{"status: NOERROR", "flags: qr aa rd ra", "192.168.122.50", "SERVER: 192.168.122.1#53"}, []string{"WARNING"}},
		{"@fd00:a::1 web.default.internal AAAA", []string{"fd00:a::50", "SERVER: fd00:a::1#53"}, nil},
		{"@192.168.122.1 +tcp web", []string{"192.168.122.50", "(TCP)"}, nil},
		{"@192.168.122.1 -x 192.168.122.50", []string{"PTR\tweb.default.internal."}, nil},
		{"@192.168.122.1 -x fd00:a::50", []string{"PTR web.default.internal."}, nil},
		{"@192.168.122.1 none.default.internal", []string{"status: NXDOMAIN", "default.internal.\t1\tIN\tSOA"}, nil},
		{"@192.168.122.1 +noedns +nocookie web ANY", []string{"RFC8482"}, []string{"OPT PSEUDOSECTION"}},
		{"@192.168.122.1 +dnssec www.example.org", []string{"status: NOERROR", "198.18.0.1", "flags: do; udp: 1232"}, []string{"flags: qr aa", "WARNING"}},
		{"@192.168.122.1 www.example.org", []string{"198.18.0.1"}, []string{"WARNING"}},
		{"@192.168.122.1 long.example.org", []string{"198.18.1.99", "Truncated, retrying in TCP mode"}, []string{"WARNING"}},
		{"@192.168.122.1 +edns=1 +noednsneg web", []string{"status: BADVERS"}, nil},
		{"@192.168.122.1 CH TXT version.bind", []string{"status: REFUSED"}, nil},
		{"@192.168.122.1 default.internal AXFR", []string{"Transfer failed"}, nil},
		{"@192.168.122.1 +opcode=notify web", []string{"status: NOTIMP"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			out, err := guest.Run(ctx, "dig", append([]string{"+tries=1", "+time=5"}, strings.Fields(tt.args)...)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in:\n%s", w, out)
				}
			}
			for _, n := range tt.not {
				if strings.Contains(out, n) {
					t.Errorf("%q in:\n%s", n, out)
				}
			}
		})
	}
	t.Run("the guest's libc", func(t *testing.T) {
		out, err := guest.Run(ctx, "getent", "ahosts", "web")
		if err != nil || !strings.Contains(out, "192.168.122.50") || !strings.Contains(out, "fd00:a::50") {
			t.Errorf("%v:\n%s", err, out)
		}
	})
	t.Run("a forged source", func(t *testing.T) {
		out, err := guest.Run(ctx, "dig", "+tries=1", "+time=1", "-b", "172.31.0.9", "@192.168.122.1", "web")
		if err == nil {
			t.Errorf("answered:\n%s", out)
		}
	})
	if st := s.Stats()["virbr0"]; st.Outside != 1 || st.Malformed != 0 {
		t.Errorf("counted %+v, want 1 from outside and none malformed", st)
	}
}

// BenchmarkAgainstDnsmasq asks both servers the same from the same guest, in
// turn; a run is three seconds, whatever b.N. The figures are medians of three.
func BenchmarkAgainstDnsmasq(b *testing.B) {
	guest := guestOnBridge(b)
	nettest.Need(b, "dnsperf", "dnsmasq")
	const names = 10_000
	up := upstreamAt(b, "127.0.0.1", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		return records(r, 0, r.Question[0].Name+" 86400 IN A 198.18.0.1")
	})
	z := zoneA
	z.Addr4 = netip.MustParsePrefix("192.168.122.1/24")
	s := newTestServer(b, Config{ResolvFiles: []string{resolvConf(b, "127.0.0.1")}, UpstreamPort: up.port}, z)
	serveBridge(b, s)
	var local, cached []string
	var hosts strings.Builder
	for i := range names {
		mac := fmt.Sprintf("52:54:00:01:%02x:%02x", i>>8, i&255)
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		s.Names.SetReservation(host.Reservation{Bridge: "virbr0", MAC: mac, Addr: a, Hostname: fmt.Sprintf("vm%d", i)})
		fmt.Fprintf(&hosts, "%s vm%d.default.internal\n", a, i)
		local = append(local, fmt.Sprintf("vm%d.default.internal A", i))
		if i < 1000 {
			cached = append(cached, fmt.Sprintf("h%d.example.org A", i))
		}
	}
	file := filepath.Join(b.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte(hosts.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	other := exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
		"--pid-file=", "--listen-address=192.168.122.2", "--bind-interfaces", "--addn-hosts="+file, "--cache-size=10000",
		"--local=/default.internal/", fmt.Sprintf("--server=127.0.0.1#%d", up.port))
	other.Stderr = os.Stderr
	if err := other.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	for _, run := range []struct {
		name      string
		questions []string
		ask       func(context.Context, func(context.Context, string, ...string) *exec.Cmd, dnsload.Load) (dnsload.Result, error)
	}{
		{"local", local, dnsload.Run}, {"cached", cached, dnsload.Run},
		{"local-saturated", local, dnsload.Saturate}, {"cached-saturated", cached, dnsload.Saturate},
	} {
		b.Run(run.name, func(b *testing.B) {
			var ours, theirs, ourCPU, theirCPU []float64
			for round := range 4 {
				for _, server := range []struct {
					addr string
					pid  int
					into *[]float64
					cpu  *[]float64
				}{{"192.168.122.2", other.Process.Pid, &theirs, &theirCPU}, {"192.168.122.1", os.Getpid(), &ours, &ourCPU}} {
					before := cpuTime(b, server.pid)
					r, err := run.ask(context.Background(), guest.Command, dnsload.Load{Server: netip.MustParseAddr(server.addr), Questions: run.questions, Duration: 3 * time.Second})
					if err != nil {
						b.Fatal(err)
					}
					if r.PerSecond == 0 || r.Lost*100 > r.Sent {
						b.Errorf("%s: %+v", server.addr, r)
					}
					if round > 0 { // the first fills the caches
						*server.into = append(*server.into, r.PerSecond)
						*server.cpu = append(*server.cpu, float64(cpuTime(b, server.pid)-before)/float64(r.Sent)/1000)
					}
				}
			}
			b.ReportMetric(median(ours), "ours/s")
			b.ReportMetric(median(theirs), "dnsmasq/s")
			b.ReportMetric(median(ours)/median(theirs), "times")
			b.ReportMetric(median(ourCPU), "ours-µs")
			b.ReportMetric(median(theirCPU), "dnsmasq-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(v []float64) float64 {
	return max(min(v[0], v[1]), min(max(v[0], v[1]), v[2]))
}

// cpuTime is what a process has used so far, by the kernel's account in ticks of
// 10 ms (proc_pid_stat(5), fields 14 and 15).
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var user, system int64
	if _, err := fmt.Sscan(strings.Join(strings.Fields(rest)[11:13], " "), &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
