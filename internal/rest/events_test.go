package rest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
)

var eventTime = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// happen tells n events, numbered in Text.
func happen(f *fakeEngine, n int, kind engine.EventKind) {
	for i := range n {
		f.tell(engine.Event{Time: eventTime.Add(time.Duration(i) * time.Second), Kind: kind, Action: "plugged", Network: "lab", Object: "vnet0", Text: fmt.Sprint(i), Who: "qemu"})
	}
}

// stream is an open connection to events.
type stream struct {
	t    *testing.T
	body io.ReadCloser
	in   *bufio.Scanner
}

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

func open(t *testing.T, socket, query, lastID string) *stream {
	t.Helper()
	c := unixClient(socket)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://drawbridge/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, text)
	}
	s := &stream{t, resp.Body, bufio.NewScanner(resp.Body)}
	t.Cleanup(func() { resp.Body.Close() })
	return s
}

// message reads the next message as its fields; comments are left out.
func (s *stream) message() map[string]string {
	s.t.Helper()
	m := map[string]string{}
	for s.in.Scan() {
		if s.in.Text() == "" {
			return m
		}
		field, value, _ := strings.Cut(s.in.Text(), ": ")
		m[field] = value
	}
	s.t.Fatalf("the stream ended: %v", s.in.Err())
	return nil
}

func (s *stream) text() string {
	s.t.Helper()
	return s.message()["data"]
}

func TestEventsComeAsTheyHappen(t *testing.T) {
	f := newFake()
	_, c := serve(t, f, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan api.Event, 4)
	ended := make(chan error, 1)
	go func() {
		since, err := c.Watch(ctx, api.WatchOptions{Since: "another-1"}, func(e api.Event) error { got <- e; return nil })
		if !strings.HasSuffix(since, "-1") || since == "another-1" {
			err = errors.Join(err, fmt.Errorf("would go on after %s", since))
		}
		ended <- err
	}()
	next := func() api.Event {
		select {
		case e := <-got:
			return e
		case <-time.After(20 * time.Second):
			t.Fatal("no event came")
		}
		return api.Event{}
	}
	gap := next()
	run, _, _ := strings.Cut(gap.ID, "-")
	if gap.Kind != api.EventGap || !strings.Contains(gap.Text, "started anew") {
		t.Errorf("first came %+v", gap)
	}
	f.tell(engine.Event{Time: eventTime, Kind: engine.PortEvent, Action: "plugged", Network: "lab", Object: "vnet0", Text: "web\nplugged in", Who: "qemu"})
	if e, want := next(), (api.Event{ID: run + "-1", Time: eventTime, Kind: "port", Action: "plugged", Network: "lab", Object: "vnet0", Text: "web\nplugged in", Who: "qemu"}); e != want {
		t.Errorf("event is %+v, want %+v", e, want)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watching ended with %v", err)
	}
}

func TestAListenerResumesWhereItStopped(t *testing.T) {
	f := newFake()
	socket, _ := serve(t, f, nil)
	first := open(t, socket, "", "")
	hello := first.message()
	run, zero, _ := strings.Cut(hello["id"], "-")
	if zero != "0" || hello["retry"] == "" {
		t.Errorf("hello is %v", hello)
	}
	happen(f, 3, engine.PortEvent)
	if m := first.message(); m["id"] != run+"-1" || m["event"] != "port" || !strings.Contains(m["data"], `"text":"0"`) {
		t.Errorf("first is %v", m)
	}
	first.body.Close()

	for name, s := range map[string]*stream{
		"by header":               open(t, socket, "", run+"-1"),
		"by address":              open(t, socket, "?since="+run+"-1", ""),
		"header before address":   open(t, socket, "?since="+run+"-0", run+"-1"),
		"by time":                 open(t, socket, "?since="+eventTime.Add(time.Second).Format(time.RFC3339), ""),
		"with a filter that fits": open(t, socket, "?network=lab&kind=port,lease", run+"-1"),
	} {
		if m := s.message(); m["id"] != run+"-1" {
			t.Errorf("%s: hello is %v", name, m)
		}
		for i := 1; i < 3; i++ {
			if m := s.message(); m["id"] != fmt.Sprint(run, "-", i+1) || !strings.Contains(m["data"], fmt.Sprintf(`"text":"%d"`, i)) {
				t.Errorf("%s: message %d is %v", name, i, m)
			}
		}
	}
	for name, query := range map[string]string{"other network": "?network=home", "other kind": "?kind=lease"} {
		s := open(t, socket, query+"&since="+run+"-0", "")
		s.message()
		f.tell(engine.Event{Kind: engine.LeaseEvent, Network: "home", Text: "the one"})
		if text := s.text(); !strings.Contains(text, "the one") {
			t.Errorf("%s: came %s", name, text)
		}
	}
}

func TestAListenerIsToldOfAGap(t *testing.T) {
	f := newFake()
	socket, _ := serve(t, f, nil)
	s := open(t, socket, "", "")
	run, _, _ := strings.Cut(s.message()["id"], "-")
	s.body.Close()
	happen(f, feedFrames+10, engine.PortEvent)
	for since, want := range map[string]string{
		run + "-3":          `7 events are lost`,
		run + "-99999999":   "started anew",
		"0badcafe-12":       "started anew",
		"rubbish":           "started anew",
		run + "-":           "started anew",
		run + "--1":         "started anew",
		"1999-01-01T00:00Z": "started anew",
	} {
		s := open(t, socket, "", since)
		if m := s.message(); m["id"] != run+"-10" {
			t.Errorf("since %s: hello is %v", since, m)
		}
		if m := s.message(); m["event"] != api.EventGap || !strings.Contains(m["data"], want) {
			t.Errorf("since %s: first came %v", since, m)
		}
		if m := s.message(); m["id"] != run+"-11" {
			t.Errorf("since %s: then came %v", since, m)
		}
		s.body.Close()
	}
	s = open(t, socket, "?since=1999-01-01T00:00:00Z", "")
	s.message()
	if text := s.text(); !strings.Contains(text, "not kept any more") {
		t.Errorf("since 1999: first came %s", text)
	}
	s = open(t, socket, "", run+"-10")
	s.message()
	if m := s.message(); m["id"] != run+"-11" {
		t.Errorf("without a gap came %v", m)
	}
}

func TestAnUnknownKindOfEventIsRefused(t *testing.T) {
	f := newFake()
	_, c := serve(t, f, nil)
	_, err := c.Watch(t.Context(), api.WatchOptions{Kinds: []string{"lease", "weather"}}, nil)
	isProblem(t, err, 422, api.CodeInvalid, "there is no kind weather; there are network, port")
}

// A listener that does not read is disconnected, while another hears everything.
func TestASlowListenerIsDroppedAndDelaysNobody(t *testing.T) {
	f := newFake()
	socket, _ := serve(t, f, func(c *Config) { c.SendTimeout = 100 * time.Millisecond })
	slow, quick := open(t, socket, "", ""), open(t, socket, "", "")
	run, _, _ := strings.Cut(quick.message()["id"], "-")
	const rounds, many = 16, 1024
	for round := range rounds {
		happen(f, many, engine.PortEvent)
		for i := range many {
			if m := quick.message(); m["id"] != fmt.Sprint(run, "-", round*many+i+1) {
				t.Fatalf("in round %d message %d is %v", round, i, m)
			}
		}
	}
	// What the kernel still has for it, and then the end.
	read, err := io.Copy(io.Discard, slow.body)
	if whole := int64(rounds * many * 150); err != nil || read >= whole {
		t.Errorf("it read %d bytes of more than %d, and then %v", read, whole, err)
	}
	happen(f, 1, engine.PortEvent)
	if m := quick.message(); m["id"] != fmt.Sprint(run, "-", rounds*many+1) {
		t.Errorf("afterwards came %v", m)
	}
}

// Listeners that are killed leave nothing behind.
func TestListenersThatGoAreForgotten(t *testing.T) {
	f := newFake()
	socket, _ := serve(t, f, nil)
	for round := range 3 {
		var all []*stream
		for range 50 {
			all = append(all, open(t, socket, "", ""))
		}
		happen(f, 10, engine.PortEvent)
		for i, s := range all {
			if i%2 == 0 {
				s.message() // some have read, others have not
			}
			s.body.Close()
		}
		// 50 each time are more than a user that is not root may have, were they kept.
		if s := open(t, socket, "?since=x", ""); s.message()["retry"] == "" {
			t.Errorf("round %d: no answer", round)
		}
	}
}

// What is kept is bounded, whatever is told.
func TestTheFeedIsBounded(t *testing.T) {
	f := newFeed("run", time.Now)
	long := strings.Repeat("ä", 5000)
	for range feedFrames * 2 {
		f.add(engine.Event{Kind: engine.ChangeEvent, Object: long, Text: long})
	}
	if len(f.frames) > feedFrames || f.bytes > feedBytes || f.bytes < feedBytes/2 {
		t.Errorf("%d frames with %d bytes are kept", len(f.frames), f.bytes)
	}
	sum := 0
	for _, e := range f.frames {
		sum += len(e.text)
		if len(e.text) > 4*maxEventText {
			t.Fatalf("an event has %d bytes", len(e.text))
		}
	}
	if sum != f.bytes {
		t.Errorf("%d bytes are kept, counted as %d", sum, f.bytes)
	}
	if f.last() != feedFrames*2 {
		t.Errorf("last is %d", f.last())
	}
}
