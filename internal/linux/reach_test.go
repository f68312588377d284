package linux

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
)

// session is a process on host A that was started over TCP from the machine
// beside it, and says its process id.
func (m moves) session(t *testing.T, listen, dial, shell string) (c net.Conn, in *bufio.Reader, pid int) {
	t.Helper()
	nettest.Need(t, "socat")
	server := m.lan.HostA.Command(t.Context(), "socat", listen+",reuseaddr,fork", "SYSTEM:"+shell)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	comes(t, "a connection to "+dial, func() bool {
		return m.lan.Machine.Do(func() (err error) {
			c, err = net.Dial("tcp", dial)
			return err
		}) == nil
	})
	t.Cleanup(func() { c.Close() })
	in = bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(line, &pid); err != nil {
		t.Fatal(err)
	}
	return c, in, pid
}

// comes waits until something is so.
func comes(t *testing.T, what string, so func() bool) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("does not come: ", what)
		}
	}
}

func TestOperatorsConnectionAndWhatItCarries(t *testing.T) {
	m := onLAN(t)
	ctx := t.Context()
	for _, at := range []struct{ listen, dial string }{
		{"TCP4-LISTEN:2201", nettest.HostA4 + ":2201"},
		{"TCP6-LISTEN:2202", "[" + nettest.HostA6 + "]:2202"},
		{"TCP6-LISTEN:2203,ipv6only=0", nettest.HostA4 + ":2203"}, // as sshd listens
	} {
		// The shell is a child of the process that has the connection.
		c, in, pid := m.session(t, at.listen, at.dial, `echo $$; cat`)
		m.do(t, func() error {
			found, err := m.h.Operator(ctx, pid)
			if err != nil || len(found) != 1 {
				t.Fatalf("%s: found %v, %v", at.dial, found, err)
			}
			ours := netip.MustParseAddrPort(c.LocalAddr().String())
			if found[0].Remote != ours || found[0].Local.String() != at.dial {
				t.Errorf("%s: found %v, the connection is from %s", at.dial, found[0], ours)
			}
			before, err := m.h.Traffic(ctx, found[0])
			if err != nil {
				t.Fatal(err)
			}
			// It comes back, and the other end acknowledges it.
			fmt.Fprintln(c, "hello")
			if line, err := in.ReadString('\n'); line != "hello\n" {
				t.Fatalf("got %q, %v", line, err)
			}
			var after host.Traffic
			comes(t, "an acknowledgement", func() bool {
				after, err = m.h.Traffic(ctx, found[0])
				return err != nil || after.Acked >= before.Written+6
			})
			if after != (host.Traffic{Written: before.Written + 6, Acked: before.Written + 6}) {
				t.Errorf("%s: 6 bytes more than %+v is %+v", at.dial, before, after)
			}
			// Cut off, what is written is not acknowledged.
			if err := m.lan.Switch.IP(ctx, "link set p-machine down"); err != nil {
				t.Fatal(err)
			}
			other := found[0]
			other.Cookie++
			if _, err := m.h.Traffic(ctx, other); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("another socket of the same name: %v", err)
			}
			if err := m.lan.Switch.IP(ctx, "link set p-machine up"); err != nil {
				t.Fatal(err)
			}
			c.Close()
			comes(t, "the end of the connection", func() bool {
				_, err := m.h.Traffic(ctx, found[0])
				return errors.Is(err, fs.ErrNotExist)
			})
			return nil
		})
	}
}

// TestOperatorWithoutAConnection: what must not be taken for the operator's.
func TestOperatorWithoutAConnection(t *testing.T) {
	m := onLAN(t)
	ctx := t.Context()
	nobody := func(what string, pid int) {
		t.Helper()
		m.do(t, func() error {
			if found, err := m.h.Operator(ctx, pid); err != nil || len(found) > 0 {
				t.Errorf("%s: found %v, %v", what, found, err)
			}
			return nil
		})
	}
	nobody("no connection", os.Getpid())
	nobody("no process", 1<<22)
	// One that the host opened itself, to the web server beside it.
	client := m.lan.HostA.Command(ctx, "socat", "STDIO", "TCP:"+nettest.Machine4+":80")
	client.Env = append(os.Environ(), "SSH_CONNECTION=rubbish")
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); client.Wait() })
	var out string
	comes(t, "a connection", func() bool {
		out, err = m.lan.HostA.Run(ctx, "ss", "-Htn", "state", "established", "dport", "=", "80")
		return out != ""
	})
	nobody("a connection of the host's own", client.Process.Pid)
	// ... is one if SSH_CONNECTION names it, as where sshd is not an ancestor.
	fields := strings.Fields(out)
	local, remote := netip.MustParseAddrPort(fields[2]), netip.MustParseAddrPort(fields[3])
	below := m.lan.HostA.Command(ctx, "cat")
	below.Env = append(os.Environ(), fmt.Sprintf("SSH_CONNECTION=%s %d %s %d", remote.Addr(), remote.Port(), local.Addr(), local.Port()))
	stdin, err := below.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := below.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); below.Wait() })
	m.do(t, func() error {
		var found []host.Connection
		// nsenter becomes cat, with the same environment; in between it has none.
		comes(t, "a connection named by SSH_CONNECTION", func() bool {
			found, err = m.h.Operator(ctx, below.Process.Pid)
			return err != nil || len(found) > 0
		})
		if err != nil || len(found) != 1 || found[0].Local != local || found[0].Remote != remote {
			t.Errorf("named by SSH_CONNECTION: found %v, %v", found, err)
		}
		return nil
	})
}

func TestGatewaysAndResolversAnswer(t *testing.T) {
	m := onLAN(t)
	ask := func(p host.Peer) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return m.h.Answers(ctx, p)
	}
	dead := func(p host.Peer) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := m.h.Answers(ctx, p); err == nil {
			t.Errorf("%s answers", p)
		}
	}
	m.do(t, func() error {
		peers, err := m.h.Peers(t.Context())
		if err != nil {
			return err
		}
		four := host.Peer{Role: host.RoleGateway, Addr: netip.MustParseAddr(nettest.Router4)}
		six := host.Peer{Role: host.RoleGateway, Addr: netip.MustParseAddr(nettest.Router6)}
		if !slices.Contains(peers, four) || !slices.Contains(peers, six) {
			t.Errorf("found %v", peers)
		}
		resolver := host.Peer{Role: host.RoleResolver, Addr: netip.MustParseAddr(nettest.Router4)}
		for _, p := range []host.Peer{four, six, resolver} {
			if err := ask(p); err != nil {
				t.Error(err)
			}
		}
		dead(host.Peer{Role: host.RoleResolver, Addr: netip.MustParseAddr(nettest.Machine4)})
		dead(host.Peer{Role: host.RoleGateway, Addr: netip.MustParseAddr("192.168.99.2")})
		if err := m.lan.Router.IP(t.Context(), "addr del "+nettest.Router4+"/24 dev eth0", "addr del "+nettest.Router6+"/64 dev eth0"); err != nil {
			t.Fatal(err)
		}
		for _, p := range []host.Peer{four, six, resolver} {
			dead(p)
		}
		return nil
	})
}

func TestParseSSHConnection(t *testing.T) {
	for text, want := range map[string]string{
		"192.168.99.10 51234 192.168.99.66 22":  "192.168.99.10:51234 192.168.99.66:22",
		"fe80::1%eth0 51234 fe80::66%br0 22":    "[fe80::1]:51234 [fe80::66]:22",
		"::ffff:192.0.2.1 1 ::ffff:192.0.2.2 2": "192.0.2.1:1 192.0.2.2:2",
		"":                                      "", "192.168.99.10 51234 192.168.99.66": "", "a b c d": "", "192.168.99.10 99999 192.168.99.66 22": "",
	} {
		c, ok := parseSSHConnection(text)
		if got := c.Remote.String() + " " + c.Local.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %t", text, got, ok)
		}
	}
}

func FuzzParseTCP(f *testing.F) {
	f.Add(make([]byte, inetDiagMsgSize))
	f.Fuzz(func(t *testing.T, b []byte) { parseTCP(b) })
}
