package rest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// fakeEngine keeps a document and lets commands edit it; the host is what the
// test puts into view.
type fakeEngine struct {
	mu      sync.Mutex
	doc     spec.Document
	view    engine.View
	fail    error
	asked   []engine.Options
	by      []txn.Actor
	history []txn.Entry
	ports   map[string]engine.Port
	request engine.PortRequest
	taps    int
	vhosts  int
	files   func(n int) []*os.File
	decided []string
	watcher func(engine.Event)
}

// set changes or reads the fake while it is in use.
func (f *fakeEngine) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func newFake() *fakeEngine {
	return &fakeEngine{
		doc: spec.Document{Networks: map[spec.NetworkName]spec.Network{}}, ports: map[string]engine.Port{},
		taps: 1,
	}
}

func (f *fakeEngine) Do(ctx context.Context, c engine.Command, o engine.Options) (engine.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.by = append(f.asked, o), append(f.by, txn.ActorOf(ctx))
	if f.fail != nil {
		return engine.Result{}, fmt.Errorf("%s: %w", c.Title(), f.fail)
	}
	doc, err := c.Edit(f.doc.Clone())
	if err != nil {
		return engine.Result{}, fmt.Errorf("%s: %w", c.Title(), err)
	}
	for name, n := range doc.Networks {
		settle(&n)
		if err := n.Validate(); err != nil {
			return engine.Result{}, fmt.Errorf("%s: %w", c.Title(), err)
		}
		doc.Networks[name] = n
	}
	res := engine.Result{Title: c.Title(), DryRun: o.DryRun, Risk: plan.RiskNone, Document: doc}
	if doc.Equal(f.doc) {
		return res, nil
	}
	res.Steps = []plan.Step{{After: host.Link{Name: "virbr0", Type: host.TypeBridge, MTU: 1500, Up: true}}}
	if !o.DryRun {
		res.ID, res.Phase = "c0ffee01", txn.Confirmed
		f.doc = doc
	}
	return res, nil
}

func settle(n *spec.Network) {
	for _, f := range []struct {
		to *string
		v  string
	}{{&n.Bridge, "virbr-" + string(n.Name[:1])}, {&n.MAC, "52:54:00:aa:bb:cc"}, {&n.UUID, "0b9d2c1e-6a43-4c55-9d25-1b5a3f6f2d11"}, {&n.Domain, string(n.Name) + ".internal"}} {
		if *f.to == "" {
			*f.to = f.v
		}
	}
	if n.Mode == "" {
		n.Mode = "nat"
	}
	if n.IPv6 == "" {
		n.IPv6 = spec.IPv6Auto
	}
	if p, wished := n.IPv6.Prefix(); wished {
		if _, there := n.Subnet6(); !there {
			n.Subnets = append(n.Subnets, spec.NewSubnet(p))
		}
	}
	if len(n.Subnets) == 0 {
		n.Subnets = []spec.Subnet{spec.NewSubnet(netip.MustParsePrefix("192.168.122.0/24"))}
	}
}

func (f *fakeEngine) Document() spec.Document {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doc.Clone()
}

func (f *fakeEngine) View(context.Context) (engine.View, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.view
	v.Document = f.doc.Clone()
	for _, p := range f.ports {
		v.Ports = append(v.Ports, p)
	}
	return v, nil
}

func (f *fakeEngine) OpenPort(_ context.Context, r engine.PortRequest) (engine.Port, []*os.File, []*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.request = r
	if f.fail != nil {
		return engine.Port{}, nil, nil, f.fail
	}
	p := engine.Port{Network: r.Network, Bridge: "virbr0", Tap: "vnet0", Guest: r.Guest, MAC: "52:54:00:01:02:03", Made: r.Made, Owner: r.Owner}
	return p, f.files(f.taps), f.files(f.vhosts), nil
}

func (f *fakeEngine) AttachPort(_ context.Context, r engine.PortRequest) (engine.Port, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.request = r
	p := engine.Port{Network: r.Network, Tap: fmt.Sprintf("vnet%d", len(f.ports)), Guest: r.Guest, Made: r.Made, Owner: r.Owner}
	f.ports[p.Tap] = p
	return p, f.fail
}

func (f *fakeEngine) DetachPort(_ context.Context, tap string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.ports[tap]; !ok {
		return fmt.Errorf("port %q: %w", tap, spec.ErrNotFound)
	}
	delete(f.ports, tap)
	return nil
}

func (f *fakeEngine) decide(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decided = append(f.decided, what)
	return f.fail
}

func (f *fakeEngine) Changes() []txn.Txn                    { return f.view.Changes }
func (f *fakeEngine) Conditions(txn.Txn) []engine.Condition { return nil }

func (f *fakeEngine) Files(context.Context, txn.Txn) []string {
	return []string{"/etc/network/interfaces"}
}

func (f *fakeEngine) Change(id string) (txn.Txn, error) {
	for _, t := range f.view.Changes {
		if t.ID == id {
			return t, nil
		}
	}
	return txn.Txn{}, fmt.Errorf("change %q: %w", id, spec.ErrNotFound)
}

func (f *fakeEngine) Confirm(_ context.Context, id string) error { return f.decide("confirm " + id) }
func (f *fakeEngine) Cancel(_ context.Context, id string) error  { return f.decide("cancel " + id) }
func (f *fakeEngine) Extend(_ context.Context, id string, by time.Duration) error {
	return f.decide(fmt.Sprintf("extend %s %s", id, by))
}

func (f *fakeEngine) Watch(each func(engine.Event)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watcher = each
	return func() {}
}

// tell is what happens, to whom it may concern.
func (f *fakeEngine) tell(e engine.Event) {
	f.mu.Lock()
	each := f.watcher
	f.mu.Unlock()
	each(e)
}

// serve runs a server on a socket that everybody can reach, and returns its
// path and a client.
func serve(t testing.TB, f *fakeEngine, edit func(*Config)) (string, *api.Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rest")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	c := Config{
		Engine: f, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Version: "1.2.3", AdminGroup: "no-such-group",
		Modes:       []api.Mode{{Name: "nat", Summary: "reach out with the host's address", Default: true}},
		ServicesPID: func() int { return 4711 }, Boottime: func() int64 { return 100e9 },
	}
	if edit != nil {
		edit(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := New(c)
	go func() { ended <- s.Serve(ctx, l) }()
	client := api.Dial(socket)
	t.Cleanup(func() {
		client.Close()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the server did not end")
		}
	})
	return socket, client
}

func (f *fakeEngine) AddForward(ctx context.Context, r engine.ForwardRequest, o engine.Options) (engine.Result, error) {
	c := engine.AddForward{Network: r.Network}
	for _, proto := range r.Protos {
		c.Forwards = append(c.Forwards, r.Forward(proto))
	}
	return f.Do(ctx, c, o)
}

func (f *fakeEngine) Why(_ context.Context, r engine.WhyRequest) (diagnose.Answer, error) {
	if r.To == "nobody" {
		return diagnose.Answer{}, fmt.Errorf("guest nobody: %w", spec.ErrNotFound)
	}
	return diagnose.Answer{
		Kind: diagnose.Dropped, Sentence: "a connection to port 80 from lan to web ends at ip filter FORWARD: policy drop", Mend: "ufw route allow 80",
		Sent:  diagnose.Packet{Protocol: 6, TargetPort: r.Port},
		Steps: []diagnose.PathStep{{Where: "route", What: "to web by virbr0", Kind: diagnose.Accepted}, {Where: "ip filter FORWARD", What: "policy drop", Kind: diagnose.Dropped, Owner: "ufw"}},
	}, nil
}

func (f *fakeEngine) WhyProbe(ctx context.Context, r engine.WhyRequest) (diagnose.Answer, engine.Probed, error) {
	a, err := f.Why(ctx, r)
	return a, engine.Probed{Sent: "one packet", Verdict: diagnose.Dropped, Agrees: true, Trace: []diagnose.TraceStep{{Family: "ip", Table: "filter", Chain: "FORWARD", Policy: true}}}, err
}

func (f *fakeEngine) Reached(_ context.Context, list []engine.ForwardView) (bool, error) {
	for i := range list {
		list[i].Reached = []engine.ReachedFrom{{From: "lan", Link: "enp6s18", Verdict: "dropped", Why: "policy", Owner: "ufw"}, {From: "host", Verdict: "accepted"}}
	}
	return true, nil
}

func (f *fakeEngine) Forwards(context.Context) ([]engine.ForwardView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []engine.ForwardView
	for _, name := range f.doc.Names() {
		for fwd := range f.doc.Networks[name].Forwards.All() {
			all = append(all, engine.ForwardView{Network: name, Forward: fwd})
		}
	}
	return all, f.fail
}

func (f *fakeEngine) History(each func(txn.Entry) bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.history {
		if !each(e) {
			break
		}
	}
	return f.fail
}

func (f *fakeEngine) Undo(ctx context.Context, id string, o engine.Options) (engine.Result, error) {
	var c engine.Undo
	err := f.History(func(e txn.Entry) bool { c.Entry = e; return e.ID != id })
	if err != nil {
		return engine.Result{}, err
	}
	return f.Do(ctx, c, o)
}
