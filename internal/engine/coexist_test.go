package engine_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// neighbour is another program's firewall: what guests need of it just now.
type neighbour struct {
	needed []host.Resource
	late   []host.Key
	err    error
}

func (n *neighbour) Exceptions(_ context.Context, doc spec.Document, _ host.State) ([]host.Resource, []host.Key, error) {
	if len(doc.Networks) == 0 || !doc.Networks["default"].Started {
		return nil, nil, n.err
	}
	return n.needed, n.late, n.err
}

func TestExceptionsComeAndGoWithTheNeed(t *testing.T) {
	theirs := host.Chain{Table: host.Table{Family: host.FamilyInet, Name: "others"}, Name: "through", Type: "filter", Hook: "forward", Rules: "counter drop"}
	out := host.Accept{Table: theirs.Table, Chain: theirs.Name, Bridge: "virbr0", Way: host.WayOut, Subnet: netip.MustParsePrefix("192.168.122.0/24")}
	begin := func(t *testing.T, observe bool) (*machine, *engine.Engine, *neighbour, func(time.Duration)) {
		t.Helper()
		m := newMachine(t)
		m.fake = nettest.NewFake(append(nic(), theirs.Table, theirs)...)
		n, at := &neighbour{}, time.Unix(1000, 0)
		m.firewalls, m.observe, m.now = n, observe, func() time.Time { return at }
		e := m.start(m.fake)
		if _, err := e.Do(t.Context(), engine.CreateNetwork{Network: spec.Network{Name: "default", Started: true, Bridge: "virbr0"}}, engine.Options{}); err != nil {
			t.Fatal(err)
		}
		return m, e, n, func(d time.Duration) { at = at.Add(d) }
	}
	look := func(t *testing.T, m *machine, e *engine.Engine, want bool, when string) {
		t.Helper()
		if _, err := e.Reload(t.Context(), engine.Options{}); err != nil {
			t.Fatal(err)
		}
		_, there := m.state()[out.Key()]
		_, mine := m.disk.Ledger()[out.Key()]
		if there != want || mine != want {
			t.Errorf("%s: there %t, in the ledger %t, want %t", when, there, mine, want)
		}
	}
	t.Run("needed and not any more", func(t *testing.T) {
		m, e, n, wait := begin(t, false)
		look(t, m, e, false, "nobody stops guests")
		n.needed = []host.Resource{out}
		look(t, m, e, true, "somebody does")
		if err := m.fake.Outside(plan.Step{Before: out}); err != nil {
			t.Fatal(err)
		}
		look(t, m, e, true, "somebody took it away")
		n.needed = nil
		look(t, m, e, true, "nothing needs it since a moment")
		wait(9 * time.Second)
		look(t, m, e, true, "since nine seconds")
		wait(2 * time.Second)
		look(t, m, e, false, "since eleven")
	})
	t.Run("needed again in between", func(t *testing.T) {
		m, e, n, wait := begin(t, false)
		n.needed = []host.Resource{out}
		look(t, m, e, true, "somebody stops guests")
		for range 3 {
			n.needed = nil
			look(t, m, e, true, "for a moment nobody does")
			wait(6 * time.Second)
			n.needed = []host.Resource{out}
			look(t, m, e, true, "and does again")
		}
		if err := m.fake.Outside(plan.Step{Before: theirs}); err != nil {
			t.Fatal(err)
		}
		n.needed = nil
		look(t, m, e, false, "its chain is gone")
	})
	t.Run("needed again behind another rule", func(t *testing.T) {
		m, e, n, _ := begin(t, false)
		made := func() int { return m.fake.Effects() }
		n.needed = []host.Resource{out}
		look(t, m, e, true, "somebody stops guests")
		before := made()
		n.late = []host.Key{out.Key()}
		look(t, m, e, true, "somebody puts a rule before it")
		if made() != before {
			t.Error("he is not left alone")
		}
		n.needed, n.late = nil, nil
		look(t, m, e, true, "nobody stops guests")
		n.needed, n.late = []host.Resource{out}, []host.Key{out.Key()}
		res, err := e.Reload(t.Context(), engine.Options{DryRun: true})
		if err != nil || len(res.Steps) != 1 || res.Steps[0].Before != nil || res.Steps[0].After != host.Resource(out) {
			t.Errorf("a firewall comes and is before it: %v, %v", res.Steps, err)
		}
	})
	t.Run("the rules cannot be read", func(t *testing.T) {
		m, e, n, wait := begin(t, false)
		n.needed = []host.Resource{out}
		look(t, m, e, true, "somebody stops guests")
		n.err = errors.New("not now")
		wait(time.Minute)
		look(t, m, e, true, "what is there stays")
	})
	t.Run("the network stops", func(t *testing.T) {
		m, e, n, _ := begin(t, false)
		n.needed = []host.Resource{out}
		look(t, m, e, true, "somebody stops guests")
		if _, err := e.Do(t.Context(), engine.StopNetwork{Name: "default"}, engine.Options{}); err != nil {
			t.Fatal(err)
		}
		look(t, m, e, false, "at once")
	})
	t.Run("observed only", func(t *testing.T) {
		m, e, n, _ := begin(t, true)
		n.needed = []host.Resource{out}
		look(t, m, e, false, "somebody stops guests")
		if _, err := e.Mend(t.Context(), "doctor --fix", []plan.Step{{After: out}}, engine.Options{}); err != nil {
			t.Fatal(err)
		}
		look(t, m, e, true, "a person had it put there")
	})
}
