package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a connection, as the kernel says: the
// credentials that the process had when it connected (unix(7), SO_PEERCRED and
// SO_PEERGROUPS).
type Peer struct {
	UID, GID uint32
	// Groups are the supplementary groups; GID may or may not be among them.
	Groups []uint32
	PID    int32
}

// In says whether the peer is a member of a group.
func (p Peer) In(gid int) bool {
	return gid >= 0 && (int64(p.GID) == int64(gid) || slices.ContainsFunc(p.Groups, func(g uint32) bool { return int64(g) == int64(gid) }))
}

// PeerOf asks the kernel who is at the other end.
func PeerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("ask for the peer's credentials: %w", err)
	}
	var peer Peer
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = err
			return
		}
		peer = Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}
		peer.Groups, inner = peerGroups(int(fd))
	})
	if err = errors.Join(err, inner); err != nil {
		return Peer{}, fmt.Errorf("ask for the peer's credentials: %w", err)
	}
	return peer, nil
}

type peerKey struct{}

// withPeer puts the peer into the context of all requests of a connection. A
// peer that cannot be known is nobody, and is refused later.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if counted, ok := c.(*countedConn); ok {
		return context.WithValue(ctx, peerKey{}, counted.peer)
	}
	return ctx
}

// fairListener bounds how many connections one user id other than root has at
// one time. Those above are closed at once.
type fairListener struct {
	net.Listener
	limit int
	mu    sync.Mutex
	open  map[uint32]int
}

func newFairListener(l net.Listener, limit int) *fairListener {
	return &fairListener{Listener: l, limit: limit, open: map[uint32]int{}}
}

// Accept returns the next connection whose peer is known and within its limit.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn, ok := c.(*net.UnixConn)
		if !ok {
			c.Close()
			return nil, fmt.Errorf("accept on %s: not a unix socket", l.Addr())
		}
		peer, err := PeerOf(conn)
		if err != nil || !l.take(peer.UID) {
			conn.Close()
			continue
		}
		return &countedConn{UnixConn: conn, peer: peer, release: sync.OnceFunc(func() { l.give(peer.UID) })}, nil
	}
}

func (l *fairListener) take(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uid != 0 && l.open[uid] >= l.limit {
		return false
	}
	l.open[uid]++
	return true
}

func (l *fairListener) give(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[uid]--; l.open[uid] == 0 {
		delete(l.open, uid)
	}
}

type countedConn struct {
	*net.UnixConn
	peer    Peer
	release func()
}

// Close gives the place back.
func (c *countedConn) Close() error {
	c.release()
	return c.UnixConn.Close()
}

// peerGroups reads SO_PEERGROUPS (since Linux 4.13): the kernel says ERANGE and
// the size that it needs if there are more groups than fit.
func peerGroups(fd int) ([]uint32, error) {
	for size := 64; ; {
		groups := make([]uint32, size)
		n, err := getPeerGroups(fd, groups)
		if errors.Is(err, unix.ERANGE) && n > size {
			size = n
			continue
		}
		if err != nil {
			return nil, err
		}
		return groups[:n], nil
	}
}
