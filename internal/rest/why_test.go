package rest

import (
	"net/http"
	"strings"
	"testing"

	"drawbridge/internal/api"
)

// A path is drawn beside the answer, and as a file for browsers.
func TestPathsAreDrawn(t *testing.T) {
	s := startSite(t, t.TempDir(), nil)
	p, err := s.client.Why(t.Context(), api.WhyRequest{From: "lan", To: "web", Port: 80, Draw: true})
	if err != nil || !strings.HasPrefix(p.Drawing, "<svg ") || !strings.Contains(p.Drawing, ">web:80<") || !strings.Contains(p.Drawing, "dropped by ufw") {
		t.Fatalf("%v: %s", err, p.Drawing)
	}
	if p.Steps[0].Place != "route" || p.Steps[1].Place != "chain" {
		t.Errorf("steps are %+v", p.Steps)
	}
	if plain, err := s.client.Why(t.Context(), api.WhyRequest{From: "lan", To: "web", Port: 80}); err != nil || plain.Drawing != "" {
		t.Errorf("not asked for: %v %q", err, plain.Drawing)
	}
	resp, body := s.send(request{method: "GET", path: "/v1/why/picture?from=lan&to=web&port=80"})
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "image/svg+xml; charset=utf-8" || string(body) != p.Drawing {
		t.Errorf("%d %s %s", resp.StatusCode, resp.Header, body)
	}
	s.want(http.StatusUnauthorized, request{method: "GET", path: "/v1/why/picture?from=lan&to=web", stranger: true})
	s.want(http.StatusNotFound, request{method: "GET", path: "/v1/why/picture?from=lan&to=nobody"})
	s.want(http.StatusUnprocessableEntity, request{method: "GET", path: "/v1/why/picture?from=lan&to=web&width=99999"})
	s.enter(true)
	s.want(http.StatusOK, request{method: "GET", path: "/v1/why/picture?from=lan&to=web&width=360"})
	s.want(http.StatusOK, request{method: "GET", path: "/v1/why?from=lan&to=web&draw=svg"})
}
