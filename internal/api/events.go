package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Event tells watchers that something happened.
type Event struct {
	ID      string    `json:"id" doc:"RUN-NUMBER: RUN is other after each start of the daemon, NUMBER counts up"`
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind" doc:"One of network, port, lease, forward, reservation, change, drift, repair, services, foreign; gap if events were lost"`
	Action  string    `json:"action" doc:"What happened, in one word: for a change its phase"`
	Network string    `json:"network,omitempty" doc:"The network that it is about; missing if it is about none, or about many"`
	Object  string    `json:"object" doc:"What it is about: a network, a tap, an address, a forward, a change"`
	Text    string    `json:"text" doc:"A whole sentence"`
	Who     string    `json:"who" doc:"Who did it, where that is known"`
}

// EventGap is the kind of an event that says that others were lost.
const EventGap = "gap"

// WatchOptions says which events are wanted; the zero value wants all, from now on.
type WatchOptions struct {
	// Since goes on after the event with this id, or from this time on (RFC 3339).
	Since   string
	Network string
	Kinds   []string
}

func (o WatchOptions) query() string {
	q := url.Values{}
	if o.Since != "" {
		q.Set("since", o.Since)
	}
	if o.Network != "" {
		q.Set("network", o.Network)
	}
	if len(o.Kinds) > 0 {
		q.Set("kind", strings.Join(o.Kinds, ","))
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// maxEventLine is far above what the daemon lets an event be.
const maxEventLine = 1 << 20

// Watch calls each for every event until ctx ends, each returns an error, or the
// daemon goes away (io.ErrUnexpectedEOF). It returns where to go on: the Since of
// another call.
func (c *Client) Watch(ctx context.Context, o WatchOptions, each func(Event) error) (since string, err error) {
	since = o.Since
	resp, err := c.do(ctx, http.MethodGet, "/events"+o.query(), nil)
	if err != nil {
		return since, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEventLine)
	id, data := since, ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "data":
			data = value
		}
		if lines.Text() != "" {
			continue
		}
		// The empty line: the message is whole.
		since = id
		if data == "" {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return since, fmt.Errorf("read event: %w", err)
		}
		data = ""
		if err := each(e); err != nil {
			return since, err
		}
	}
	if ctx.Err() != nil {
		return since, ctx.Err()
	}
	return since, fmt.Errorf("watch events: the daemon went away: %w", io.ErrUnexpectedEOF)
}

// How long Follow waits before it tries again: longer each time.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// Follow is Watch over restarts of the daemon: when it goes away, lost is called,
// and the events go on once it is back. It ends with ctx, with an error of each,
// or if the daemon cannot be reached the first time or refuses.
func (c *Client) Follow(ctx context.Context, o WatchOptions, each func(Event) error, lost func(error)) error {
	var own error
	watched, wait := false, firstRetry
	for {
		since, err := c.Watch(ctx, o, func(e Event) error {
			watched, wait = true, firstRetry
			own = each(e)
			return own
		})
		away := errors.Is(err, io.ErrUnexpectedEOF)
		watched = watched || away
		var refused *Problem
		if own != nil || ctx.Err() != nil || !watched || errors.As(err, &refused) {
			return err
		}
		if away {
			lost(err)
		}
		o.Since = since
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRetry)
	}
}
