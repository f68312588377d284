package rest

import (
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
)

// heartbeat is how often a watcher hears something, so that either side notices
// when the other is gone.
const heartbeat = 15 * time.Second

// errTooSlow ends a listener that is further behind than events are kept.
var errTooSlow = errors.New("the listener does not keep up")

// eventQuery is which events a listener wants.
type eventQuery struct {
	Network     string   `query:"network" doc:"Only events of this network"`
	Kind        []string `query:"kind" nullable:"false" doc:"Only events of these kinds, by comma"`
	Since       string   `query:"since" doc:"Go on after the event with this id, or from this time on (RFC 3339), as far as events are kept"`
	LastEventID string   `header:"Last-Event-ID" doc:"As since; browsers send it when they connect again"`
}

func (q eventQuery) check() error {
	for _, k := range q.Kind {
		if !slices.Contains(engine.EventKinds, engine.EventKind(k)) {
			return &spec.InvalidError{Field: "kind", Reason: "there is no kind " + k + "; there are " + strings.Join(eventKinds(), ", ")}
		}
	}
	return nil
}

func eventKinds() []string {
	var all []string
	for _, k := range engine.EventKinds {
		all = append(all, string(k))
	}
	return all
}

// registerEvents is a stream of server-sent events (WHATWG HTML, section 9.2).
// It is not the HTTP library's own, which sends nothing, not even headers,
// before the first event: watchers could not know that they watch.
func (s *Server) registerEvents() {
	op := s.operation("watch-events", http.MethodGet, "/events", "What happens, as it happens (server-sent events)")
	op.Description = "Each message has an `id`, RUN-NUMBER: RUN is other after each start of the daemon, NUMBER counts up by one. A listener that connects " +
		"again with Last-Event-ID hears what came in between; if that is not known any more, or another daemon runs, an event of kind gap comes first. " +
		"What comes in a burst is sent together, 50 ms at a time. A listener that does not read is disconnected."
	op.Responses["200"] = &huma.Response{
		Description: "One event a message: `event:` is its kind, `data:` the event in JSON",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: s.schema(api.Event{})}},
	}
	huma.Register(s.huma, op, func(ctx context.Context, q *eventQuery) (*huma.StreamResponse, error) {
		if err := q.check(); err != nil {
			return nil, s.failed(ctx, op, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			_, w := humago.Unwrap(hc)
			s.stream(hc.Context(), w, *q)
		}}, nil
	})
}

func (s *Server) stream(ctx context.Context, w http.ResponseWriter, q eventQuery) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stop, cancel)()
	since := q.LastEventID // what a browser adds is newer than the address that it was given
	if since == "" {
		since = q.Since
	}
	l := s.feed.listen(since, q.Network, q.Kind)
	defer l.close()
	w.Header().Set("Content-Type", "text/event-stream")
	// Not in chunks, which would make three writes of one; a message that is cut off
	// lacks its empty line, so that nobody takes it for a whole one.
	w.Header().Set("Transfer-Encoding", "identity")
	out := http.NewResponseController(w)
	err := l.follow(ctx, func(text []byte) error { return write(w, out, text, s.SendTimeout) })
	if errors.Is(err, errTooSlow) || errors.Is(err, os.ErrDeadlineExceeded) {
		l.drop()
		s.Log.Warn("a listener to events was dropped: it does not read", "request", ctx.Value(requestKey{}),
			"uid", callerOf(ctx).peer.UID, "pid", callerOf(ctx).peer.PID)
	}
}

// write sends at once, and gives up on a watcher that does not read.
func write(w http.ResponseWriter, out *http.ResponseController, text []byte, patience time.Duration) error {
	if err := out.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	return out.Flush()
}
