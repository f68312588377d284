package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// traffic is what goes through a NIC while it moves: pings at 1 kHz in both
// directions and families, and a TCP stream in each direction.
type traffic struct {
	pings    []*nettest.Pinging
	timeouts map[*nettest.Node]int
	stop     context.CancelFunc
	streams  chan error
}

func (m moves) traffic(t *testing.T, packets int) *traffic {
	t.Helper()
	tr := &traffic{timeouts: map[*nettest.Node]int{}, streams: make(chan error, 2)}
	var ctx context.Context
	ctx, tr.stop = context.WithCancel(t.Context())
	t.Cleanup(tr.stop)
	for _, n := range []*nettest.Node{m.lan.HostA, m.lan.Machine} {
		tr.timeouts[n] = retransmissionTimeouts(t, n)
	}
	for _, way := range []struct {
		at, from *nettest.Node
		to       string
	}{
		{m.lan.HostA, m.lan.Machine, nettest.HostA4}, {m.lan.Machine, m.lan.HostA, nettest.Machine6},
	} {
		go func() { tr.streams <- stream(ctx, way.at, way.from, way.to) }()
	}
	for _, way := range []struct {
		from *nettest.Node
		to   string
	}{
		{m.lan.Machine, nettest.HostA4}, {m.lan.Machine, nettest.HostA6}, {m.lan.HostA, nettest.Beyond4}, {m.lan.HostA, nettest.Beyond6},
	} {
		p, err := way.from.Ping(ctx, netip.MustParseAddr(way.to), packets, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		tr.pings = append(tr.pings, p)
	}
	return tr
}

// goesOn says whether at least that many requests are still to be sent.
func (tr *traffic) goesOn(left, packets int) bool { return tr.pings[0].Sent() < packets-left }

// end waits for the last answer and complains of everything that was lost.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	for _, p := range tr.pings {
		got, err := p.Wait()
		if err != nil {
			t.Error(err)
		}
		if lost := len(got.Lost) - got.Overflowed; lost != 0 {
			t.Error(got)
		}
		t.Log(got)
	}
	tr.stop()
	for range cap(tr.streams) {
		if err := <-tr.streams; err != nil {
			t.Error(err)
		}
	}
	for n, before := range tr.timeouts {
		if after := retransmissionTimeouts(t, n); after != before {
			t.Errorf("%s: %d retransmission timeouts of TCP", n.Name, after-before)
		}
	}
}

// stream sends 8 MB/s from one node to another, checks what comes, and ends
// without an error when ctx does.
func stream(ctx context.Context, at, from *nettest.Node, to string) error {
	var l net.Listener
	var c net.Conn
	err := at.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(to, "0"))
		return err
	})
	if err != nil {
		return err
	}
	defer l.Close()
	err = from.Do(func() (err error) {
		c, err = net.Dial("tcp", l.Addr().String())
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	got := make(chan error, 1)
	go func() {
		in, err := l.Accept()
		if err == nil {
			defer in.Close()
			_, err = io.Copy(io.Discard, in)
		}
		got <- err
	}()
	chunk := make([]byte, 8<<10)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		<-pace.C
		if _, err := c.Write(chunk); err != nil {
			return errors.Join(fmt.Errorf("stream to %s: %w", to, err), <-got)
		}
	}
	return errors.Join(c.Close(), <-got)
}

// retransmissionTimeouts is TCPTimeouts of a node's kernel.
func retransmissionTimeouts(t *testing.T, n *nettest.Node) int {
	t.Helper()
	text, err := n.Run(t.Context(), "cat", "/proc/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text, "\n")
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	for i, name := range names {
		if name == "TCPTimeouts" {
			v, err := strconv.Atoi(values[i])
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatal("the kernel does not count TCPTimeouts")
	return 0
}

// TestMoveLosesNothing counts packets while the NIC moves in, and out again for
// good or by a roll-back, of a host with little and of one with everything.
func TestMoveLosesNothing(t *testing.T) {
	for name, hard := range map[string]bool{"a plain host": false, "a host with everything": true} {
		t.Run(name, func(t *testing.T) {
			m := onLAN(t)
			if hard {
				m.harden(t)
			}
			const packets = 10000
			tr := m.traffic(t, packets)
			var took []string
			m.do(t, func() error {
				for i := 0; tr.goesOn(1500, packets); i++ {
					d, err := m.inAndOut(t.Context(), i%2 == 1)
					if err != nil {
						return err
					}
					took = append(took, d)
				}
				return nil
			})
			tr.end(t)
			t.Logf("%d times in and out: %s", len(took), strings.Join(took, ", "))
		})
	}
}

// inAndOut moves the NIC in, and out again by another plan or by a roll-back.
func (m moves) inAndOut(ctx context.Context, rollback bool) (string, error) {
	in, doc, err := m.think(ctx, spec.Document{}.Clone(), lanDocument())
	if err != nil {
		return "", err
	}
	// As package txn does while a guard starts.
	early := plan.Early(in.Steps)
	if err := m.h.Apply(ctx, in.Steps[:early]); err != nil {
		return "", err
	}
	m.h.Prepare(ctx, in.Steps[early:])
	began := time.Now()
	if err := m.h.Apply(ctx, in.Steps[early:]); err != nil {
		return "", err
	}
	took := time.Since(began)
	if rollback {
		began = time.Now()
		err = m.undo(ctx, in)
	} else {
		out, _, err := m.think(ctx, doc, spec.Document{}.Clone())
		if err != nil {
			return "", err
		}
		began = time.Now()
		if err := m.h.Apply(ctx, out.Steps); err != nil {
			return "", err
		}
	}
	const short = 100 * time.Microsecond
	return fmt.Sprintf("%s/%s", took.Round(short), time.Since(began).Round(short)), err
}
