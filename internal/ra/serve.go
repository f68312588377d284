package ra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/ndp"

	"drawbridge/internal/host"
)

// Times of RFC 4861, sections 6.2.1 and 10.
const (
	maxInterval        = 600 * time.Second // MaxRtrAdvInterval
	minInterval        = 198 * time.Second // MinRtrAdvInterval, 0.33 × max
	maxInitialInterval = 16 * time.Second  // MAX_INITIAL_RTR_ADVERT_INTERVAL
	initialCount       = 3                 // MAX_INITIAL_RTR_ADVERTISEMENTS
	// minDelay lies between two advertisements to all (MIN_DELAY_BETWEEN_RAS).
	minDelay = 3 * time.Second
)

// Answers to single guests need no random delay, which keeps several routers
// from answering at once: on these networks there is one. They are limited to
// answerBurst and answerRate a second for each bridge; beyond that one
// advertisement to all answers everybody.
const (
	answerBurst = 32
	answerRate  = 16
	// retryDelay is how soon an answer that could not be sent is tried again,
	// and retryCount how often: when the first guest comes, the bridge itself
	// has no link-local address for the one or two seconds that duplicate
	// address detection takes.
	retryDelay = 250 * time.Millisecond
	retryCount = 24
)

// Packet is a received ICMPv6 message.
type Packet struct {
	Data     []byte
	From     netip.Addr // without zone
	HopLimit int
}

// ErrGone says that the interface that a Conn was opened on is no more.
var ErrGone = errors.New("the interface is gone")

// Conn is how the server talks to one link. Receive is called from one
// goroutine, the others from any.
type Conn interface {
	// Receive waits for the next message; its Data is valid until the next call.
	// After an error nothing more will come: it wraps net.ErrClosed after Close,
	// ErrGone if the interface vanished.
	Receive() (Packet, error)
	// Send sends a message to an address on the link, or to all nodes if to is
	// not valid, from the link-local address, and does not wait. It fails as
	// long as there is no such address.
	Send(message []byte, to netip.Addr) error
	Close() error
}

// service is router advertisement on one bridge.
type service struct {
	bridge string
	log    *slog.Logger

	mu     sync.Mutex
	router *host.Router
	conn   Conn
	timer  *time.Timer
	// next is when the next advertisement to all is due; lastAll when the last
	// one was; sent how many since the start or change.
	next, lastAll time.Time
	sent          int
	retries       int
	spent         float64
	spentAt       time.Time
	counts        Stats
}

func newService(bridge string, log *slog.Logger) *service {
	return &service{bridge: bridge, log: log.With("bridge", bridge)}
}

// Serve advertises on conn until ctx is done or the interface is gone, and
// closes conn. A Serve that runs for the bridge already ends. Nothing is taken
// back at the end: guests keep router and addresses while this program is
// restarted; Apply of a deleted host.Router takes back. The error is nil if ctx
// or another Serve ended it, and wraps ErrGone if the interface did.
func (s *Server) Serve(ctx context.Context, bridge string, conn Conn) error {
	s.mu.Lock()
	svc := s.service(bridge)
	svc.attach(conn)
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	err := svc.listen(conn)
	conn.Close()

	s.mu.Lock()
	defer s.mu.Unlock()
	svc.detach(conn)
	s.drop(svc)
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("advertise router on %s: %w", bridge, err)
}

func (s *service) attach(conn Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn = conn
	s.begin()
}

func (s *service) detach(conn Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != conn {
		return
	}
	s.conn = nil
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *service) serving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil
}

func (s *service) current() *host.Router {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.router
}

func (s *service) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.counts
	out.Bridge, out.Serving = s.bridge, s.conn != nil
	return out
}

// set changes what is advertised; nil ends it.
func (s *service) set(r *host.Router) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.router
	if was != nil && r != nil && *was == *r {
		return
	}
	s.router = r
	if s.conn == nil {
		return
	}
	if was != nil {
		s.send(farewell(*was, r), netip.Addr{})
	}
	s.begin()
}

// begin starts the quick first advertisements. s.mu is held, here and below.
func (s *service) begin() {
	s.sent, s.retries = 0, 0
	s.schedule(time.Now())
}

func (s *service) schedule(at time.Time) {
	s.next = at
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(at), s.due)
		return
	}
	s.timer.Reset(time.Until(at))
}

// due sends the advertisement to all that was scheduled.
func (s *service) due() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.router == nil || s.conn == nil || time.Now().Before(s.next) {
		return
	}
	if s.send(advertisement(*s.router), netip.Addr{}) == nil {
		s.counts.Unsolicited++
		s.lastAll = time.Now()
		s.sent++
		s.retries = 0
	} else if s.retries > 0 {
		s.retries--
		s.schedule(time.Now().Add(retryDelay))
		return
	}
	wait := minInterval + rand.N(maxInterval-minInterval)
	if s.sent < initialCount {
		wait = min(wait, maxInitialInterval)
	}
	s.schedule(time.Now().Add(wait))
}

// listen answers solicitations until conn ends.
func (s *service) listen(conn Conn) error {
	for {
		p, err := conn.Receive()
		if err != nil {
			return err
		}
		s.solicited(p)
	}
}

// solicited answers a guest: alone if it has an address, else together with all.
func (s *service) solicited(p Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if checkSolicitation(p) != nil {
		s.counts.Malformed++
		return
	}
	s.counts.Solicitations++
	if s.router == nil || s.conn == nil {
		return
	}
	if !p.From.IsUnspecified() && s.allowed() {
		if s.send(advertisement(*s.router), p.From) == nil {
			s.counts.Solicited++
			return
		}
	} else if !p.From.IsUnspecified() {
		s.counts.Limited++
	}
	s.retries = retryCount
	at := time.Now()
	if !s.lastAll.IsZero() && at.Sub(s.lastAll) < minDelay {
		at = s.lastAll.Add(minDelay)
	}
	if at.Before(s.next) {
		s.schedule(at)
	}
}

// allowed is a token bucket for answers to single guests.
func (s *service) allowed() bool {
	now := time.Now()
	s.spent = max(0, s.spent-now.Sub(s.spentAt).Seconds()*answerRate)
	s.spentAt = now
	if s.spent > answerBurst-1 {
		return false
	}
	s.spent++
	return true
}

func (s *service) send(m *ndp.RouterAdvertisement, to netip.Addr) error {
	b, err := marshal(m)
	if err == nil {
		err = s.conn.Send(b, to)
	}
	if err != nil {
		s.counts.SendErrors++
	}
	return err
}
