package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
)

// heartbeat is how often a watcher hears something, so that either side notices
// when the other is gone.
const heartbeat = 15 * time.Second

// registerEvents is a stream of server-sent events (WHATWG HTML, section 9.2).
// It is not the HTTP library's own, which sends nothing, not even headers,
// before the first event: watchers could not know that they watch.
func (s *Server) registerEvents() {
	op := s.operation("watch-events", http.MethodGet, "/events", "What happens, as it happens (server-sent events)")
	op.Responses["200"] = &huma.Response{
		Description: "One event a message: `event:` is its kind, `data:` the event in JSON",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: s.schema(api.Event{})}},
	}
	huma.Register(s.huma, op, func(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			_, w := humago.Unwrap(hc)
			s.stream(hc.Context(), w)
		}}, nil
	})
}

func (s *Server) stream(ctx context.Context, w http.ResponseWriter) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stop, cancel)()
	events := s.Engine.Watch(ctx)
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	if err := write(w, out, ": watching\n\n"); err != nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			if write(w, out, ": still here\n\n") != nil {
				return
			}
		case e, more := <-events:
			if !more || write(w, out, message(e)) != nil {
				return
			}
		}
	}
}

func message(e engine.Event) string {
	data, err := json.Marshal(api.Event{Time: e.Time.UTC(), Kind: e.Kind, Object: e.Object, Text: e.Text, Who: e.Who})
	if err != nil {
		return ": " + oneLine(err.Error()) + "\n\n"
	}
	return fmt.Sprintf("event: %s\ndata: %s\n\n", oneLine(e.Kind), data)
}

// write sends at once, and gives up on a watcher that does not read.
func write(w io.Writer, out *http.ResponseController, text string) error {
	if err := out.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return out.Flush()
}
