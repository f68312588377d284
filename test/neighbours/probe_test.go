package neighbours

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"drawbridge/internal/nettest"
)

// pace is how often a guest begins a new connection, and asks over an old one.
const pace = 5 * time.Millisecond

// patience is how long an answer may take before it counts as lost.
const patience = time.Second

// probing is a guest's traffic: echo requests of one flow, which firewalls let
// pass as established, and a new UDP flow every time, which they do not.
type probing struct {
	stop  context.CancelFunc
	pings *nettest.Pinging

	mu   sync.Mutex
	lost []loss
	over sync.WaitGroup
	// begun counts new flows.
	begun int
}

// loss is a packet without an answer: its number, and when it was sent.
type loss struct {
	number int
	at     time.Duration
}

// outcome is the longest time in which nothing came through, and when that of new connections
// began.
type outcome struct {
	OldGap, NewGap   time.Duration
	NewFrom          time.Duration
	OldSent, NewSent int
}

// probe begins traffic from a node to an address of another that has echo.
func (w *world) probe(from *nettest.Node, to netip.Addr) *probing {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &probing{stop: stop}
	w.t.Cleanup(stop)
	var err error
	if p.pings, err = from.Ping(ctx, to, 1<<20, pace); err != nil {
		w.t.Fatal(err)
	}
	began := time.Now()
	p.over.Go(func() {
		_ = from.Do(func() error {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
				l := loss{p.begun, time.Since(began)}
				p.begun++
				conn, err := net.Dial("udp", netip.AddrPortFrom(to, echoPort).String())
				if err != nil {
					p.note(l)
					continue
				}
				p.over.Go(func() {
					if !answered(conn) {
						p.note(l)
					}
				})
			}
		})
	})
	return p
}

func answered(conn net.Conn) bool {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return false
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return false
	}
	_, err := conn.Read(make([]byte, 16))
	return err == nil
}

func (p *probing) note(l loss) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = append(p.lost, l)
}

// end stops the traffic and says how it went.
func (p *probing) end(t interface{ Fatal(...any) }) outcome {
	p.stop()
	p.over.Wait()
	old, err := p.pings.Wait()
	if err != nil {
		t.Fatal(err)
	}
	var lost []loss
	for _, l := range old.Lost {
		lost = append(lost, loss{l.Number, l.At})
	}
	slices.SortFunc(p.lost, func(a, b loss) int { return a.number - b.number })
	o := outcome{OldSent: old.Sent, NewSent: p.begun}
	o.OldGap, _ = longest(lost)
	o.NewGap, o.NewFrom = longest(p.lost)
	return o
}

// longest is the longest row of losses without a success between them, however late
// we were meanwhile, and when it began.
func longest(lost []loss) (gap, when time.Duration) {
	var from time.Duration
	for i, l := range lost {
		if i == 0 || l.number != lost[i-1].number+1 {
			from = l.at
		}
		if d := l.at - from + pace; d > gap {
			gap, when = d, from
		}
	}
	return gap, when
}

const echoPort = 7

// echo answers on a node.
func (w *world) echo(on *nettest.Node, addr netip.Addr) {
	w.t.Helper()
	var conn *net.UDPConn
	w.check(on.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, echoPort)))
		return err
	}))
	w.t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(b[:n], from)
		}
	}()
}
