package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/login"
	"drawbridge/internal/nettest"
	"drawbridge/internal/store"
	"drawbridge/internal/txn"
)

// site is a daemon with its page, and what a browser of ours has for it.
type site struct {
	t      *testing.T
	engine *fakeEngine
	client *api.Client
	socket string
	addr   string
	cookie *http.Cookie
	key    string
	dir    string
}

// startSite serves with a page, and logs a browser in.
func startSite(t *testing.T, dir string, edit func(*Config)) *site {
	t.Helper()
	nettest.Need(t, nettest.Root) // only root gets a link
	s := &site{t: t, engine: newFake(), dir: dir}
	s.engine.doc = s.engine.doc.With(network(t, "default"))
	records, err := store.OpenKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	keys, err := login.Open(records, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s.socket, s.client = serve(t, s.engine, func(c *Config) {
		c.Keys = keys
		if edit != nil {
			edit(c)
		}
	})
	s.enter(false)
	return s
}

// enter logs in by a new link.
func (s *site) enter(readOnly bool) {
	s.t.Helper()
	web, err := s.client.OpenWeb(s.t.Context(), api.WebRequest{Listen: "127.0.0.1:0", ReadOnly: readOnly})
	if s.addr != "" {
		web, err = s.client.OpenWeb(s.t.Context(), api.WebRequest{ReadOnly: readOnly})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = web.Address
	_, secret, _ := strings.Cut(web.Link, "#login=")
	resp, body := s.send(request{method: "POST", path: "/v1/session", body: `{"secret":"` + secret + `"}`, stranger: true})
	if resp.StatusCode != http.StatusOK || len(resp.Cookies()) != 1 {
		s.t.Fatalf("log in: %d %s", resp.StatusCode, body)
	}
	var in api.Entered
	if err := json.Unmarshal(body, &in); err != nil || in.Key == "" || in.ReadOnly != readOnly {
		s.t.Fatalf("log in: %s %v", body, err)
	}
	s.cookie, s.key = resp.Cookies()[0], in.Key
}

// request is what a browser sends, as the session unless it is a stranger.
type request struct {
	method, path, body string
	header             map[string]string
	host               string
	stranger           bool
	cookie             *http.Cookie
}

// send writes the request as it is given: a client of the library would clean
// what is to be tried.
func (s *site) send(r request) (*http.Response, []byte) {
	s.t.Helper()
	h := http.Header{"Host": {s.addr}, "Connection": {"close"}}
	if r.body != "" {
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(r.body)))
	}
	cookies := []string{}
	if !r.stranger {
		if cookies = append(cookies, s.cookie.Name+"="+s.cookie.Value); r.method != "GET" {
			h.Set(api.KeyHeader, s.key)
		}
	}
	if r.cookie != nil {
		cookies = append(cookies, r.cookie.Name+"="+r.cookie.Value)
	}
	if len(cookies) > 0 {
		h.Set("Cookie", strings.Join(cookies, "; "))
	}
	if r.host != "" {
		h.Set("Host", r.host)
	}
	for k, v := range r.header {
		h.Set(k, v)
	}
	conn := s.dial()
	defer conn.Close()
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\n", r.method, r.path)
	_ = h.Write(&text)
	go io.WriteString(conn, text.String()+"\r\n"+r.body) // what is refused may not be read to its end
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: r.method})
	if err != nil {
		s.t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil && resp.StatusCode < 400 {
		s.t.Fatal(err)
	}
	return resp, body
}

func (s *site) want(status int, r request) []byte {
	s.t.Helper()
	resp, body := s.send(r)
	if resp.StatusCode != status {
		s.t.Errorf("%s %s %v, host %q: %d, want %d\n%s", r.method, r.path, r.header, r.host, resp.StatusCode, status, body)
	}
	return body
}

// changes says how many changes reached the engine since it was last asked.
func (s *site) changes() int {
	var n int
	s.engine.set(func() { n = len(s.engine.asked); s.engine.asked = nil })
	return n
}

func TestBrowserLogsInAndChanges(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	s.want(200, request{method: "GET", path: "/v1/status"})
	s.want(200, request{method: "POST", path: "/v1/networks", body: `{"name":"lab"}`})
	var who string
	s.engine.set(func() { who = s.engine.by[0].String() })
	if !strings.HasPrefix(who, "page login ") || !strings.HasSuffix(who, " (root)") {
		t.Errorf("it was done by %q", who)
	}
	c := s.cookie
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.Secure || c.MaxAge <= 0 {
		t.Errorf("cookie is %+v", c)
	}
	// The cookie alone goes to every port of this host, so it may only read.
	s.key = ""
	s.want(401, request{method: "POST", path: "/v1/networks", body: `{"name":"lab2"}`})
	s.key = "wrong"
	s.want(401, request{method: "DELETE", path: "/v1/networks/lab"})
	if n := s.changes(); n != 1 {
		t.Errorf("%d changes were made", n)
	}
}

func TestEveryAnswerIsHardened(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	for _, r := range []request{
		{method: "GET", path: "/", stranger: true}, {method: "GET", path: "/page/nothing", stranger: true},
		{method: "GET", path: "/v1/status"}, {method: "GET", path: "/v1/status", stranger: true}, {method: "GET", path: "/v1/status", host: "evil.example"},
	} {
		resp, _ := s.send(r)
		h := resp.Header
		if h.Get("Content-Security-Policy") != contentPolicy || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" ||
			h.Get("X-Frame-Options") != "DENY" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %v", r.method, r.path, h)
		}
	}
	for _, must := range []string{"default-src 'none'", "frame-ancestors 'none'", "script-src 'self'"} {
		if !strings.Contains(contentPolicy, must) || strings.Contains(contentPolicy, "unsafe") {
			t.Errorf("the policy is %s", contentPolicy)
		}
	}
}

// A name that an attacker's DNS leads here makes a browser send our requests
// with his name: everything is refused, also the page.
func TestRebindingIsRefused(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	_, port, _ := net.SplitHostPort(s.addr)
	for _, host := range []string{
		"evil.example", "evil.example:" + port, "127.0.0.1.evil.example:" + port, "localhost.evil.example", "drawbridge", "drawbridge:" + port,
		"192.168.122.1:" + port, "0.0.0.0:" + port, "[::]:" + port, "localhost.:" + port, "127.0.0.1%25lo", "2130706433", "0x7f.1",
	} {
		s.want(421, request{method: "GET", path: "/v1/status", host: host})
		s.want(421, request{method: "GET", path: "/", host: host, stranger: true})
		s.want(421, request{method: "POST", path: "/v1/networks", body: `{"name":"lab"}`, host: host, header: map[string]string{"Origin": "http://" + host}})
	}
	for _, host := range []string{"localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.1:9000", "[::1]:9000", "127.8.9.1:1"} {
		s.want(200, request{method: "GET", path: "/v1/status", host: host}) // through ssh -L the port differs
	}
	if n := s.changes(); n != 0 {
		t.Errorf("%d changes were made", n)
	}
}

// The same by the unix socket, where ssh -L may carry a browser with root's
// rights.
func TestRebindingIsRefusedOnTheSocket(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.socket)
	}}}
	defer c.CloseIdleConnections()
	for _, v := range []struct {
		host, origin, site string
		status             int
	}{
		{"localhost:8420", "", "", 200}, {"localhost:8420", "http://localhost:8420", "same-origin", 200}, {"drawbridge", "", "", 200}, {"localhost:8420", "", "none", 200},
		{"evil.example:8420", "", "", 421}, {"evil.example:8420", "http://evil.example:8420", "", 421},
		{"localhost:8420", "http://evil.example", "", 403}, {"localhost:8420", "http://localhost:1", "same-site", 403}, {"localhost:8420", "null", "cross-site", 403},
		{"localhost:8420", "", "cross-site", 403},
	} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"} {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://x/v1/modes", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = v.host
			for k, h := range map[string]string{"Origin": v.origin, "Sec-Fetch-Site": v.site} {
				if h != "" {
					req.Header.Set(k, h)
				}
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if v.status == 200 && method != "GET" && method != "HEAD" {
				continue // there is no such call
			}
			if resp.StatusCode != v.status {
				t.Errorf("%s, host %s, origin %q, site %q: %d, want %d", method, v.host, v.origin, v.site, resp.StatusCode, v.status)
			}
		}
	}
}

func TestOtherSitesAreRefused(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	for _, h := range []map[string]string{
		{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
		{"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, {"Origin": "http://127.0.0.1:1"}, {"Sec-Fetch-Site": "bogus"}, {"Origin": "%"},
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			s.want(403, request{method: method, path: "/v1/networks/default", header: h})
		}
		s.want(403, request{method: "POST", path: "/v1/session", body: `{"secret":"x"}`, header: h, stranger: true})
		s.want(403, request{method: "GET", path: "/page/app.js", header: h, stranger: true})
	}
	own := map[string]string{"Origin": "http://" + s.addr, "Sec-Fetch-Site": "same-origin"}
	s.want(200, request{method: "PATCH", path: "/v1/networks/default", body: `{"settings":{"mtu":"1400"}}`, header: own})
	if n := s.changes(); n != 1 {
		t.Errorf("%d changes were made", n)
	}
	// A link in a mail may lead to the page, and to nothing else.
	lead := map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
	s.want(200, request{method: "GET", path: "/", header: lead, stranger: true})
	s.want(403, request{method: "GET", path: "/v1/status", header: lead})
	lead["Sec-Fetch-Dest"] = "iframe"
	s.want(403, request{method: "GET", path: "/", header: lead, stranger: true})
}

func TestSecretsThatOpenNothing(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	other := startSite(t, t.TempDir(), nil)
	if other.cookie.Name == s.cookie.Name {
		t.Errorf("two daemons have one cookie %s: on localhost each would log out the other", s.cookie.Name)
	}
	bad := func(name string, r request) {
		t.Helper()
		r.method, r.path, r.stranger = "GET", "/v1/status", true
		var p api.Problem
		if err := json.Unmarshal(s.want(401, r), &p); err != nil || p.Code != api.CodeLogin {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
	bad("nothing", request{})
	bad("another daemon's cookie", request{cookie: other.cookie})
	bad("another daemon's secret under our name", request{cookie: &http.Cookie{Name: s.cookie.Name, Value: other.cookie.Value}})
	bad("an empty cookie", request{cookie: &http.Cookie{Name: s.cookie.Name}})
	bad("the prefix that is for https", request{cookie: &http.Cookie{Name: "__Host-" + s.cookie.Name, Value: s.cookie.Value}})
	for _, header := range []string{"Bearer", "Bearer ", "Bearer wrong", "Bearer " + s.cookie.Value, "Basic cm9vdDpyb290", "Bearer drawbridge_" + s.key} {
		bad(header, request{header: map[string]string{"Authorization": header}})
	}
	// A wrong token is refused, whatever cookie comes with it.
	s.want(401, request{method: "GET", path: "/v1/status", header: map[string]string{"Authorization": "Bearer wrong"}})
	for _, secret := range []string{"", "wrong", s.cookie.Value, s.key, strings.Repeat("x", 257)} {
		status := 401
		if len(secret) > 256 {
			status = 422
		}
		s.want(status, request{method: "POST", path: "/v1/session", body: `{"secret":"` + secret + `"}`, stranger: true})
	}
}

func TestLinkIsUsedOnce(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	web, err := s.client.OpenWeb(t.Context(), api.WebRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(web.Link, "#login=")
	in := request{method: "POST", path: "/v1/session", body: `{"secret":"` + secret + `"}`, stranger: true}
	s.want(200, in)
	if body := s.want(401, in); !strings.Contains(string(body), "used already") {
		t.Errorf("the second time: %s", body)
	}
}

func TestReadOnlyMayLook(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	token, err := s.client.AddToken(t.Context(), api.TokenRequest{Name: "wall", ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	bearer := map[string]string{"Authorization": "Bearer " + token.Secret}
	try := func(stranger bool, h map[string]string) {
		t.Helper()
		for _, path := range []string{"/v1/status", "/v1/networks", "/v1/topology", "/v1/leases", "/v1/session", "/openapi.yaml"} {
			s.want(200, request{method: "GET", path: path, stranger: stranger, header: h})
		}
		for _, path := range []string{"/v1/tokens", "/v1/sessions", "/v1/captures", "/v1/captures/open"} {
			s.want(403, request{method: "GET", path: path, stranger: stranger, header: h})
		}
		for _, r := range []request{
			{method: "POST", path: "/v1/networks", body: `{"name":"lab"}`}, {method: "POST", path: "/v1/networks?dry_run=true", body: `{"name":"lab"}`},
			{method: "DELETE", path: "/v1/networks/default"}, {method: "POST", path: "/v1/down"}, {method: "POST", path: "/v1/ports", body: `{"network":"default"}`},
			{method: "POST", path: "/v1/changes/x/confirm"}, {method: "POST", path: "/v1/plan", body: `{}`}, {method: "DELETE", path: "/v1/web"},
			{method: "DELETE", path: "/v1/sessions/x"}, {method: "DELETE", path: "/v1/tokens/wall"}, {method: "POST", path: "/v1/tokens", body: `{"name":"x"}`},
			{method: "POST", path: "/v1/web", body: `{}`}, {method: "PUT", path: "/v1/status"}, {method: "POST", path: "/v1/captures/open", body: `{"target":"web"}`},
			{method: "POST", path: "/v1/doctor/fix", body: `{}`}, {method: "POST", path: "/v1/why/probe?from=host&to=lan"},
		} {
			r.stranger, r.header = stranger, h
			s.want(403, r)
		}
	}
	try(true, bearer)
	s.enter(true)
	try(false, nil)
	if n := s.changes(); n != 0 {
		t.Errorf("%d changes were made", n)
	}
	// On the socket too, where root would have all rights.
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.socket)
	}}}
	req, _ := http.NewRequestWithContext(t.Context(), "DELETE", "http://drawbridge/v1/networks/default", nil)
	req.Header.Set("Authorization", bearer["Authorization"])
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != 403 {
		t.Errorf("on the socket: %d", resp.StatusCode)
	}
}

func TestTokenMayChangeAndIsNamed(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	token, err := s.client.AddToken(t.Context(), api.TokenRequest{Name: "backup", LastingSecs: 3600})
	if err != nil || token.Until == nil {
		t.Fatal(token, err)
	}
	bearer := map[string]string{"Authorization": "Bearer " + token.Secret}
	s.want(200, request{method: "POST", path: "/v1/networks/default/stop", stranger: true, header: bearer})
	var who string
	s.engine.set(func() { who = s.engine.by[0].String() })
	if who != "token backup" {
		t.Errorf("it was done by %q", who)
	}
	s.want(200, request{method: "POST", path: "/v1/ports", body: `{"network":"default","guest":"g"}`, stranger: true, header: bearer})
	if s.engine.set(func() {}); s.engine.request.Owner != -1 {
		t.Errorf("a port made with a token belongs to uid %d", s.engine.request.Owner)
	}
	// What a secret let in makes no other secrets, and no descriptors go by TCP.
	s.want(403, request{method: "POST", path: "/v1/tokens", body: `{"name":"heir"}`, stranger: true, header: bearer})
	s.want(403, request{method: "POST", path: "/v1/web", body: `{}`})
	open := map[string]string{"Authorization": bearer["Authorization"], "Connection": "Upgrade", "Upgrade": api.FDProtocol}
	s.want(400, request{method: "POST", path: "/v1/ports/open", body: `{"network":"default"}`, stranger: true, header: open})
	if err := s.client.RemoveToken(t.Context(), "backup"); err != nil {
		t.Fatal(err)
	}
	s.want(401, request{method: "GET", path: "/v1/status", stranger: true, header: bearer})
}

func TestSessionSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	var cookie *http.Cookie
	var key string
	t.Run("before", func(t *testing.T) {
		s := startSite(t, dir, nil)
		cookie, key = s.cookie, s.key
	})
	s := startSite(t, dir, nil)
	s.cookie, s.key = cookie, key
	s.want(200, request{method: "PATCH", path: "/v1/networks/default", body: `{"settings":{"mtu":"1400"}}`})
	s.want(204, request{method: "DELETE", path: "/v1/session"})
	s.want(401, request{method: "GET", path: "/v1/status"})
}

// Logging out, or removing a token, ends what is being watched, at once.
func TestEventsEndWithTheLogin(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	token, err := s.client.AddToken(t.Context(), api.TokenRequest{Name: "wall", ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	watch := func(edit func(*http.Request)) *http.Response {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.addr+"/v1/events", nil)
		edit(req)
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
			t.Fatal(line, err)
		}
		return resp
	}
	byCookie := watch(func(r *http.Request) { r.AddCookie(s.cookie) })
	byToken := watch(func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token.Secret) })
	defer byCookie.Body.Close()
	defer byToken.Body.Close()
	sessions, err := s.client.Sessions(t.Context())
	if err != nil || len(sessions) != 1 {
		t.Fatal(sessions, err)
	}
	if err := s.client.EndSession(t.Context(), sessions[0].ID); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, byCookie.Body) // ends, or the test runs into its limit
	if err := s.client.RemoveToken(t.Context(), "wall"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, byToken.Body)
}

func TestPathTricks(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	for _, path := range []string{
		"/page/../v1/status", "/page/%2e%2e/v1/status", "//v1/status", "/v1//status", "/v1/./status", "/./", "/page/../../etc/passwd", "//evil.example/", "/v1/session/../status",
		"/page/..%2f..%2fv1%2fstatus", "/v1/ports/../networks",
	} {
		for _, method := range []string{"GET", "POST"} {
			resp, body := s.send(request{method: method, path: path, stranger: true})
			if resp.StatusCode != 400 || resp.Header.Get("Location") != "" {
				t.Errorf("%s %s: %d %s\n%s", method, path, resp.StatusCode, resp.Header.Get("Location"), body)
			}
		}
	}
	for path, status := range map[string]int{
		"/page/index.html": 404, "/page/": 404, "/page": 401, "/page/static/index.html": 404, "/page/%00": 404, "/page/x\\..\\y": 404, "/V1/status": 401, "/v1/session/": 401, "/v1/status%20": 401,
	} {
		s.want(status, request{method: "GET", path: path, stranger: true})
	}
	s.want(405, request{method: "POST", path: "/", stranger: true})
	s.want(405, request{method: "DELETE", path: "/", stranger: true})
	// An address in the request line counts as Host does, and is not written so here.
	conn := s.dial()
	defer conn.Close()
	fmt.Fprintf(conn, "GET http://evil.example/v1/status HTTP/1.1\r\nHost: %s\r\n\r\n", s.addr)
	if line, _ := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, " 421 ") {
		t.Errorf("an address in the request line: %q", line)
	}
}

func (s *site) dial() net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

func TestLargeAndSlowBrowsers(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	s.want(413, request{method: "POST", path: "/v1/session", body: `{"secret":"` + strings.Repeat("x", 5<<10) + `"}`, stranger: true})
	s.want(401, request{method: "POST", path: "/v1/apply", body: strings.Repeat("#", 1<<20), stranger: true})
	s.want(413, request{method: "POST", path: "/v1/networks", body: `{"name":"` + strings.Repeat("x", maxBody) + `"}`})
	big := s.dial()
	defer big.Close()
	_, _ = fmt.Fprintf(big, "GET / HTTP/1.1\r\nHost: %s\r\nX: %s\r\n\r\n", s.addr, strings.Repeat("x", 64<<10))
	if line, _ := bufio.NewReader(big).ReadString('\n'); !strings.Contains(line, " 431 ") {
		t.Errorf("a header of 64 KiB: %q", line)
	}
	// Headers that never end. Large bodies are not sent here: they take their time.
	s = startSite(t, t.TempDir(), func(c *Config) { c.HeaderTimeout = 50 * time.Millisecond })
	slow := s.dial()
	defer slow.Close()
	_, _ = io.WriteString(slow, "GET / HTTP/1.1\r\n")
	if _, err := io.Copy(io.Discard, slow); err != nil {
		t.Errorf("slow headers: %v", err)
	}
	// A body that never ends, from somebody who is in and from somebody who is not.
	for _, cookie := range []string{"", s.cookie.Name + "=" + s.cookie.Value} {
		half := s.dial()
		defer half.Close()
		_, _ = fmt.Fprintf(half, "POST /v1/session HTTP/1.1\r\nHost: %s\r\nCookie: %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", s.addr, cookie)
		if _, err := io.Copy(io.Discard, half); err != nil {
			t.Errorf("half a body: %v", err)
		}
	}
	s.want(200, request{method: "GET", path: "/v1/status"})
}

// A browser that takes no answer in is given up.
func TestAnswersThatAreNotRead(t *testing.T) {
	ended := make(chan error, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		out, text := paced(w, 50*time.Millisecond), make([]byte, 1<<20)
		for range 1000 {
			if _, err := out.Write(text); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing a gigabyte to nobody: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bounded := newBoundedListener(l, 2)
	accepted := make(chan net.Conn, 8)
	go func() {
		for {
			c, err := bounded.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	dial()
	one, two := <-accepted, <-accepted
	third := dial()
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection was taken")
	}
	one.Close()
	one.Close() // a second time gives no second place
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a place was given back twice")
	}
	two.Close()
}

// What guests and people choose goes into headers only as JSON.
func TestHeadersCannotBeInjected(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	s.engine.set(func() {
		s.engine.view.Changes = []txn.Txn{{ID: "c0ffee01", Title: "a\r\nSet-Cookie: evil=1\r\n\r\n<script>é", Phase: txn.Waiting, Within: 1}}
	})
	resp, _ := s.send(request{method: "GET", path: "/v1/modes"})
	var p api.Pending
	if err := json.Unmarshal([]byte(resp.Header.Get(api.PendingHeader)), &p); err != nil || !strings.HasPrefix(p.Title, "a\r\nSet-Cookie") {
		t.Errorf("header is %q, %v", resp.Header.Get(api.PendingHeader), err)
	}
	if len(resp.Cookies()) != 0 {
		t.Errorf("cookies are %v", resp.Cookies())
	}
	for _, path := range []string{"/v1/networks/a%0d%0aSet-Cookie:%20evil=1", "/x%0d%0aSet-Cookie:%20evil=1"} {
		if resp, _ := s.send(request{method: "GET", path: path}); len(resp.Cookies()) != 0 {
			t.Errorf("%s: %v", path, resp.Header)
		}
	}
}

// Behind a proxy that speaks https the cookie has the strictest form.
func TestOriginOfAProxy(t *testing.T) {
	u, err := ParseOrigin("https://kvm1.example.com")
	if err != nil {
		t.Fatal(err)
	}
	s := startSite(t, t.TempDir(), func(c *Config) { c.Web.Origins = []*url.URL{u} })
	web, err := s.client.OpenWeb(t.Context(), api.WebRequest{})
	if err != nil || !strings.HasPrefix(web.Link, "https://kvm1.example.com/#login=") {
		t.Fatal(web, err)
	}
	_, secret, _ := strings.Cut(web.Link, "#login=")
	own := map[string]string{"Origin": "https://kvm1.example.com", "Sec-Fetch-Site": "same-origin"}
	resp, body := s.send(request{method: "POST", path: "/v1/session", body: `{"secret":"` + secret + `"}`, host: "kvm1.example.com", header: own, stranger: true})
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	c := resp.Cookies()[0]
	if !c.Secure || !strings.HasPrefix(c.Name, "__Host-drawbridge-") || c.Domain != "" || c.Path != "/" {
		t.Errorf("cookie is %+v", c)
	}
	s.want(200, request{method: "GET", path: "/v1/status", host: "kvm1.example.com", stranger: true, cookie: c})
	s.want(401, request{method: "GET", path: "/v1/status", stranger: true, cookie: c}) // not by plain http
	for _, bad := range []string{"kvm1", "https://", "ftp://x", "https://a/b", "https://u@a", "https://a?b"} {
		if _, err := ParseOrigin(bad); err == nil {
			t.Errorf("%q is an origin", bad)
		}
	}
}

func TestWhereThePageMayBe(t *testing.T) {
	for listen, ok := range map[string]bool{
		"127.0.0.1:8420": true, "[::1]:8420": true, "127.1.2.3:0": true, "[::ffff:127.0.0.1]:80": true,
		"0.0.0.0:8420": false, "[::]:8420": false, "192.168.1.1:8420": false, ":8420": false, "localhost:8420": false, "127.0.0.1": false, "": false,
	} {
		if err := CheckListen(listen, false); (err == nil) != ok {
			t.Errorf("%q: %v", listen, err)
		}
	}
	if err := CheckListen("0.0.0.0:8420", true); err != nil {
		t.Error(err)
	}
	s := startSite(t, t.TempDir(), nil)
	_, err := s.client.OpenWeb(t.Context(), api.WebRequest{Listen: "0.0.0.0:0"})
	isProblem(t, err, 422, api.CodeInvalid, "can be reached by others")
	if web, err := s.client.Web(t.Context()); err != nil || web.Address != s.addr {
		t.Errorf("afterwards it is at %+v, %v", web, err)
	}
	if err := s.client.CloseWeb(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			break
		}
		if c.Close(); time.Now().After(deadline) {
			t.Fatal("the page is still on")
		}
	}
}
