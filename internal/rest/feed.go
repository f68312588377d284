package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
)

// The bounds of what is kept for listeners that come back: about a second of the
// busiest host, days of a quiet one.
const (
	feedFrames = 4096
	feedBytes  = 2 << 20
	// maxEventText bounds one event: a title can name a thousand forwards.
	maxEventText = 1024
)

// feed keeps the last events, each encoded once for all listeners, which read
// from it at their own pace: nobody waits for one that is slow.
type feed struct {
	// run tells apart the events of one daemon from those of the next, whose
	// numbers begin again.
	run string
	now func() time.Time

	mu sync.Mutex
	// frames are events first, first+1 and so on; the number of the first is 1.
	frames []frame
	first  uint64
	bytes  int
	// wake is closed with the next event; nil while nobody waits.
	wake      chan struct{}
	listeners int
	dropped   uint64
	// kinds and results count events, and how changes ended.
	kinds, results map[string]uint64
}

// frame is one event as it goes over the wire.
type frame struct {
	at            time.Time
	kind, network string
	text          []byte
}

func newFeed(run string, now func() time.Time) *feed {
	return &feed{run: run, now: now, first: 1, kinds: map[string]uint64{}, results: map[string]uint64{}}
}

func (f *feed) id(n uint64) string { return f.run + "-" + strconv.FormatUint(n, 10) }

// last is the number of the newest event; the caller has the lock.
func (f *feed) last() uint64 { return f.first + uint64(len(f.frames)) - 1 }

// add takes an event of the engine. It never waits.
func (f *feed) add(e engine.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kinds[string(e.Kind)]++
	if e.Kind == engine.ChangeEvent && slices.Contains(results(), e.Action) {
		f.results[e.Action]++
	}
	id := f.id(f.last() + 1)
	out := frame{at: e.Time, kind: string(e.Kind), network: string(e.Network)}
	out.text = encodeEvent(api.Event{
		ID: id, Time: e.Time.UTC(), Kind: string(e.Kind), Action: e.Action, Network: string(e.Network), Object: e.Object, Text: e.Text, Who: e.Who,
	})
	f.frames = append(f.frames, out)
	f.bytes += len(out.text)
	drop := 0
	for len(f.frames)-drop > feedFrames || f.bytes > feedBytes {
		f.bytes -= len(f.frames[drop].text)
		f.frames[drop] = frame{}
		drop++
	}
	f.frames = f.frames[drop:]
	f.first += uint64(drop)
	if f.wake != nil {
		close(f.wake)
		f.wake = nil
	}
}

// encodeEvent writes a message of the event stream (WHATWG HTML, section 9.2.6).
func encodeEvent(e api.Event) []byte {
	e.Text, e.Object = shortened(e.Text), shortened(e.Object)
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Appendf(nil, ": %s\n\n", oneLine(err.Error()))
	}
	return fmt.Appendf(nil, "id: %s\nevent: %s\ndata: %s\n\n", e.ID, oneLine(e.Kind), data)
}

func shortened(s string) string {
	if len(s) <= maxEventText {
		return s
	}
	return strings.ToValidUTF8(s[:maxEventText], "") + "…"
}

// listening is where one listener is.
type listening struct {
	feed *feed
	// next is the number of the event to come.
	next    uint64
	network string
	kinds   []string
	// hello comes before all events.
	hello []byte
}

// listen begins to listen after the event that since names: an id, a time
// (RFC 3339), or "" for what comes from now on. If there is a gap between that
// event and the first that is still known, hello says so.
func (f *feed) listen(since, network string, kinds []string) *listening {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners++
	l := &listening{feed: f, next: f.last() + 1, network: network, kinds: kinds}
	lost := ""
	if since != "" {
		l.next, lost = f.resume(since)
	}
	// The id, also without an event: who hears nothing can resume here too.
	l.hello = fmt.Appendf(nil, ": watching\nretry: 1000\nid: %s\n\n", f.id(l.next-1))
	if lost != "" {
		l.hello = append(l.hello, encodeEvent(api.Event{
			ID: f.id(l.next - 1), Time: f.now().UTC(), Kind: api.EventGap, Action: "lost", Text: lost,
		})...)
	}
	return l
}

// resume finds the event to go on with, and says what is lost, if anything is.
func (f *feed) resume(since string) (next uint64, lost string) {
	if at, err := time.Parse(time.RFC3339Nano, since); err == nil {
		i, _ := slices.BinarySearchFunc(f.frames, at, func(e frame, at time.Time) int { return e.at.Compare(at) })
		if i == 0 && f.first > 1 {
			lost = "events from before are not kept any more"
		}
		return f.first + uint64(i), lost
	}
	run, number, _ := strings.Cut(since, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	switch {
	case run != f.run || err != nil || n > f.last():
		return f.first, "the daemon was started anew: what happened in between is not known"
	case n+1 < f.first:
		return f.first, fmt.Sprintf("%d events are lost: they came faster, or longer ago, than they are kept", f.first-n-1)
	}
	return n + 1, ""
}

func (l *listening) close() {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	l.feed.listeners--
}

// drop counts a listener that did not read.
func (l *listening) drop() {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	l.feed.dropped++
}

// wants says whether the listener asked for such an event.
func (l *listening) wants(e frame) bool {
	return (l.network == "" || e.network == l.network) && (len(l.kinds) == 0 || slices.Contains(l.kinds, e.kind))
}

// maxTake bounds what is sent in one go.
const maxTake = 256 << 10

// take appends what is new to b. late says that the listener was so slow that
// events were forgotten before it read them. Without anything new it returns a
// channel that is closed when there is.
func (l *listening) take(b []byte) (out []byte, late bool, wake <-chan struct{}) {
	f := l.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.next < f.first {
		return b, true, nil
	}
	for l.next <= f.last() && len(b) < maxTake {
		if e := f.frames[l.next-f.first]; l.wants(e) {
			b = append(b, e.text...)
		}
		l.next++
	}
	if l.next <= f.last() || len(b) > 0 {
		return b, false, nil
	}
	if f.wake == nil {
		f.wake = make(chan struct{})
	}
	return b, false, f.wake
}

// beat tells the listener, and so its browser, up to where it has heard all.
func (l *listening) beat() []byte {
	return fmt.Appendf(nil, "id: %s\n\n", l.feed.id(l.next-1))
}

// batch is how long the events of a burst are collected before they are sent: a
// listener then costs twenty writes a second at most, however much happens.
const batch = 50 * time.Millisecond

// follow sends to one listener until ctx ends, or send fails, or the listener
// does not keep up.
func (l *listening) follow(ctx context.Context, send func([]byte) error) error {
	if err := send(l.hello); err != nil {
		return err
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	var buf []byte
	for {
		text, late, wake := l.take(buf[:0])
		buf = text
		if late {
			return errTooSlow
		}
		if wake == nil && len(text) > 0 {
			if err := send(text); err != nil {
				return err
			}
		}
		if wake == nil {
			pause.Reset(batch)
			select {
			case <-ctx.Done():
				return nil
			case <-pause.C:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-beat.C:
			if err := send(l.beat()); err != nil {
				return err
			}
		}
	}
}
