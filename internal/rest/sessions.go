package rest

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"drawbridge/internal/api"
	"drawbridge/internal/login"
	"drawbridge/internal/spec"
)

// cookieName differs from daemon to daemon: cookies belong to a host name, not
// to a port, and two hosts' daemons may both be carried to localhost.
//
// The prefix __Host- and the attribute Secure are for origins with https. On
// plain http some browsers keep no such cookie even for loopback, and what the
// prefix is against, another host of the same domain that sets the cookie, there
// is not on localhost.
func (s *Server) cookieName(r *http.Request) string {
	name := "drawbridge-" + s.Keys.ID()
	if s.encrypted(r) {
		return "__Host-" + name
	}
	return name
}

// encrypted says whether the browser speaks https, to a proxy before us.
func (s *Server) encrypted(r *http.Request) bool {
	u := s.originOf(r)
	return u != nil && u.Scheme == "https"
}

// sessionOf finds the session of a request by its cookie.
func (s *Server) sessionOf(r *http.Request) (login.Session, error) {
	if s.Keys == nil {
		return login.Session{}, forbidden("there is no page here")
	}
	for _, c := range r.CookiesNamed(s.cookieName(r)) {
		session, err := s.Keys.Session(c.Value)
		if err == nil {
			return session, nil
		}
		if !errors.Is(err, login.ErrUnknown) {
			return login.Session{}, err
		}
	}
	return login.Session{}, loginProblem("log in with a link from \"sudo drawbridge web\", or with a token")
}

// whileAdmitted ends what is only read, such as events, when the login or token
// ends by which it was asked for. Changes under way are carried through.
func (s *Server) whileAdmitted(ctx context.Context, r *http.Request, c caller) (context.Context, func()) {
	id := cmp.Or(c.session.ID, c.token)
	if id == "" || !reads(r) {
		return ctx, func() {}
	}
	until := c.until
	if until.IsZero() {
		until = s.Now().Add(longestRead)
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	leave := s.Keys.Follow(id, cancel)
	return ctx, func() { leave(); cancel() }
}

// longestRead ends what is read with a token that never ends; who reads events
// begins anew.
const longestRead = 24 * time.Hour

// isEntry is the one call that is for those who are not in yet.
func isEntry(r *http.Request) bool { return r.Method == http.MethodPost && ownSession(r) }

type entering struct {
	Body api.Entry
	r    *http.Request
}

// Resolve keeps the request: the library calls it before the call itself.
func (in *entering) Resolve(c huma.Context) []error {
	in.r, _ = humago.Unwrap(c)
	return nil
}

type entered struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      api.Entered
}

func (s *Server) registerWeb() {
	s.registerEntry()
	handle(s, s.operation("get-web", http.MethodGet, "/web", "Where the page is"),
		func(context.Context, *struct{}) (api.Web, error) { return s.web(), nil })
	type open struct{ Body api.WebRequest }
	handle(s, s.operation("open-web", http.MethodPost, "/web", "Turn the page on and make a login link; for root and the group, on the unix socket"),
		func(ctx context.Context, in *open) (api.Web, error) { return s.openWeb(ctx, in.Body) })
	handleNothing(s, s.operation("close-web", http.MethodDelete, "/web", "Turn the page off"),
		func(ctx context.Context, _ *struct{}) error {
			if err := s.keyed(); err != nil {
				return err
			}
			if err := s.Keys.SetListen(""); err != nil {
				return err
			}
			// Not before this call, which may come from the page, is answered.
			context.AfterFunc(ctx, s.CloseWeb)
			return nil
		})
	s.registerSessions()
	s.registerTokens()
}

// keyed refuses calls about logins where there are none.
func (s *Server) keyed() error {
	if s.Keys == nil {
		return newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "logins are kept by the daemon, which does not run")
	}
	return nil
}

func (s *Server) web() api.Web {
	out := api.Web{Address: s.WebAddress()}
	if out.Address != "" {
		out.URL = "http://" + out.Address + "/"
	}
	for _, u := range s.Web.Origins {
		out.URL = u.Scheme + "://" + u.Host + "/"
		break
	}
	return out
}

func (s *Server) openWeb(ctx context.Context, in api.WebRequest) (api.Web, error) {
	if err := s.keyed(); err != nil {
		return api.Web{}, err
	}
	if listen := cmp.Or(in.Listen, s.WebAddress(), s.Web.Listen, api.DefaultListen); listen != s.WebAddress() {
		at, err := s.OpenWeb(listen)
		if err != nil {
			return api.Web{}, err
		}
		if err := s.Keys.SetListen(at); err != nil {
			return api.Web{}, err
		}
		s.Log.Info("the page is served", "listen", at, "who", callerOf(ctx).granted())
	}
	secret, until, err := s.Keys.Link(callerOf(ctx).granted(), in.ReadOnly)
	if err != nil {
		return api.Web{}, problemOfKeys(err)
	}
	out := s.web()
	// What follows the # is not sent by browsers, so no log and no proxy has it.
	out.Link, out.LinkUntil = out.URL+"#login="+secret, &until
	return out, nil
}

func (s *Server) registerEntry() {
	op := s.operation("log-in", http.MethodPost, "/session", "Turn the secret of a login link, or a token, into a session of this browser")
	op.MaxBodyBytes = 4 << 10
	huma.Register(s.huma, op, func(ctx context.Context, in *entering) (*entered, error) {
		out, err := s.enter(in)
		if err != nil {
			return nil, s.failed(ctx, op, err)
		}
		return out, nil
	})
	handle(s, s.operation("get-self", http.MethodGet, "/session", "Who asks, and what he may"),
		func(ctx context.Context, _ *struct{}) (api.Self, error) { return s.self(callerOf(ctx)), nil })
	huma.Register(s.huma, s.endOperation(), func(ctx context.Context, in *leaving) (*left, error) {
		c := callerOf(ctx)
		if c.session.ID == "" {
			return nil, newProblem(http.StatusBadRequest, api.CodeBadRequest, "there is no login to end: the kernel says who you are")
		}
		if err := s.Keys.EndSession(c.session.ID); err != nil && !errors.Is(err, login.ErrNotFound) {
			return nil, problemOf(err)
		}
		gone := s.cookie(in.r, "")
		gone.MaxAge = -1
		return &left{SetCookie: gone}, nil
	})
}

type leaving struct{ r *http.Request }

// Resolve keeps the request.
func (in *leaving) Resolve(c huma.Context) []error {
	in.r, _ = humago.Unwrap(c)
	return nil
}

type left struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
}

func (s *Server) endOperation() huma.Operation {
	op := s.operation("log-out", http.MethodDelete, "/session", "End the session of this browser")
	op.DefaultStatus = http.StatusNoContent
	return op
}

func (s *Server) enter(in *entering) (*entered, error) {
	if err := s.keyed(); err != nil {
		return nil, err
	}
	session, cookie, key, err := s.Keys.Enter(in.Body.Secret, in.r.UserAgent())
	switch {
	case errors.Is(err, login.ErrUsed):
		return nil, loginProblem("this link was used already; \"sudo drawbridge web\" makes a new one")
	case errors.Is(err, login.ErrUnknown):
		return nil, loginProblem("this link or token is not known here, or no longer good; \"sudo drawbridge web\" makes a new link")
	case err != nil:
		return nil, err
	}
	s.Log.Info("a browser logged in", "session", session.ID, "by", session.By, "read-only", session.ReadOnly)
	c := caller{readOnly: session.ReadOnly, known: "page login " + session.ID + " (" + session.By + ")", session: session}
	return &entered{SetCookie: s.cookie(in.r, cookie), Body: api.Entered{Key: key, Self: s.self(c)}}, nil
}

// cookie lives as long as a session may: the daemon decides when it ends.
func (s *Server) cookie(r *http.Request, value string) http.Cookie {
	return http.Cookie{
		Name: s.cookieName(r), Value: value, Path: "/", HttpOnly: true, Secure: s.encrypted(r),
		SameSite: http.SameSiteStrictMode, MaxAge: int((400 * 24 * time.Hour).Seconds()), // the most that browsers keep (RFC 6265bis, section 5.5)
	}
}

func (s *Server) self(c caller) api.Self {
	out := api.Self{Who: c.who(), ReadOnly: c.readOnly || !c.admin && c.session.ID == "", Session: c.session.ID}
	out.Host, _ = os.Hostname() // "" is shown as nothing
	if out.Who == "" {
		out.Who = userName(c.peer.UID)
	}
	if c.session.ID != "" {
		until := c.session.Until()
		out.Until = &until
	}
	return out
}

func (s *Server) registerSessions() {
	handle(s, s.operation("list-sessions", http.MethodGet, "/sessions", "The browsers that are logged in"),
		func(context.Context, *struct{}) ([]api.Session, error) {
			if err := s.keyed(); err != nil {
				return nil, err
			}
			out := []api.Session{}
			for _, k := range s.Keys.Sessions() {
				out = append(out, api.Session{ID: k.ID, By: k.By, ReadOnly: k.ReadOnly, Made: k.Made, Used: k.Used, Until: k.Until(), Browser: k.From})
			}
			return out, nil
		})
	handleNothing(s, s.operation("end-session", http.MethodDelete, "/sessions/{id}", "Log a browser out"),
		func(_ context.Context, in *struct {
			ID string `path:"id" maxLength:"64"`
		}) error {
			if err := s.keyed(); err != nil {
				return err
			}
			return problemOfKeys(s.Keys.EndSession(in.ID))
		})
}

func (s *Server) registerTokens() {
	handle(s, s.operation("list-tokens", http.MethodGet, "/tokens", "The tokens, without their secrets"),
		func(context.Context, *struct{}) ([]api.Token, error) {
			if err := s.keyed(); err != nil {
				return nil, err
			}
			out := []api.Token{}
			for _, t := range s.Keys.Tokens() {
				out = append(out, tokenOf(t))
			}
			return out, nil
		})
	type add struct{ Body api.TokenRequest }
	handle(s, s.operation("add-token", http.MethodPost, "/tokens", "Make a token for a script or a wall screen; for root and the group, on the unix socket"),
		func(ctx context.Context, in *add) (api.Token, error) {
			if err := s.keyed(); err != nil {
				return api.Token{}, err
			}
			t, secret, err := s.Keys.AddToken(in.Body.Name, in.Body.ReadOnly, time.Duration(in.Body.LastingSecs)*time.Second, callerOf(ctx).granted())
			if err != nil {
				return api.Token{}, problemOfKeys(err)
			}
			s.Log.Info("token made", "name", t.Name, "read-only", t.ReadOnly, "by", t.By)
			out := tokenOf(t)
			out.Secret = secret
			return out, nil
		})
	handleNothing(s, s.operation("remove-token", http.MethodDelete, "/tokens/{name}", "Make a token worthless, and end the sessions that it opened"),
		func(_ context.Context, in *struct {
			Name string `path:"name" maxLength:"64"`
		}) error {
			if err := s.keyed(); err != nil {
				return err
			}
			return problemOfKeys(s.Keys.RemoveToken(in.Name))
		})
}

func tokenOf(t login.Token) api.Token {
	return api.Token{Name: t.Name, ReadOnly: t.ReadOnly, By: t.By, Made: t.Made, Until: t.Until}
}

// problemOfKeys has the kinds that the table of problems knows.
func problemOfKeys(err error) error {
	for of, kind := range map[error]error{login.ErrNotFound: spec.ErrNotFound, login.ErrExists: spec.ErrExists, login.ErrFull: spec.ErrInUse} {
		if errors.Is(err, of) {
			return &keyError{err, kind}
		}
	}
	return err
}

// keyError is an error of package login with its kind.
type keyError struct{ cause, kind error }

func (e *keyError) Error() string   { return e.cause.Error() }
func (e *keyError) Unwrap() []error { return []error{e.cause, e.kind} }
