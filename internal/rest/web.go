package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"drawbridge/internal/spec"
)

// Web is how the page may be reached by TCP.
type Web struct {
	// Listen is where it is from the start, ADDRESS:PORT; "" is off until asked.
	Listen string
	// Anywhere allows addresses that are not loopback. The traffic is plain HTTP.
	Anywhere bool
	// Origins are what browsers call it if that is neither localhost nor the
	// address it listens on, behind a proxy for instance.
	Origins []*url.URL
}

const (
	// maxWebConnections at one time by TCP, where nobody knows who connects.
	maxWebConnections = 256
	// slowest bounds how long a browser may leave an answer unread.
	slowest = 20 * time.Second
)

// door is the TCP listener while there is one.
type door struct {
	mu     sync.Mutex
	server *http.Server
	// addr is where it listens, "" if nowhere.
	addr string
	wg   sync.WaitGroup
}

// CheckListen says why the page cannot be at an address.
func CheckListen(listen string, anywhere bool) error {
	ap, err := netip.ParseAddrPort(listen)
	if err != nil {
		return &spec.InvalidError{Field: "listen", Reason: fmt.Sprintf("%q is not an address with a port such as 127.0.0.1:8420", listen)}
	}
	if !ap.Addr().Unmap().IsLoopback() && !anywhere {
		return &spec.InvalidError{Field: "listen", Reason: listen + " can be reached by others, and the page has no encryption of its own: " +
			"use 127.0.0.1 and ssh -L, or start the daemon with --listen-anywhere"}
	}
	return nil
}

// OpenWeb listens for browsers, in place of where it did before, and returns
// where. It is no error if it does already.
func (s *Server) OpenWeb(listen string) (string, error) {
	if err := CheckListen(listen, s.Web.Anywhere); err != nil {
		return "", err
	}
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	if s.door.addr == listen && listen != "" {
		return listen, nil
	}
	if s.stop.Err() != nil {
		return "", fmt.Errorf("listen on %s: %w", listen, context.Canceled)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return "", &spec.InvalidError{Field: "listen", Reason: err.Error()}
	}
	s.closeDoor()
	server := &http.Server{
		Handler:           s.outermost(s.mux),
		ReadHeaderTimeout: s.HeaderTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxWebHeader,
		ErrorLog:          s.http.ErrorLog,
	}
	s.door.server, s.door.addr = server, l.Addr().String()
	s.door.wg.Go(func() {
		if err := server.Serve(newBoundedListener(l, maxWebConnections)); !errors.Is(err, http.ErrServerClosed) {
			s.Log.Error("the page is no longer served", "listen", listen, "err", err)
		}
	})
	return s.door.addr, nil
}

// WebAddress is where the page is, "" while it is off.
func (s *Server) WebAddress() string {
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	return s.door.addr
}

// CloseWeb cuts browsers off.
func (s *Server) CloseWeb() {
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	s.closeDoor()
}

func (s *Server) closeDoor() {
	if s.door.server == nil {
		return
	}
	_ = s.door.server.Close() // of listeners and connections that are closed for good
	s.door.wg.Wait()
	s.door.server, s.door.addr = nil, ""
}

// shutDoor lets calls of browsers finish.
func (s *Server) shutDoor(ctx context.Context) error {
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	if s.door.server == nil {
		return nil
	}
	err := s.door.server.Shutdown(ctx)
	s.closeDoor()
	return err
}

// boundedListener closes connections above a number at once.
type boundedListener struct {
	net.Listener
	free chan struct{}
}

func newBoundedListener(l net.Listener, limit int) *boundedListener {
	return &boundedListener{l, make(chan struct{}, limit)}
}

// Accept returns the next connection that there is room for.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.free <- struct{}{}:
			return &boundedConn{Conn: c, release: sync.OnceFunc(func() { <-l.free })}, nil
		default:
			c.Close()
		}
	}
}

type boundedConn struct {
	net.Conn
	release func()
}

// Close gives the place back.
func (c *boundedConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// pacedWriter gives up on a client that does not read: every write, of a few
// kilobytes each, has its own limit, while a call may take as long as it needs.
type pacedWriter struct {
	http.ResponseWriter
	out   *http.ResponseController
	limit time.Duration
}

func paced(w http.ResponseWriter, limit time.Duration) *pacedWriter {
	return &pacedWriter{w, http.NewResponseController(w), limit}
}

// Write sets the limit and writes.
func (w *pacedWriter) Write(b []byte) (int, error) {
	if err := w.out.SetWriteDeadline(time.Now().Add(w.limit)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(b)
}

// WriteHeader sets the limit too: some answers are no more than a header, and
// the limit of the answer before may be over. Who was too slow in asking is not
// waited for again.
func (w *pacedWriter) WriteHeader(status int) {
	if status == http.StatusRequestTimeout {
		w.Header().Set("Connection", "close")
	}
	_ = w.out.SetWriteDeadline(time.Now().Add(w.limit)) // what is closed fails to be written to
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
