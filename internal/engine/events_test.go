package engine_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// listener keeps what an engine tells, in short.
type listener struct {
	mu  sync.Mutex
	all []engine.Event
	new chan struct{}
}

func listen(t *testing.T, e *engine.Engine) *listener {
	l := &listener{new: make(chan struct{}, 1)}
	t.Cleanup(e.Watch(func(ev engine.Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all = append(l.all, ev)
		select {
		case l.new <- struct{}{}:
		default:
		}
	}))
	return l
}

// take returns what was told since the last time.
func (l *listener) take() (lines []string, whole []engine.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ev := range l.all {
		object := ev.Object
		if ev.Kind == engine.ChangeEvent {
			object = "ID"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s/%s by %s", ev.Kind, ev.Action, ev.Network, object, ev.Who))
	}
	whole, l.all = l.all, nil
	return lines, whole
}

func (l *listener) wants(t *testing.T, when string, want ...string) []engine.Event {
	t.Helper()
	got, whole := l.take()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\ngot  %s\nwant %s", when, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	return whole
}

const alice = "alice with drawbridge (pid 42)"

func byAlice(ctx context.Context) context.Context {
	return txn.By(ctx, txn.Actor{Kind: txn.ByUser, Name: "alice", UID: 1000, PID: 42, Process: "drawbridge"})
}

func TestEventsTellWhatBecameOfTheDocumentAndWhoDidIt(t *testing.T) {
	m := newMachine(t)
	e := m.start(m.fake)
	e.Flows = noFlows{}
	l := listen(t, e)
	ctx := byAlice(t.Context())
	do := func(c engine.Command) {
		t.Helper()
		if _, err := e.Do(ctx, c, engine.Options{CutGuests: true}); err != nil {
			t.Fatal(err)
		}
	}
	phases := func(net string) []string {
		var all []string
		for _, p := range []string{"applying", "verifying", "confirmed"} {
			all = append(all, fmt.Sprintf("change %s %s/ID by %s", p, net, alice))
		}
		return all
	}
	told := func(net string, more ...string) []string {
		all := phases(net)
		for _, m := range more {
			all = append(all, m+" by "+alice)
		}
		return all
	}
	do(network("lab"))
	whole := l.wants(t, "create", told("lab", "network created lab/lab", "network started lab/lab")...)
	for i, ev := range whole {
		if ev.Text == "" || ev.Time.IsZero() || i > 0 && ev.Time.Before(whole[i-1].Time) {
			t.Errorf("event %d is %+v", i, ev)
		}
	}
	mac := "52:54:00:00:00:01"
	r := spec.Reservation{MAC: mac, Addr: netip.MustParseAddr("192.168.122.9")}
	do(engine.Reserve{Name: "lab", Reservation: r})
	l.wants(t, "reserve", told("lab", "reservation added lab/"+mac)...)
	r.Hostname = "db"
	do(engine.Reserve{Name: "lab", Reservation: r})
	l.wants(t, "reserve again", told("lab", "reservation changed lab/"+mac)...)
	do(engine.SetNetwork{Name: "lab", Settings: map[string]string{"mtu": "1400"}})
	l.wants(t, "set", told("lab", "network changed lab/lab")...)
	do(engine.StopNetwork{Name: "lab"})
	l.wants(t, "stop", told("lab", "network stopped lab/lab")...)
	f := spec.Forward{Proto: spec.TCP, First: 8080, Last: 8080, Listen: netip.IPv4Unspecified(), Target: "web", TargetPort: 80}
	do(engine.AddForward{Network: "lab", Forwards: []spec.Forward{f}})
	l.wants(t, "forward", told("lab", "forward added lab/"+f.Key())...)
	do(engine.RemoveForward{Selector: spec.Selector{Proto: spec.TCP, Listen: f.Listen, First: 8080, Last: 8080}})
	l.wants(t, "close", told("lab", "forward removed lab/"+f.Key())...)
	do(network("other", isolated))
	l.take()
	do(engine.StartAll{})
	l.wants(t, "up", told("lab", "network started lab/lab")...)
	do(engine.RemoveNetwork{Name: "lab"})
	l.wants(t, "remove", told("lab", "network removed lab/lab")...)
	do(engine.StopAll{})
	l.wants(t, "down", told("other", "network stopped other/other")...)
	do(engine.StopAll{})
	l.wants(t, "down again")
	if _, err := e.Do(ctx, engine.StartAll{}, engine.Options{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	l.wants(t, "dry run")
}

func TestEventsTellOfPortsAndTheirOwner(t *testing.T) {
	m := newMachine(t)
	e := m.start(m.fake)
	if _, err := e.Do(t.Context(), network("lab"), engine.Options{}); err != nil {
		t.Fatal(err)
	}
	l := listen(t, e)
	ctx := byAlice(t.Context())
	p, err := e.AttachPort(ctx, engine.PortRequest{Network: "lab", Guest: "web", Owner: -1, Made: "attach"})
	if err != nil {
		t.Fatal(err)
	}
	l.wants(t, "attach", "port plugged lab/"+p.Tap+" by "+alice)
	if err := e.DetachPort(ctx, p.Tap); err != nil {
		t.Fatal(err)
	}
	l.wants(t, "detach", "port unplugged lab/"+p.Tap+" by "+alice)
}

func TestEventsTellOfDriftItsRepairAndWhoDidIt(t *testing.T) {
	m := newMachine(t)
	e := m.start(m.fake)
	for _, name := range []string{"one", "two"} {
		if _, err := e.Do(t.Context(), network(name), engine.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	l := listen(t, e)
	for _, bridge := range []string{"virbr0", "virbr1"} {
		up := m.state()[host.LinkKey(bridge)].(host.Link)
		down := up
		down.Up = false
		if err := m.fake.Outside(plan.Step{Before: up, After: down}); err != nil {
			t.Fatal(err)
		}
	}
	hints := make(chan engine.Hint, 8)
	for range 2 { // the same twice in a burst is told once
		hints <- engine.Hint{Kind: "link", Object: "virbr0", Who: "ip (pid 7)"}
	}
	hints <- engine.Hint{Kind: "link", Object: "virbr1", Who: "ip (pid 7)"}
	hints <- engine.Hint{Kind: "rules", Who: "nft (pid 8)"}
	hints <- engine.Hint{Kind: "route"} // the kernel itself
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { e.Follow(ctx, hints); close(done) }()
	var got []string
	for limit := time.After(20 * time.Second); len(got) < 7; {
		select {
		case <-l.new:
			lines, _ := l.take()
			got = append(got, lines...)
		case <-limit:
			t.Fatalf("no more came than %q", got)
		}
	}
	cancel()
	<-done
	want := []string{
		"foreign link one/virbr0 by ip (pid 7)", "foreign link two/virbr1 by ip (pid 7)", "foreign rules / by nft (pid 8)",
		"drift seen one/link virbr0 by nft (pid 8)", "drift seen two/link virbr1 by nft (pid 8)",
		"repair repaired one/link virbr0 by nft (pid 8)", "repair repaired two/link virbr1 by nft (pid 8)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// noFlows is a host without connections.
type noFlows struct{}

func (noFlows) List(context.Context, engine.FlowQuery, func(engine.Flow) bool) error { return nil }
func (noFlows) Cut(context.Context, []engine.Flow) error                             { return nil }
func (noFlows) Watch(ctx context.Context, _ bool, _ func(engine.FlowEvent)) error {
	<-ctx.Done()
	return nil
}
