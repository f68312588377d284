package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// LogEntry is one thing that the record holds.
type LogEntry struct {
	Number     uint64      `json:"number" doc:"Counts up"`
	Kind       string      `json:"kind" doc:"change, repair of what others changed, port plugged or unplugged, foreign for what another program did, damaged for an entry that cannot be read"`
	ID         string      `json:"id,omitempty" doc:"Of the change; missing for ports and foreign changes"`
	Began      time.Time   `json:"began"`
	Ended      time.Time   `json:"ended"`
	DurationMS float64     `json:"duration_ms" doc:"From begin to end, the time that a person took to confirm included"`
	Who        string      `json:"who" doc:"In words; empty if the kernel does not tell"`
	Actor      Actor       `json:"actor"`
	Title      string      `json:"title" doc:"The command, or what happened"`
	Networks   []string    `json:"networks" nullable:"false"`
	Result     string      `json:"result,omitempty" doc:"How a change ended: confirmed, rolled-back or stuck"`
	Problem    string      `json:"problem,omitempty"`
	Times      int         `json:"times" doc:"How often it happened meanwhile"`
	StepCount  int         `json:"step_count"`
	Steps      []Step      `json:"steps,omitempty" nullable:"false" doc:"Of one entry that is asked for; at most 500"`
	Objects    []LogObject `json:"objects,omitempty" nullable:"false" doc:"What became of the document, of one entry that is asked for; at most 1000"`
}

// Actor is who did something.
type Actor struct {
	Kind    string `json:"kind,omitempty" doc:"user, token, page, repair of drift, start of the daemon, clock, other program"`
	Name    string `json:"name,omitempty"`
	UID     *int   `json:"uid,omitempty" doc:"Of a user"`
	PID     int    `json:"pid,omitempty"`
	Process string `json:"process,omitempty"`
}

// LogObject is one thing in the document before and after a change.
type LogObject struct {
	Kind    string         `json:"kind" enum:"network,reservation,forward"`
	Network string         `json:"network"`
	Name    string         `json:"name,omitempty" doc:"Hardware address of a reservation, ID of a forward"`
	Before  map[string]any `json:"before,omitempty" doc:"As in a document; missing if it was not there"`
	After   map[string]any `json:"after,omitempty" doc:"As in a document; missing if it is gone"`
}

// LogOptions says which entries are wanted, the newest first.
type LogOptions struct {
	// Since leaves out what ended before; the zero time leaves out nothing.
	Since   time.Time
	Network string
	Kinds   []string
	// Limit is how many at most; 0 takes what the daemon finds right.
	Limit int
}

// Log lists what the record holds, the newest first.
func (c *Client) Log(ctx context.Context, o LogOptions) ([]LogEntry, error) {
	q := url.Values{}
	if !o.Since.IsZero() {
		q.Set("since", o.Since.UTC().Format(time.RFC3339Nano))
	}
	if o.Network != "" {
		q.Set("network", o.Network)
	}
	for _, k := range o.Kinds {
		q.Add("kind", k)
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	path := "/log"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return get[[]LogEntry](ctx, c, path)
}

// LogEntry asks for one entry, by the id of its change or by its number.
func (c *Client) LogEntry(ctx context.Context, id string) (LogEntry, error) {
	return get[LogEntry](ctx, c, "/log/"+url.PathEscape(id))
}

// Undo takes a change of the record back by a new one.
func (c *Client) Undo(ctx context.Context, id string, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/log/"+url.PathEscape(id)+"/undo"+o.query(), nil)
}
