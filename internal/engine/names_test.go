package engine_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// A running guest's name is refused to others, and its own process may have more
// NICs under it.
func TestGuestsNameIsUnique(t *testing.T) {
	const self = 700
	held := func(pid int) map[string]engine.TapUser {
		return map[string]engine.TapUser{"vnet0": {PID: pid, Process: "qemu-system-x86"}}
	}
	for _, c := range []struct {
		name    string
		first   bool // made by attach
		users   map[string]engine.TapUser
		gone    bool // the first tap went, and nobody noticed
		asks    int
		attach  bool
		refused string
	}{
		{name: "the process itself", users: held(self), asks: self},
		{name: "a helper of the process", users: held(self), asks: 10 * self},
		{name: "another process", users: held(self), asks: 701, refused: `"web" is the guest of process 700 (qemu-system-x86), on network default as vnet0`},
		{name: "another, while the first is being handed its tap", asks: 701, refused: "process 700,"},
		{name: "another, while we hold the first's tap too", users: held(os.Getpid()), asks: 701, refused: "process 700,"},
		{name: "the process itself, while it is being handed its tap", asks: self},
		{name: "after the first ended", gone: true, asks: 701},
		{name: "attach", users: held(self), asks: 701, attach: true},
		{name: "beside an attached tap that nobody opened", first: true, asks: 701},
		{name: "beside an attached tap that is open", first: true, users: held(900), asks: 701, refused: "process 900"},
		{name: "who asks is not known", users: held(self), asks: 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			e := m.start(m.fake)
			if _, err := e.Do(t.Context(), network("default"), engine.Options{}); err != nil {
				t.Fatal(err)
			}
			plug := func(pid int, attach bool) (engine.Port, error) {
				r := engine.PortRequest{Network: "default", Guest: "web", Made: "qemu", Owner: -1, PID: pid}
				if attach {
					return e.AttachPort(t.Context(), r)
				}
				p, taps, _, err := e.OpenPort(t.Context(), r)
				for _, f := range taps {
					f.Close()
				}
				return p, err
			}
			first, err := plug(self, c.first)
			if err != nil {
				t.Fatal(err)
			}
			if c.gone {
				tap, err := m.fake.Observe(t.Context(), host.LinkKey(first.Tap))
				if err != nil {
					t.Fatal(err)
				}
				if err := m.fake.Outside(plan.Step{Before: tap[host.LinkKey(first.Tap)]}); err != nil {
					t.Fatal(err)
				}
			}
			m.users = c.users
			second, err := plug(c.asks, c.attach)
			if c.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				if same := second.MAC == first.MAC; same != c.gone {
					t.Errorf("the first had %s, the second has %s", first.MAC, second.MAC)
				}
				return
			}
			var invalid *spec.InvalidError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("got %v, want %q", err, c.refused)
			}
			if _, there := m.state()[host.LinkKey("vnet1")]; there {
				t.Error("refused, and a tap was left")
			}
		})
	}
}

// What cannot be refused is told.
func TestNameOfTwoProcessesIsAProblem(t *testing.T) {
	m := newMachine(t)
	e := m.start(m.fake)
	if _, err := e.Do(t.Context(), network("default"), engine.Options{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := e.AttachPort(t.Context(), engine.PortRequest{Network: "default", Guest: "web", Made: "attach", Owner: -1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		second int
		want   string
	}{{700, ""}, {701, `guest name "web" is used by processes 700 (vmm) and 701 (vmm)`}} {
		m.users = map[string]engine.TapUser{"vnet0": {PID: 700, Process: "vmm"}, "vnet1": {PID: c.second, Process: "vmm"}}
		v, err := e.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(v.Problems, "\n")
		if c.want == "" && strings.Contains(got, "web") || !strings.Contains(got, c.want) {
			t.Errorf("problems: %q, want %q", got, c.want)
		}
	}
}
