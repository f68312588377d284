// Package rest is the HTTP face: the calls of package api, served over a unix
// socket, and by TCP where asked, to whom the rules of access let in, and described by OpenAPI.
//
// It owns paths, access, limits, the form of errors, and the translation
// between wire types and the engine's. It does not know kernels, nor how a
// change is carried out.
//
// Start reading at New and Serve below. Access is in peer.go, access.go and
// origin.go, the way in for browsers in web.go and sessions.go, the page itself
// in package page, the
// calls in networks.go, live.go and changes.go, descriptors in open.go, the
// document's form in document.go, errors in problems.go. What doctor found is kept at
// hand for pictures in findings.go.
package rest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
	"drawbridge/internal/login"
	"drawbridge/internal/rest/page"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// Engine is what the face needs of the engine; *engine.Engine has it.
type Engine interface {
	Do(ctx context.Context, c engine.Command, o engine.Options) (engine.Result, error)
	// Document is what is wanted; it costs nothing, while View looks at the host.
	Document() spec.Document
	View(ctx context.Context) (engine.View, error)
	// OpenPort returns descriptors that the caller owns: one of the tap for
	// each queue, and as many of vhost or none.
	OpenPort(ctx context.Context, r engine.PortRequest) (engine.Port, []*os.File, []*os.File, error)
	AttachPort(ctx context.Context, r engine.PortRequest) (engine.Port, error)
	DetachPort(ctx context.Context, tap string) error
	// Changes lists those that are not finished, without waiting for one that is
	// carried out just now; Change finds one, also among the last that are over;
	// Files are those of the host that it changes with its confirmation.
	Changes() []txn.Txn
	Change(id string) (txn.Txn, error)
	Files(ctx context.Context, t txn.Txn) []string
	// Conditions are what has to be seen for a change that waits to confirm itself.
	Conditions(t txn.Txn) []engine.Condition
	Confirm(ctx context.Context, id string) error
	Cancel(ctx context.Context, id string) error
	Extend(ctx context.Context, id string, by time.Duration) error
	// Watch calls f for every event, which must not wait.
	Watch(f func(engine.Event)) (stop func())
	// History lists the record, the newest entry first, until each says no; Undo
	// takes a change of it back by a new one.
	History(each func(txn.Entry) bool) error
	Undo(ctx context.Context, id string, o engine.Options) (engine.Result, error)
	AddForward(ctx context.Context, r engine.ForwardRequest, o engine.Options) (engine.Result, error)
	Forwards(ctx context.Context) ([]engine.ForwardView, error)
	Reached(ctx context.Context, list []engine.ForwardView) (bool, error)
	Why(ctx context.Context, r engine.WhyRequest) (diagnose.Answer, error)
	WhyProbe(ctx context.Context, r engine.WhyRequest) (diagnose.Answer, engine.Probed, error)
}

// Limits on what clients may send, for everybody alike.
const (
	// maxBody is enough for a document of ten thousand reservations (1 MB) or
	// thirty thousand forwards (3 MB).
	maxBody = 8 << 20
	// maxHeader is far above what our client sends.
	maxHeader = 64 << 10
	// maxWebHeader is enough for a browser with cookies of other programs on the
	// same host name.
	maxWebHeader = 16 << 10
	// maxConnections of one user id other than root at one time: the socket is
	// open to everybody, and one user shall not use up the daemon's descriptors.
	maxConnections = 128
)

// Config is what a server is made of. Only Engine and Log have no default.
type Config struct {
	Engine Engine
	Log    *slog.Logger
	// AdminGroup is the group whose members may do everything, as root may;
	// "drawbridge" if empty. It is looked up once, here.
	AdminGroup string
	// Version of the program, for status.
	Version string
	// Modes are the words that Network.Mode may be.
	Modes []api.Mode
	// ServicesPID is the process of the guest services, or 0.
	ServicesPID func() int
	// OpenCapture opens an unbound packet socket for a link, and finds its index.
	OpenCapture func(link string) (f *os.File, index int, err error)
	// Sources of metrics beside the engine.
	Sources Sources
	// Now is the wall clock, Boottime CLOCK_BOOTTIME in nanoseconds.
	Now      func() time.Time
	Boottime func() int64
	// Doctor looks for what is wrong; nil where nobody can.
	Doctor Doctor
	// LookOut has it look by itself again and again, so that pictures show what is
	// wrong; else they show what is seen at first glance.
	LookOut bool
	// HeaderTimeout bounds how long a client may take to say what it wants,
	// SendTimeout how long it may leave unread what it is sent.
	HeaderTimeout, SendTimeout time.Duration
	// Keys are those who are let in by a secret; nil lets in by the kernel's word
	// alone, and has no page.
	Keys *login.Keys
	Web  Web
}

// Server answers the calls of package api.
type Server struct {
	Config
	started time.Time
	http    *http.Server
	mux     *http.ServeMux
	huma    huma.API
	// adminGID is -1 where the group does not exist: then only root may.
	adminGID int
	runID    string
	requests atomic.Uint64
	feed     *feed
	lookout  *lookout
	unwatch  func()
	// stop ends watchers when the server shuts down.
	stop    context.Context
	stopAll context.CancelFunc
	// csrf is one of the guards against other sites' pages; door is where browsers
	// come in.
	csrf *http.CrossOriginProtection
	door door
	// drawings are those of the last picture.
	drawings drawings
	page     http.Handler
}

// New makes a server; it answers once it has a listener. What happens from now on
// is kept for those who listen to events later.
func New(c Config) *Server {
	if c.AdminGroup == "" {
		c.AdminGroup = adminGroup
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Boottime == nil {
		c.Boottime = boottime
	}
	if c.ServicesPID == nil {
		c.ServicesPID = func() int { return 0 }
	}
	if c.HeaderTimeout == 0 {
		c.HeaderTimeout = 5 * time.Second
	}
	if c.SendTimeout == 0 {
		c.SendTimeout = sendTimeout
	}
	s := &Server{Config: c, started: c.Now(), mux: http.NewServeMux(), runID: newRunID(), adminGID: groupID(c.AdminGroup)}
	s.csrf, s.page = http.NewCrossOriginProtection(), page.Handler()
	s.feed = newFeed(s.runID, c.Now)
	s.lookout = newLookout(func(ctx context.Context) ([]diagnose.Finding, error) { return s.examine(ctx, "") }, c.Now)
	s.unwatch = c.Engine.Watch(func(e engine.Event) {
		s.feed.add(e)
		s.lookout.stir()
	})
	s.stop, s.stopAll = context.WithCancel(context.Background())
	s.huma = humago.New(s.mux, s.humaConfig())
	s.register()
	s.correctOpenAPI()
	s.http = &http.Server{
		Handler:           s.outermost(s.mux),
		ReadHeaderTimeout: c.HeaderTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// grace is how long calls may go on once the server is told to end: a change
// takes no longer, and would be finished by the next start if it did.
const grace = 10 * time.Second

// Serve answers on l, a unix listener, until ctx ends. Then it ends watchers,
// lets other calls finish, closes l and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer s.unwatch()
	var looking sync.WaitGroup
	if s.LookOut && s.Doctor != nil {
		looking.Go(func() { s.lookout.run(s.stop) })
	}
	defer looking.Wait()
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(newFairListener(l, maxConnections)) }()
	select {
	case err := <-ended:
		s.stopAll()
		s.CloseWeb()
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.stopAll()
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := s.shutDoor(late)
	if err = errors.Join(err, s.http.Shutdown(late)); err != nil {
		return errors.Join(fmt.Errorf("end the API: %w", err), s.http.Close())
	}
	return nil
}

func groupID(name string) int {
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1
	}
	return gid
}

func (s *Server) register() {
	s.registerStatus()
	s.registerTopology()
	s.registerNetworks()
	s.registerReservations()
	s.registerForwards()
	s.registerLive()
	s.registerPorts()
	s.registerDocument()
	s.registerChanges()
	s.registerEvents()
	s.registerLog()
	s.registerDoctor()
	s.registerAdvise()
	s.registerMetrics()
	s.registerCapture()
	s.registerWhy()
	s.registerWeb()
	s.mux.HandleFunc("GET /openapi.json", s.describe("application/openapi+json", func(spec *huma.OpenAPI) ([]byte, error) {
		return json.MarshalIndent(spec, "", "  ")
	}))
	s.mux.HandleFunc("GET /openapi.yaml", s.describe("application/openapi+yaml", (*huma.OpenAPI).YAML))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, &api.Problem{
			Status: http.StatusNotFound, Code: api.CodeNotFound,
			Detail: r.Method + " " + r.URL.Path + ": there is no such call; see /openapi.yaml",
		})
	})
}

// outermost numbers requests, limits bodies and what a browser may do, and lets
// nobody in who has no business here. The page itself has no secrets: it is what
// logs in.
func (s *Server) outermost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := s.runID + "-" + strconv.FormatUint(s.requests.Add(1), 10)
		harden(w.Header())
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("Cache-Control", "no-store")
		if _, known := r.Context().Value(peerKey{}).(Peer); !known {
			w = paced(w, slowest)
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := s.comesFromHere(r); err != nil {
			s.refuse(w, r, err)
			return
		}
		if s.Keys != nil && page.Has(r.URL.Path) {
			s.page.ServeHTTP(w, r)
			return
		}
		ctx := context.WithValue(r.Context(), requestKey{}, id)
		if isEntry(r) {
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		caller, err := s.admit(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		s.sayPending(w)
		ctx, leave := s.whileAdmitted(context.WithValue(ctx, callerKey{}, caller), r, caller)
		defer leave()
		if !reads(r) {
			ctx = txn.By(ctx, caller.actor())
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

type requestKey struct{}

func newRunID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
