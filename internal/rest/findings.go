package rest

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/diagnose"
	"drawbridge/internal/topology"
)

// lookout has at hand what doctor finds, so that no picture waits for it. It looks
// again after events, when it is stirred, and every now and then for what nobody tells;
// in between it rests for long enough to cost next to nothing.
type lookout struct {
	look   func(context.Context) ([]diagnose.Finding, error)
	now    func() time.Time
	wake   chan struct{}
	latest atomic.Pointer[sight]
	// gather, least and most are the constants below; tests have shorter ones.
	gather, least, most time.Duration
}

// sight is what one look saw.
type sight struct {
	at    time.Time
	found []diagnose.Finding
}

const (
	// gatherTime is how long what comes with an event is waited for.
	gatherTime = 300 * time.Millisecond
	// leastRest is between two looks, and restShare times what the last one took: of a
	// busy host's time a thirtieth is spent. One that waited for a change to be over
	// took long and did little: longestRest is the most.
	leastRest   = 2 * time.Second
	restShare   = 30
	longestRest = 10 * time.Second
	// mostRest is how old a sight gets without a word.
	mostRest = time.Minute
)

func newLookout(look func(context.Context) ([]diagnose.Finding, error), now func() time.Time) *lookout {
	l := &lookout{look: look, now: now, wake: make(chan struct{}, 1), gather: gatherTime, least: leastRest, most: mostRest}
	l.latest.Store(&sight{})
	return l
}

// Stir says that something on the host may be different of which no event tells. It
// never waits.
func (s *Server) Stir() { s.lookout.stir() }

// stir has it look again, once it has rested.
func (l *lookout) stir() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run looks until ctx ends. A look that fails leaves what was known.
func (l *lookout) run(ctx context.Context) {
	pause := func(d time.Duration) { // d, or until it is stirred
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-time.After(d):
		}
	}
	rest := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for rest(l.gather); ctx.Err() == nil; rest(l.gather) {
		select {
		case <-l.wake: // seen by this look
		default:
		}
		began := time.Now()
		if found, err := l.look(ctx); err == nil {
			l.latest.Store(&sight{l.now(), found})
		}
		rest(max(l.least, min(restShare*time.Since(began), longestRest)))
		pause(l.most)
	}
}

// sight is what was seen last; the zero time if nothing was yet.
func (l *lookout) sight() sight { return *l.latest.Load() }

// findings are those of the last look, as pictures show them.
func (s *Server) findings() []topology.Finding {
	var out []topology.Finding
	for _, x := range s.lookout.sight().found {
		out = append(out, topology.Finding{
			ID: findingID(x), Code: string(x.Code), Severity: topology.Severity(x.Severity),
			Guest: x.About.Guest, Link: x.About.Link, Network: string(x.About.Network),
			Text: x.Seen, Fix: cmp.Or(x.Fix.Command, x.Fix.Advice), Automatic: x.Fix.Automatic(),
		})
	}
	return out
}

// findingID names a finding from one look to the next: what was seen may change its
// words.
func findingID(x diagnose.Finding) string {
	id := string(x.Code)
	if name := cmp.Or(x.About.Guest, x.About.Link, string(x.About.Network)); name != "" {
		id += ":" + name
	}
	return id
}

func findingsOf(list []topology.Finding) []api.Finding {
	var out []api.Finding
	for _, f := range list {
		out = append(out, api.Finding{ID: f.ID, Code: f.Code, Severity: string(f.Severity), Text: f.Text, Fix: f.Fix, Automatic: f.Automatic})
	}
	return out
}
