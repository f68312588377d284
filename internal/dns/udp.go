package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// ServeUDP answers what arrives on conn as questions from guests of bridge until
// ctx ends (nil) or the socket dies (the error); either way conn is closed. conn
// must be bound to the host's own address on the bridge, since that is where
// answers have to come from. Packets that arrive while the bridge has no zone are
// dropped. Several sockets may serve one bridge.
func (s *Server) ServeUDP(ctx context.Context, bridge string, conn *net.UDPConn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("serve DNS on %s: %w", bridge, err)
	}
	// Guests that boot together ask together. The kernel gives what its limit
	// allows (net.core.rmem_max), which is twice the default at least.
	_ = conn.SetReadBuffer(1 << 20)
	r := newReceiver(raw, &s.batches)
	defer r.release()
	for {
		n, err := r.wait()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return fmt.Errorf("serve DNS on %s: receive: %w", bridge, err)
		}
		if n > 0 {
			s.serveBatch(r, n, bridge, conn)
			if err := r.flush(); err != nil {
				return fmt.Errorf("serve DNS on %s: send: %w", bridge, err)
			}
		}
	}
}

// serveBatch answers n packets; what the fast path cannot answer goes its way by
// itself.
func (s *Server) serveBatch(r *receiver, n int, bridge string, conn *net.UDPConn) {
	t := s.tables.Load()
	z := t.byBridge[bridge]
	if z == nil {
		return
	}
	began := time.Now()
	var local, cached, outside, malformed uint64
	for i := range n {
		from := r.sender(i)
		p := r.packet(i)
		if !z.has(from.Addr()) {
			outside++
			continue
		}
		if p == nil {
			malformed++
			continue
		}
		size, src := s.fast(&r.b.worker, t, z, p, r.room(), 0)
		switch src {
		case fromTable:
			local++
			r.put(i, size)
		case fromCache:
			cached++
			r.put(i, size)
		default:
			// The packet is not kept: what waits for others keeps its own copy.
			s.slow(t, z, from.Addr(), p, false, began, func(b []byte) { _, _ = conn.WriteToUDPAddrPort(b, from) })
		}
	}
	z.stats.queries.Add(uint64(n) - outside)
	z.stats.outside.Add(outside)
	z.stats.malformed.Add(malformed)
	z.stats.local.Add(local)
	z.stats.cached.Add(cached)
	// One look at the clock for the batch: each of its answers left by now.
	if n := local + cached; n > 0 {
		z.stats.latency.Observe(time.Since(began), n)
	}
}
