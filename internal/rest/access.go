package rest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/login"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// adminGroup is the group whose members may do everything.
const adminGroup = "drawbridge"

// caller is who asks, and what he may.
type caller struct {
	peer  Peer
	admin bool
	// name of the user, for those who are no admin; "uid N" if it has none.
	name string
	// networks on which a user that is no admin may have ports.
	networks []spec.NetworkName
	// readOnly callers may only look.
	readOnly bool
	// known says who it is, where the kernel does not: "token NAME", "page login
	// ID (WHO)".
	known string
	// session of a browser, "" for others; token that let somebody in.
	session login.Session
	token   string
	// until is when what let him in ends; zero: never.
	until time.Time
}

// who is how the caller is written beside what he does; "" for root and the
// group.
func (c caller) who() string { return cmp.Or(c.known, c.name) }

// granted is who asked for the right to come in, as it is kept with it.
func (c caller) granted() string { return userName(c.peer.UID) }

// actor is the caller as the record names him.
func (c caller) actor() txn.Actor {
	switch {
	case c.session.ID != "":
		return txn.Actor{Kind: txn.ByPage, Name: strings.TrimPrefix(c.known, "page ")}
	case c.token != "":
		return txn.Actor{Kind: txn.ByToken, Name: strings.TrimPrefix(c.known, "token ")}
	}
	a := txn.Actor{Kind: txn.ByUser, Name: c.name, UID: c.peer.UID, PID: int(c.peer.PID)}
	if a.Name == "" {
		a.Name = userName(c.peer.UID)
	}
	if comm, err := os.ReadFile("/proc/" + strconv.Itoa(a.PID) + "/comm"); err == nil && a.PID > 0 {
		a.Process = strings.TrimSpace(string(comm))
	}
	return a
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// admit says who asks and refuses those who may not. A token counts wherever it
// comes from; else the kernel says who is at the other end of the unix socket,
// and a session's cookie by TCP.
func (s *Server) admit(r *http.Request) (caller, error) {
	if r.Header.Get("Authorization") != "" {
		return s.admitToken(r)
	}
	if peer, known := r.Context().Value(peerKey{}).(Peer); known {
		return s.admitPeer(r, peer)
	}
	return s.admitBrowser(r)
}

// admitPeer lets root and the group do everything, a user that some network's
// allow-users names read everything and plug and unplug ports, and nobody else
// in. What exactly such a user may plug is checked where the network is known.
func (s *Server) admitPeer(r *http.Request, peer Peer) (caller, error) {
	c := caller{peer: peer, admin: peer.UID == 0 || peer.In(s.adminGID)}
	if c.admin {
		return c, nil
	}
	c.name = userName(peer.UID)
	doc := s.Engine.Document()
	for _, name := range doc.Names() {
		if slices.Contains(doc.Networks[name].AllowUsers, c.name) {
			c.networks = append(c.networks, name)
		}
	}
	switch {
	case len(c.networks) == 0:
		return c, forbidden("%s may not use drawbridge here: use sudo%s, or be named in a network's allow-users", c.name, s.joinGroup(c.name))
	case secret(r):
		return c, forbidden("%s may not see who is let in, nor what guests send: use sudo", c.name)
	case reads(r) || below(r, "/ports"):
		return c, nil
	}
	return c, forbidden("%s may read, and plug and unplug ports of his own on %s, but not change networks: use sudo", c.name, spell(c.networks))
}

// admitToken lets in whoever knows a token's secret (RFC 6750).
func (s *Server) admitToken(r *http.Request) (caller, error) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || s.Keys == nil {
		return caller{}, loginProblem("send a token as Authorization: Bearer TOKEN; \"drawbridge token add\" makes one")
	}
	t, err := s.Keys.Token(strings.TrimSpace(key))
	if errors.Is(err, login.ErrUnknown) {
		return caller{}, loginProblem("that token is not known here, or no longer good; see drawbridge token ls")
	}
	if err != nil {
		return caller{}, err
	}
	c := caller{admin: true, readOnly: t.ReadOnly, known: "token " + t.Name, token: t.ID, peer: Peer{UID: nobodyUID, GID: nobodyUID}}
	if t.Until != nil {
		c.until = *t.Until
	}
	return c, c.mayAsk(r)
}

// admitBrowser lets in whoever has a session's cookie, and lets only those
// change something who know the session's second secret too.
func (s *Server) admitBrowser(r *http.Request) (caller, error) {
	session, err := s.sessionOf(r)
	if err != nil {
		return caller{}, err
	}
	c := caller{
		admin: true, readOnly: session.ReadOnly, known: "page login " + session.ID + " (" + session.By + ")", session: session,
		token: session.Token, until: session.Until(), peer: Peer{UID: nobodyUID, GID: nobodyUID},
	}
	if !reads(r) && !session.Holds(r.Header.Get(api.KeyHeader)) {
		return c, loginProblem("this browser may only look, as its key is gone: log in again with a new link from \"sudo drawbridge web\"")
	}
	return c, c.mayAsk(r)
}

// nobodyUID stands for those that the kernel does not know: it is never root.
const nobodyUID = 65534

// mayAsk is what those may who were let in by a secret: everything but letting
// others in, which would make them outlive their own secret; read-only ones look
// at networks and at nothing else.
func (c caller) mayAsk(r *http.Request) error {
	switch {
	case grants(r):
		return forbidden("only root and the group may let others in, on the host itself: use sudo drawbridge")
	case !c.readOnly || ownSession(r):
		return nil
	case secret(r) || !reads(r):
		return forbidden("%s may only look", c.known)
	}
	return nil
}

func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// grants tells calls that make keys from others.
func grants(r *http.Request) bool {
	return r.Method == http.MethodPost && (below(r, "/web") || below(r, "/tokens"))
}

// secret tells calls that read more than the state of networks from others: who
// is let in, and what guests send.
func secret(r *http.Request) bool {
	return below(r, "/tokens") || below(r, "/sessions") || below(r, "/captures")
}

// ownSession is the caller's own login, which everybody may look at and end.
func ownSession(r *http.Request) bool { return r.URL.Path == "/"+api.Version+"/session" }

// below tells whether a call is path, without the version, or further down.
func below(r *http.Request, path string) bool {
	path = "/" + api.Version + path
	return r.URL.Path == path || strings.HasPrefix(r.URL.Path, path+"/")
}

func loginProblem(detail string) error {
	return &api.Problem{Status: http.StatusUnauthorized, Code: api.CodeLogin, Detail: detail}
}

// joinGroup says how to become a member of the group, where there is one.
func (s *Server) joinGroup(user string) string {
	if s.adminGID < 0 {
		return ""
	}
	return fmt.Sprintf(", have root run \"usermod -aG %s %s\" and log in again", s.AdminGroup, user)
}

// mayPlug checks whether the caller may have ports on a network.
func (c caller) mayPlug(n spec.NetworkName) error {
	if c.admin || slices.Contains(c.networks, n) {
		return nil
	}
	return forbidden("%s may not plug into network %q: it is not among its allow-users; root can run \"drawbridge network set %s allow-users=%s\"", c.name, n, n, c.name)
}

// owns checks whether the caller may unplug a port that belongs to a user id.
func (c caller) owns(tap string, n spec.NetworkName, owner int) error {
	if c.admin {
		return nil
	}
	if int64(owner) != int64(c.peer.UID) {
		return forbidden("port %s does not belong to %s", tap, c.name)
	}
	return c.mayPlug(n)
}

func forbidden(format string, args ...any) error {
	return &api.Problem{Status: http.StatusForbidden, Code: api.CodeForbidden, Detail: fmt.Sprintf(format, args...)}
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id // no user name has a space: it never matches
}

func spell(names []spec.NetworkName) string {
	var out []string
	for _, n := range names {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}
