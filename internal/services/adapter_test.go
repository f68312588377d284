package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// loopback opens DNS sockets on addresses of the loopback, all on one port.
type loopback struct {
	port  int
	index map[string]int
	// asked counts openings.
	asked int
}

func (l *loopback) OpenDHCP(string) (udp, frames *os.File, err error) { return nil, nil, os.ErrInvalid }
func (l *loopback) OpenSnoop(string) (*os.File, error)                { return nil, os.ErrInvalid }
func (l *loopback) OpenRA(string) (*os.File, error)                   { return nil, os.ErrInvalid }
func (l *loopback) Index(link string) int                             { return l.index[link] }
func (l *loopback) InUse(err error) bool                              { return errors.Is(err, unix.EADDRINUSE) }

func (l *loopback) OpenDNS(_ string, addr netip.Addr) (udp, tcp *os.File, err error) {
	l.asked++
	at := net.JoinHostPort(addr.String(), strconv.Itoa(l.port))
	u, err := net.ListenPacket("udp4", at)
	if err != nil {
		return nil, nil, err
	}
	defer u.Close()
	t, err := net.Listen("tcp4", at)
	if err != nil {
		return nil, nil, err
	}
	defer t.Close()
	if udp, err = u.(*net.UDPConn).File(); err != nil {
		return nil, nil, err
	}
	tcp, err = t.(*net.TCPListener).File()
	return udp, tcp, err
}

// freePort is one that nobody has on 127.0.0.1 just now.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// startProcess runs the process and returns how to make an adapter to it.
func startProcess(t *testing.T, open *loopback) func() *Adapter {
	t.Helper()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	p, err := NewProcess(dir, "host", log)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "control.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the process ended: %v", err)
		}
	})
	return func() *Adapter {
		return &Adapter{Socket: socket, Opener: open, Log: log, Spawn: func(context.Context) error {
			return errors.New("it runs already")
		}}
	}
}

func zone(i int) host.Zone {
	addr := netip.AddrFrom4([4]byte{127, 0, byte(1 + i/200), byte(1 + i%200)})
	return host.Zone{Bridge: fmt.Sprintf("br%d", i), Network: fmt.Sprintf("n%d", i), Domain: "lab.internal", Addr4: netip.PrefixFrom(addr, 24)}
}

// More requests than may be without an answer at one time, each with sockets.
func TestManyServicesInOneChange(t *testing.T) {
	open := &loopback{port: freePort(t), index: map[string]int{}}
	a := startProcess(t, open)()
	const n = 5*mostOwed + 3
	goal := host.State{}
	for i := range n {
		goal.Add(zone(i))
		open.index[zone(i).Bridge] = 100 + i
	}
	if err := a.Apply(t.Context(), plan.Diff(goal, host.State{})); err != nil {
		t.Fatal(err)
	}
	seen, err := a.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if missing := plan.Diff(goal, seen); len(missing) > 0 {
		t.Errorf("%d steps are still to be done, first %v", len(missing), missing[0])
	}
	for i := range n {
		c, err := net.Dial("tcp4", net.JoinHostPort(zone(i).Addr4.Addr().String(), strconv.Itoa(open.port)))
		if err != nil {
			t.Fatalf("nobody listens for %s: %v", zone(i).Bridge, err)
		}
		c.Close()
	}
	if err := a.Apply(t.Context(), plan.Diff(host.State{}, seen)); err != nil {
		t.Fatal(err)
	}
	if seen, err := a.Observe(t.Context()); err != nil || len(seen) != 0 {
		t.Errorf("after all were taken away: %d left, %v", len(seen), err)
	}
	if len(a.Blocked()) > 0 {
		t.Errorf("blocked: %v", a.Blocked())
	}
}

// The process still holds the addresses on the sockets of a bridge that is gone.
func TestSocketsOfAnEarlierBridgeGiveWay(t *testing.T) {
	for _, tt := range []struct {
		name string
		// looks says that the new daemon has asked what is served before.
		looks bool
		asked int
	}{{"known", true, 1}, {"not known", false, 2}} {
		t.Run(tt.name, func(t *testing.T) {
			open := &loopback{port: freePort(t), index: map[string]int{"br0": 7}}
			adapter := startProcess(t, open)
			first := []plan.Step{{After: zone(0)}}
			if err := adapter().Apply(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			open.index["br0"], open.asked = 8, 0
			a := adapter()
			if tt.looks {
				if seen, err := a.Observe(t.Context()); err != nil || len(seen) != 0 {
					t.Fatalf("a service on a bridge that is gone is shown: %v, %v", seen, err)
				}
			}
			if err := a.Apply(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			seen, err := a.Observe(t.Context())
			if err != nil || seen[zone(0).Key()] != host.Resource(zone(0)) {
				t.Errorf("seen %v, %v", seen, err)
			}
			if len(a.Blocked()) > 0 {
				t.Errorf("blocked: %v", a.Blocked())
			}
			if open.asked != tt.asked {
				t.Errorf("sockets were opened %d times, want %d", open.asked, tt.asked)
			}
		})
	}
}

// A port that somebody else has keeps a service from its socket, no more.
func TestTakenPortIsBlockedUntilItIsFree(t *testing.T) {
	open := &loopback{port: freePort(t), index: map[string]int{"br0": 7}}
	a := startProcess(t, open)()
	other, err := net.ListenPacket("udp4", net.JoinHostPort(zone(0).Addr4.Addr().String(), strconv.Itoa(open.port)))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := a.Apply(t.Context(), []plan.Step{{After: zone(0)}}); err != nil {
		t.Fatal(err)
	}
	if a.Blocked()[zone(0).Key()] == "" {
		t.Error("the taken port is not told")
	}
	if err := a.Retry(); err != nil || len(a.Blocked()) != 1 {
		t.Errorf("the port is still taken: %v, %v", err, a.Blocked())
	}
	other.Close()
	if err := a.Retry(); err != nil || len(a.Blocked()) != 0 {
		t.Errorf("the port is free: %v, %v", err, a.Blocked())
	}
	c, err := net.Dial("tcp4", net.JoinHostPort(zone(0).Addr4.Addr().String(), strconv.Itoa(open.port)))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// An error of the process is told, and the next request gets its own answer.
func TestErrorsDoNotMixUpAnswers(t *testing.T) {
	open := &loopback{port: freePort(t), index: map[string]int{}}
	a := startProcess(t, open)()
	bad := plan.Step{After: host.Link{Name: "not a service"}}
	steps := []plan.Step{bad}
	for i := range 3 {
		steps = append(steps, plan.Step{After: zone(i)})
	}
	if err := a.Apply(t.Context(), steps); err == nil {
		t.Error("a step that the process cannot do succeeded")
	}
	report, err := a.Report()
	if err != nil || report.PID != os.Getpid() {
		t.Errorf("the report after an error: %+v, %v", report, err)
	}
}
