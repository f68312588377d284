package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"drawbridge/internal/api"
)

// TestWhyOfAName asks for an end that is known to the resolver alone, and for one that is
// known to nobody.
func TestWhyOfAName(t *testing.T) {
	answers := everything()
	known := answers["GET /why"]
	answers["GET /why"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := known
		if to := r.URL.Query().Get("to"); to != "203.0.113.7" {
			w.WriteHeader(http.StatusNotFound)
			answer = &api.Problem{Status: 404, Code: api.CodeNotFound, Detail: "why: guest " + to + ": not found"}
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	d := startDaemon(t, answers)
	r := d.run(t, "", "why", "web", "www.example.com:443")
	if !strings.Contains(r.stdout, "note: www.example.com is 203.0.113.7 for this host's resolver\n") || r.code == ExitUsage {
		t.Errorf("%+v", r)
	}
	if last := d.asked[len(d.asked)-1]; len(d.asked) != 2 || !strings.Contains(last, "to=203.0.113.7") || !strings.Contains(last, "port=443") {
		t.Errorf("asked %q", d.asked)
	}
	r = d.run(t, "", "why", "web", "www.example.org:443")
	if r.code != ExitFailed || !strings.Contains(r.stderr, "guest www.example.org: not found") || len(d.asked) != 3 {
		t.Errorf("%+v, asked %q", r, d.asked)
	}
}
