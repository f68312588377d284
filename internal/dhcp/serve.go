package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/latency"
)

// batchSize is how many messages are handled before the lock is given up.
const batchSize = 32

// service is DHCP on one bridge.
type service struct {
	bridge string
	leases *Leases
	log    *slog.Logger
	room   *Room

	mu           sync.Mutex
	pool         host.Pool
	table        *table // nil: there is no pool
	reservations map[string]host.Reservation
	guests       map[[6]byte]host.Guest
	conn         Conn // nil: nobody serves
	probes       map[uint32]*probe
	budget       probeBudget
	counts       Stats
	fullSaid     time.Time
	latency      latency.Histogram
}

func newService(bridge string, leases *Leases, log *slog.Logger, room *Room) *service {
	return &service{
		bridge: bridge, leases: leases, log: log.With("bridge", bridge), room: room,
		reservations: map[string]host.Reservation{}, guests: map[[6]byte]host.Guest{},
		probes: map[uint32]*probe{}, counts: Stats{Dropped: map[string]uint64{}},
	}
}

// Serve answers the clients of a bridge on conn until ctx is done or the
// interface is gone, and closes conn. A Serve that runs for the bridge already
// ends: a bridge that was made anew comes with new sockets. The error is nil if
// ctx or another Serve ended it, and wraps ErrGone if the interface did.
func (s *Server) Serve(ctx context.Context, bridge string, conn Conn) error {
	s.mu.Lock()
	svc := s.service(bridge)
	svc.attach(conn)
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	var arp sync.WaitGroup
	arp.Go(func() { svc.arpLoop(conn) })
	err := svc.loop(conn)
	conn.Close()
	arp.Wait()

	s.mu.Lock()
	defer s.mu.Unlock()
	svc.detach(conn)
	s.drop(svc)
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve DHCP on %s: %w", bridge, err)
}

func (s *service) attach(conn Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn = conn
}

func (s *service) detach(conn Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn {
		s.conn = nil
		s.endProbes()
	}
}

func (s *service) serving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil
}

func (s *service) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn == nil && s.table == nil && len(s.reservations) == 0 && len(s.guests) == 0
}

// loop receives and answers until conn ends.
func (s *service) loop(conn Conn) error {
	for {
		messages, err := conn.Receive(s.room)
		if err != nil {
			return err
		}
		s.leases.room()
		s.process(func(b *batch) {
			for i := range messages {
				s.handleSafely(messages[i].Data, b)
			}
		})
		s.room.Give(messages)
	}
}

func (s *service) arpLoop(conn Conn) {
	for {
		reply, err := conn.ReceiveARP()
		if err != nil {
			return // Receive says what is the matter
		}
		s.process(func(b *batch) { s.answered(reply, b) })
	}
}

// batch is what a turn of the loop wants to be done once the lock is given up.
type batch struct {
	// began is when the turn began: when the messages came that are handled in it.
	began time.Time
	now   []Reply
	// nowCame and thenCame are when the messages came that are answered.
	nowCame, thenCame []time.Time
	// put must be on disk before the replies in then leave; undo takes back
	// what could not be put there.
	put  []Lease
	then []Reply
	undo []undo
	ask  []uint32 // addresses to probe
}

// process runs f with the lock held, then does what it wants to be done. What
// must be stored is queued under the lock, in the order in which it came about.
func (s *service) process(f func(*batch)) {
	b := batch{began: time.Now()}
	s.mu.Lock()
	f(&b)
	conn := s.conn
	if len(b.put) > 0 {
		s.store(conn, s.table, &b)
	}
	s.mu.Unlock()
	if conn == nil {
		return
	}
	for _, addr := range b.ask {
		if err := conn.Probe(toAddr(addr)); err != nil {
			s.count(func(c *Stats) { c.SendErrors++ })
		}
	}
	s.send(conn, b.now, b.nowCame)
}

// store has a batch's leases put on disk, and its replies sent after that.
func (s *service) store(conn Conn, t *table, b *batch) {
	put, then, came, undos := b.put, b.then, b.thenCame, b.undo
	s.leases.commit(job{put: put, done: func(err error) {
		if err != nil {
			s.takeBack(t, undos)
			return
		}
		s.count(func(c *Stats) { c.Ack += uint64(len(then)) })
		if conn != nil {
			s.send(conn, then, came)
		}
	}})
}

// reply answers r in this turn.
func (b *batch) reply(r *request, reply Reply) {
	b.now, b.nowCame = append(b.now, reply), append(b.nowCame, r.came)
}

func (s *service) send(conn Conn, replies []Reply, came []time.Time) {
	if len(replies) == 0 {
		return
	}
	if err := conn.Send(replies); err != nil {
		s.count(func(c *Stats) { c.SendErrors++ })
	}
	now := time.Now()
	for _, at := range came {
		s.latency.Observe(now.Sub(at), 1)
	}
}

func (s *service) takeBack(t *table, undos []undo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.CommitErrors++
	if t == nil || t != s.table {
		return
	}
	for i := len(undos) - 1; i >= 0; i-- {
		t.takeBack(undos[i], s.now())
	}
}

func (s *service) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.counts)
}

// handleSafely handles one message; whatever it does, the service goes on.
func (s *service) handleSafely(data []byte, b *batch) {
	defer func() {
		if p := recover(); p != nil {
			s.counts.Dropped[dropPanic]++
			s.log.Error("a DHCP message could not be handled: this is a fault in the program",
				"panic", p, "message", fmt.Sprintf("%x", data), "stack", string(debug.Stack()))
		}
	}()
	err := s.handle(data, b)
	var drop dropError
	if errors.As(err, &drop) {
		s.counts.Dropped[drop.reason]++
	}
}

// now is in seconds since 1970.
func (s *service) now() int64 { return time.Now().Unix() }
