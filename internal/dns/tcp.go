package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Bounds of what TCP clients can hold (RFC 7766 section 6.2).
const (
	maxConns          = 256
	maxConnsPerClient = 8
	idleTime          = 10 * time.Second
	writeTime         = 5 * time.Second
)

// connLimit counts connections.
type connLimit struct {
	mu        sync.Mutex
	total     int
	perClient map[netip.Addr]int
}

func (l *connLimit) take(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.perClient[client] >= maxConnsPerClient {
		return false
	}
	l.total++
	l.perClient[client]++
	return true
}

func (l *connLimit) give(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.perClient[client]--; l.perClient[client] == 0 {
		delete(l.perClient, client)
	}
}

// ServeTCP answers the connections that ln accepts as those of guests of bridge
// until ctx ends (nil) or the listener dies (the error); either way ln and its
// connections are closed. Connections over the limits are closed at once.
func (s *Server) ServeTCP(ctx context.Context, bridge string, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	defer ln.Close()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED):
			select { // until a descriptor is free again
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		case err != nil:
			return fmt.Errorf("serve DNS on %s: accept: %w", bridge, err)
		}
		client, ok := remote(conn)
		z := s.tables.Load().byBridge[bridge]
		if !ok || z == nil || !z.has(client) {
			if z != nil {
				z.stats.outside.Add(1)
			}
			conn.Close()
			continue
		}
		if !s.conns.take(client) {
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer s.conns.give(client)
			s.serveConn(ctx, bridge, client, conn)
		})
	}
}

func remote(conn net.Conn) (netip.Addr, bool) {
	a, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	return a.Addr().Unmap(), err == nil && a.Addr().Zone() == ""
}

// serveConn answers the questions of one connection, one after the other.
func (s *Server) serveConn(ctx context.Context, bridge string, client netip.Addr, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var w worker
	// Questions are short; the room grows for one that is not.
	in := make([]byte, minSize)
	out := make([]byte, 2+64<<10)
	answers := make(chan []byte, 1)
	for ctx.Err() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(idleTime))
		if _, err := io.ReadFull(conn, in[:2]); err != nil {
			return
		}
		size := int(binary.BigEndian.Uint16(in))
		if size > len(in) {
			in = make([]byte, size)
		}
		if _, err := io.ReadFull(conn, in[:size]); err != nil {
			return
		}
		began := time.Now()
		t := s.tables.Load()
		z := t.byBridge[bridge]
		if z == nil {
			return
		}
		z.stats.queries.Add(1)
		n, src := s.fast(&w, t, z, in[:size], out[2:2+65535], 65535)
		switch src {
		case fromTable:
			z.stats.local.Add(1)
		case fromCache:
			z.stats.cached.Add(1)
		default:
			if !s.slow(t, z, client, in[:size], true, began, func(b []byte) { answers <- b }) {
				return
			}
			n = copy(out[2:], <-answers)
		}
		if src != fromNowhere {
			z.stats.latency.Observe(time.Since(began), 1)
		}
		binary.BigEndian.PutUint16(out, uint16(n))
		_ = conn.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := conn.Write(out[:2+n]); err != nil {
			return
		}
	}
}
