package neighbours

import (
	"context"
	"net"
	"net/netip"
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

	mu    sync.Mutex
	lost  []time.Duration // since the beginning
	begun int
	over  sync.WaitGroup
}

// outcome is the longest time in which nothing came through.
type outcome struct {
	OldGap, NewGap   time.Duration
	OldSent, NewSent int
}

// probe begins traffic from a guest to the LAN.
func (w *world) probe(to netip.Addr) *probing {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &probing{stop: stop}
	w.t.Cleanup(stop)
	var err error
	if p.pings, err = w.guest.Ping(ctx, to, 1<<20, pace); err != nil {
		w.t.Fatal(err)
	}
	began := time.Now()
	p.over.Go(func() {
		_ = w.guest.Do(func() error {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
				at := time.Since(began)
				conn, err := net.Dial("udp", netip.AddrPortFrom(to, echoPort).String())
				if err != nil {
					p.note(at, false)
					continue
				}
				p.over.Go(func() { p.note(at, answered(conn)) })
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

func (p *probing) note(at time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun++
	if !ok {
		p.lost = append(p.lost, at)
	}
}

// end stops the traffic and says how it went.
func (p *probing) end(t interface{ Fatal(...any) }) outcome {
	p.stop()
	p.over.Wait()
	old, err := p.pings.Wait()
	if err != nil {
		t.Fatal(err)
	}
	var at []time.Duration
	for _, l := range old.Lost {
		at = append(at, l.At)
	}
	return outcome{OldGap: longest(at), NewGap: longest(sorted(p.lost)), OldSent: old.Sent, NewSent: p.begun}
}

func sorted(list []time.Duration) []time.Duration {
	for i := range list {
		for j := i; j > 0 && list[j] < list[j-1]; j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
	return list
}

// longest is the longest row of losses without a success between them: of times
// of sending, one pace after the other (a late one may come two after).
func longest(lost []time.Duration) time.Duration {
	var best, from time.Duration
	for i, at := range lost {
		if i == 0 || at-lost[i-1] > 3*pace {
			from = at
		}
		best = max(best, at-from+pace)
	}
	return best
}

const echoPort = 7

// echo answers on the LAN.
func (w *world) echo() {
	w.t.Helper()
	var conn *net.UDPConn
	w.check(w.lan.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(internet, echoPort)))
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
