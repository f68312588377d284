package rest

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"drawbridge/internal/api"
)

// contentPolicy lets the page load from its own origin and from nowhere else,
// run no script that is written into a document, be framed by nobody, and, in
// browsers that know trusted types, never make a document of a string.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// harden sets what every answer says to browsers.
func harden(h http.Header) {
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
}

// socketHost is what our client calls the daemon.
const socketHost = "drawbridge"

// comesFromHere refuses what a page of somebody else makes a browser send. It
// looks at every request, whatever socket it comes by: ssh can carry a browser's
// to the unix socket, with the rights of whoever ssh ran as.
//
// A name that leads here only because its owner says so in DNS (rebinding) is in
// Host. The origin of the page that asks is in Origin or Sec-Fetch-Site; browsers
// leave both out of a GET to a name that is not this host's own, which Host
// catches.
func (s *Server) comesFromHere(r *http.Request) error {
	if !s.isOurs(r) {
		return &api.Problem{
			Status: http.StatusMisdirectedRequest, Code: api.CodeForbidden,
			Detail: fmt.Sprintf("%q is not a name of this daemon: use localhost or the address, or start it with --web-origin", r.Host),
		}
	}
	if r.URL.Path != cleanPath(r.URL.Path) || r.URL.IsAbs() || r.URL.Path == "*" {
		return newProblem(http.StatusBadRequest, api.CodeBadRequest, "that is not how a path is written here")
	}
	if s.csrf.Check(r) != nil || !sameOrigin(r) {
		return forbidden("requests from other sites are not answered")
	}
	return nil
}

func cleanPath(p string) string {
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		return clean + "/"
	}
	return clean
}

// sameOrigin is stricter than the library, which lets every GET pass: another
// site may lead a person to the page itself, and do nothing else.
func sameOrigin(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return false
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return true
	}
	return r.URL.Path == "/" && r.Method == http.MethodGet &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

// isOurs says whether Host is a name that only we can have: a loopback name, the
// address that the connection came to, or what the daemon was told to be called.
func (s *Server) isOurs(r *http.Request) bool {
	if r.Host == "" {
		return false
	}
	if s.originOf(r) != nil {
		return true
	}
	name, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(r.Host, "["), "]")
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if _, unix := local.(*net.UnixAddr); unix && name == socketHost {
		return true
	}
	addr, err := netip.ParseAddr(name)
	if err != nil || addr.Zone() != "" {
		return false
	}
	tcp, ok := local.(*net.TCPAddr)
	return addr.IsLoopback() || ok && addr == tcp.AddrPort().Addr().Unmap()
}

// originOf is the one of --web-origin that a request came to, or nil.
func (s *Server) originOf(r *http.Request) *url.URL {
	i := slices.IndexFunc(s.Web.Origins, func(u *url.URL) bool { return strings.EqualFold(u.Host, r.Host) })
	if i < 0 {
		return nil
	}
	return s.Web.Origins[i]
}

// ParseOrigin reads an origin such as https://kvm1.example.com.
func ParseOrigin(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not an origin such as https://kvm1.example.com", text)
	}
	return u, nil
}
