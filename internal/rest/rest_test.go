package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

func TestNetworkLife(t *testing.T) {
	f := newFake()
	_, c := serve(t, f, nil)
	ctx := t.Context()
	yes := true
	change, err := c.CreateNetwork(ctx, api.DocumentNetwork{
		Name: "lab", Subnets: []api.Subnet{{CIDR: "10.9.0.1/24", DHCPRange: "10.9.0.100-10.9.0.200", LeaseTime: "2h"}},
		IPv6: "fd00:1:2:3::/64", AllowUsers: []string{"alice"}, Started: &yes, MTU: 1400,
	}, api.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if change.ID != "c0ffee01" || change.Phase != "confirmed" || change.NothingToDo || len(change.Steps) != 1 {
		t.Errorf("change is %+v", change)
	}
	want := api.Step{Verb: "create", Kind: "link", Name: "virbr0", Detail: "type bridge, mtu 1500, up"}
	if change.Steps[0] != want {
		t.Errorf("step is %+v, want %+v", change.Steps[0], want)
	}
	n, err := c.Network(ctx, "lab")
	if err != nil {
		t.Fatal(err)
	}
	subnets := []api.Subnet{
		{CIDR: "10.9.0.0/24", Gateway: "10.9.0.1", DHCPRange: "10.9.0.100-10.9.0.200", LeaseTime: "7200"},
		{CIDR: "fd00:1:2:3::/64", Gateway: "fd00:1:2:3::1"},
	}
	if diff := cmp.Diff(subnets, n.Subnets); diff != "" {
		t.Errorf("subnets (-want +got):\n%s", diff)
	}
	if n.Bridge != "virbr-l" || n.State != "degraded" || !n.Autostart || n.MTU != 1400 {
		t.Errorf("network is %+v", n)
	}
	if _, err := c.SetNetwork(ctx, "lab", map[string]string{"domain": "lab.test"}, api.Options{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if !f.asked[1].DryRun || f.asked[1].CutGuests || f.doc.Networks["lab"].Domain != "lab.internal" {
		t.Errorf("asked with %+v", f.asked[1])
	}
	if _, err := c.StopNetwork(ctx, "lab", api.Options{CutGuests: true}); err != nil || !f.asked[2].CutGuests {
		t.Errorf("stop: %v, asked with %+v", err, f.asked[2])
	}
	if n, _ = c.Network(ctx, "lab"); n.State != "stopped" {
		t.Errorf("stopped network is %s", n.State)
	}
	if change, err = c.Up(ctx, api.Options{}); err != nil || change.Title != "start all networks" {
		t.Errorf("up: %v %+v", err, change)
	}
	if change, err = c.Up(ctx, api.Options{}); err != nil || !change.NothingToDo {
		t.Errorf("up again: %v %+v", err, change)
	}
	if _, err = c.Down(ctx, api.Options{}); err != nil {
		t.Error(err)
	}
	if _, err := c.RemoveNetwork(ctx, "lab", api.Options{}); err != nil {
		t.Error(err)
	}
	if nets, err := c.Networks(ctx); err != nil || nets == nil || len(nets) != 0 {
		t.Errorf("networks afterwards: %v %v", nets, err)
	}
}

func TestReservations(t *testing.T) {
	f := newFake()
	f.doc = f.doc.With(network(t, "default"))
	_, c := serve(t, f, nil)
	ctx := t.Context()
	if _, err := c.Reserve(ctx, "default", api.Reservation{MAC: "52-54-00-AA-00-01", IP: "192.168.122.9", Hostname: "Web"}, api.Options{}); err != nil {
		t.Fatal(err)
	}
	want := []api.Reservation{{Network: "default", MAC: "52:54:00:aa:00:01", IP: "192.168.122.9", Hostname: "web"}}
	if got, err := c.Reservations(ctx, ""); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("all: %v %v", got, err)
	}
	if got, err := c.Reservations(ctx, "default"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("of default: %v %v", got, err)
	}
	_, err := c.Reserve(ctx, "default", api.Reservation{MAC: "52:54:00:aa:00:02", IP: "192.168.122.9"}, api.Options{})
	isProblem(t, err, 409, api.CodeExists, "192.168.122.9 is reserved for 52:54:00:aa:00:01")
	if _, err := c.Unreserve(ctx, "default", "52:54:00:AA:00:01", api.Options{}); err != nil {
		t.Error(err)
	}
	_, err = c.Unreserve(ctx, "default", "52:54:00:aa:00:01", api.Options{})
	isProblem(t, err, 404, api.CodeNotFound, "reservation of 52:54:00:aa:00:01")
}

func network(t *testing.T, name spec.NetworkName) spec.Network {
	t.Helper()
	p, err := spec.ParsePrefix("192.168.122.0/24")
	if err != nil {
		t.Fatal(err)
	}
	n := spec.Network{Name: name, Started: true, Autostart: true, Subnets: []spec.Subnet{spec.NewSubnet(p)}}
	settle(&n)
	return n
}

func isProblem(t *testing.T, err error, status int, code, detail string) *api.Problem {
	t.Helper()
	p, ok := errors.AsType[*api.Problem](err)
	if !ok {
		t.Fatalf("error is %v, want a problem", err)
	}
	if p.Status != status || p.Code != code || !strings.Contains(p.Detail, detail) || strings.Contains(p.Detail, "\n") {
		t.Errorf("problem is %d %s %q, want %d %s …%q…", p.Status, p.Code, p.Detail, status, code, detail)
	}
	return p
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
		detail string
	}{
		{&spec.InvalidError{Field: "subnet", Reason: "10.0.0.0/33 is odd"}, 422, api.CodeInvalid, "subnet: 10.0.0.0/33 is odd"},
		{fmt.Errorf("network \"x\": %w", spec.ErrNotFound), 404, api.CodeNotFound, "not found"},
		{spec.ErrExists, 409, api.CodeExists, "already exists"},
		{spec.ErrInUse, 409, api.CodeInUse, "in use"},
		{&engine.CutError{Title: "stop", Guests: []string{"web", "db"}}, 409, api.CodeCutsGuests, "--cut-guests"},
		{&plan.ForeignError{Key: host.LinkKey("virbr0")}, 409, api.CodeForeign, "link virbr0 exists"},
		{&plan.UnrestorableError{Key: host.LinkKey("eth0"), Attributes: []string{"xdp"}}, 409, api.CodeUnrestorable, "xdp"},
		{&txn.StuckError{ID: "c1", Cause: spec.ErrInUse}, 500, api.CodeInternal, "c1 is stuck"},
		{context.DeadlineExceeded, 503, api.CodeUnavailable, "try again"},
		{errors.Join(errors.New("disk is full"), errors.New("and worse")), 500, api.CodeInternal, "disk is full; and worse"},
	} {
		f := newFake()
		f.fail = c.err
		_, client := serve(t, f, nil)
		_, err := client.StartNetwork(t.Context(), "x", api.Options{})
		p := isProblem(t, err, c.status, c.code, c.detail)
		if c.code == api.CodeCutsGuests && !reflect.DeepEqual(p.Guests, []string{"web", "db"}) {
			t.Errorf("guests are %v", p.Guests)
		}
		if c.code == api.CodeInvalid && p.Field != "subnet" {
			t.Errorf("field is %q", p.Field)
		}
	}
}

func TestWhatTheLibraryRefusesHasOurForm(t *testing.T) {
	socket, _ := serve(t, newFake(), nil)
	for _, c := range []struct {
		method, path, body string
		status             int
		code, detail       string
	}{
		{"POST", "/v1/networks", `{"name":"a","colour":"red"}`, 422, api.CodeInvalid, "colour"},
		{"POST", "/v1/networks", `{"mode":"nat"}`, 422, api.CodeInvalid, "name"},
		{"POST", "/v1/networks", `{"name":"a"`, 400, api.CodeBadRequest, ""},
		{"POST", "/v1/networks", `{"name":"A b"}`, 422, api.CodeInvalid, "name:"},
		{"POST", "/v1/networks?dry-run=true", `{"name":"a"}`, 422, api.CodeInvalid, "dry-run"},
		{"GET", "/v1/nonsense", "", 404, api.CodeNotFound, "/v1/nonsense"},
		{"DELETE", "/v1/status", "", 404, api.CodeNotFound, "no such call"},
		{"POST", "/v1/changes/x/extend", `{"seconds":0}`, 422, api.CodeInvalid, "seconds"},
		{"POST", "/v1/ports/open", `{"network":"default"}`, 400, api.CodeBadRequest, "Upgrade"},
	} {
		status, contentType, body := raw(t, socket, c.method, c.path, c.body)
		var p api.Problem
		if err := json.Unmarshal(body, &p); err != nil {
			t.Errorf("%s %s: %v in %q", c.method, c.path, err, body)
			continue
		}
		if status != c.status || p.Status != c.status || p.Code != c.code || !strings.Contains(p.Detail, c.detail) || contentType != "application/problem+json" {
			t.Errorf("%s %s %s: %d %s %+v", c.method, c.path, c.body, status, contentType, p)
		}
	}
}

func TestStatusShowsAll(t *testing.T) {
	f := newFake()
	f.doc = f.doc.With(network(t, "default"))
	f.view = engine.View{
		Networks: map[spec.NetworkName]engine.NetworkView{"default": {Running: false, Problems: []string{"link virbr0 is missing"}, Leases: 2, PoolSize: 253}},
		Problems: []string{"guest services do not answer"}, Repairs: 3,
		Changes: []txn.Txn{{ID: "abc", Title: "move eth0", Phase: txn.Waiting, Deadline: 130e9}},
		Leases:  []engine.Lease{{Network: "default", MAC: "52:54:00:00:00:01", Address: "192.168.122.7", Expires: 1700000000}, {Network: "default", Address: "192.168.122.8"}},
	}
	began := time.Unix(1_700_000_000, 0)
	now := began
	_, c := serve(t, f, func(c *Config) { c.Now = func() time.Time { return now } })
	now = began.Add(90 * time.Second)
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != "1.2.3" || s.UptimeSecs != 90 || s.ServicesPID != 4711 || s.Repairs != 3 || s.Leases != 2 {
		t.Errorf("status is %+v", s)
	}
	if want := []string{"guest services do not answer", `network "default": link virbr0 is missing`}; !reflect.DeepEqual(s.Problems, want) {
		t.Errorf("problems are %q", s.Problems)
	}
	if len(s.Changes) != 1 || s.Changes[0].DeadlineSecs == nil || *s.Changes[0].DeadlineSecs != 30 {
		t.Errorf("changes are %+v", s.Changes)
	}
	leases, err := c.Leases(t.Context())
	if err != nil || len(leases) != 2 || leases[0].Expires == nil || leases[0].Expires.Unix() != 1700000000 || leases[1].Expires != nil {
		t.Errorf("leases are %+v, %v", leases, err)
	}
}

func TestListsAreNeverNull(t *testing.T) {
	socket, _ := serve(t, newFake(), nil)
	for _, path := range []string{"status", "networks", "reservations", "leases", "guests", "ports", "document", "topology", "changes", "modes"} {
		_, _, body := raw(t, socket, http.MethodGet, "/v1/"+path, "")
		if strings.Contains(string(body), "null") {
			t.Errorf("%s has a null: %s", path, body)
		}
	}
}

func TestDecisions(t *testing.T) {
	f := newFake()
	f.view.Changes = []txn.Txn{{ID: "abc", Title: "move eth0", Phase: txn.Waiting, Deadline: 130e9}}
	_, c := serve(t, f, nil)
	ctx := t.Context()
	for _, err := range []error{c.Confirm(ctx, "abc"), c.Cancel(ctx, "abc"), c.Extend(ctx, "abc", 90*time.Second)} {
		if err != nil {
			t.Error(err)
		}
	}
	if want := []string{"confirm abc", "cancel abc", "extend abc 1m30s"}; !reflect.DeepEqual(f.decided, want) {
		t.Errorf("decided %q", f.decided)
	}
	if ch, err := c.Change(ctx, "abc"); err != nil || ch.Title != "move eth0" {
		t.Errorf("change: %+v %v", ch, err)
	}
	_, err := c.Change(ctx, "gone")
	isProblem(t, err, 404, api.CodeNotFound, "gone")
}
