package engine_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// history is the record, the newest first.
func history(t *testing.T, e *engine.Engine) []txn.Entry {
	t.Helper()
	var all []txn.Entry
	if err := e.History(func(entry txn.Entry) bool { all = append(all, entry); return true }); err != nil {
		t.Fatal(err)
	}
	return all
}

// bench is an engine with a network, on which things are done.
type bench struct {
	*engine.Engine
	t *testing.T
}

func newBench(t *testing.T) bench {
	e := newMachineEngine(t)
	return bench{e, t}
}

func newMachineEngine(t *testing.T) *engine.Engine {
	m := newMachine(t)
	e := m.start(m.fake)
	e.Flows = noFlows{}
	return e
}

func (b bench) do(c engine.Command) string {
	b.t.Helper()
	res, err := b.Do(byAlice(b.t.Context()), c, engine.Options{CutGuests: true})
	if err != nil {
		b.t.Fatal(err)
	}
	return res.ID
}

func (b bench) undo(id string) string {
	b.t.Helper()
	res, err := b.Undo(b.t.Context(), id, engine.Options{CutGuests: true})
	if err != nil {
		b.t.Fatal(err)
	}
	return res.ID
}

func (b bench) refuses(id string, want ...string) {
	b.t.Helper()
	before := b.Document()
	_, err := b.Undo(b.t.Context(), id, engine.Options{CutGuests: true})
	if err == nil {
		b.t.Fatalf("undo %s was not refused", id)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			b.t.Errorf("undo %s says %q, want %q", id, err, w)
		}
	}
	if !errors.Is(err, spec.ErrInUse) || !before.Equal(b.Document()) {
		b.t.Errorf("undo %s: %v, or the document is another", id, err)
	}
}

var (
	someReservation = spec.Reservation{MAC: "52:54:00:00:00:01", Addr: netip.MustParseAddr("192.168.122.9"), Hostname: "db"}
	someForward     = spec.Forward{Proto: spec.TCP, Listen: netip.IPv4Unspecified(), First: 8080, Last: 8080, Target: "web", TargetPort: 80}
)

func TestTheRecordSaysWhatWhoAndHow(t *testing.T) {
	b := newBench(t)
	id := b.do(network("lab"))
	all := history(t, b.Engine)
	if len(all) != 1 {
		t.Fatalf("record has %d entries", len(all))
	}
	e := all[0]
	if e.ID != id || e.Kind != txn.EntryChange || e.Title != `create network "lab"` || e.Phase != txn.Confirmed || e.By.String() != alice ||
		e.StepCount != len(e.Steps) || e.StepCount < 5 || !slices.Equal(e.Networks, []spec.NetworkName{"lab"}) || e.Began.IsZero() || e.Ended.Before(e.Began) {
		t.Errorf("entry is %+v", e)
	}
	if len(e.Objects) != 1 || e.Objects[0].Bare.Before != nil || !e.Objects[0].Bare.After.Equal(txn.Bare(b.Document().Networks["lab"])) {
		t.Errorf("objects are %+v", e.Objects)
	}
	b.do(engine.Reserve{Name: "lab", Reservation: someReservation})
	e = history(t, b.Engine)[0]
	if e.Number != 2 || len(e.Objects) != 1 || e.Objects[0].Name() != someReservation.MAC || *e.Objects[0].Reservation.After != someReservation {
		t.Errorf("entry of the reservation is %+v", e)
	}
	if _, err := b.Do(t.Context(), engine.StopNetwork{Name: "lab"}, engine.Options{DryRun: true}); err != nil || len(history(t, b.Engine)) != 2 {
		t.Errorf("a dry run is recorded, or %v", err)
	}
}

func TestUndoPutsBackWhatAChangeAltered(t *testing.T) {
	changes := []struct {
		before []engine.Command
		change engine.Command
	}{
		{nil, network("lab")},
		{[]engine.Command{network("lab")}, engine.StopNetwork{Name: "lab"}},
		{[]engine.Command{network("lab")}, engine.SetNetwork{Name: "lab", Settings: map[string]string{"mtu": "1400", "domain": "lab.test"}}},
		{[]engine.Command{network("lab")}, engine.Reserve{Name: "lab", Reservation: someReservation}},
		{[]engine.Command{network("lab"), engine.Reserve{Name: "lab", Reservation: someReservation}}, engine.Unreserve{Name: "lab", MAC: someReservation.MAC}},
		{[]engine.Command{network("lab"), engine.StopNetwork{Name: "lab"}}, engine.AddForward{Network: "lab", Forwards: []spec.Forward{someForward}}},
		{[]engine.Command{network("lab"), engine.StopNetwork{Name: "lab"}, engine.AddForward{Network: "lab", Forwards: []spec.Forward{someForward}}, engine.Reserve{Name: "lab", Reservation: someReservation}},
			engine.RemoveNetwork{Name: "lab"}},
		{[]engine.Command{network("lab"), network("other", isolated)}, engine.StopAll{}},
	}
	for _, c := range changes {
		t.Run(c.change.Title(), func(t *testing.T) {
			b := newBench(t)
			for _, cmd := range c.before {
				b.do(cmd)
			}
			before := b.Document()
			id := b.do(c.change)
			after := b.Document()
			res, err := b.Undo(t.Context(), id, engine.Options{DryRun: true})
			if err != nil || !res.DryRun || !b.Document().Equal(after) {
				t.Fatalf("dry run: %v", err)
			}
			again := b.undo(id)
			if !b.Document().Equal(before) {
				t.Errorf("document is %+v, want %+v", b.Document(), before)
			}
			if e := history(t, b.Engine)[0]; !strings.HasPrefix(e.Title, "undo "+id+" (") || e.ID != again {
				t.Errorf("recorded is %q", e.Title)
			}
			b.undo(again)
			if !b.Document().Equal(after) {
				t.Errorf("undone twice the document is %+v, want %+v", b.Document(), after)
			}
		})
	}
}

func TestUndoIsRefusedWhereLaterChangesStandOnIt(t *testing.T) {
	b := newBench(t)
	create := b.do(network("lab"))
	b.do(network("other", isolated))
	set := b.do(engine.SetNetwork{Name: "lab", Settings: map[string]string{"mtu": "1400"}})
	b.refuses(create, set, "set mtu", "undo them first")
	stop := b.do(engine.StopNetwork{Name: "lab"})
	b.refuses(set, stop, "stop network")
	b.undo(stop)
	b.undo(set)
	reserve := b.do(engine.Reserve{Name: "lab", Reservation: someReservation})
	b.refuses(create, reserve, "later changes of network lab")
	changed := someReservation
	changed.Hostname = "db2"
	again := b.do(engine.Reserve{Name: "lab", Reservation: changed})
	b.refuses(reserve, again)
	b.undo(again)
	b.undo(reserve)
	remove := b.do(engine.RemoveNetwork{Name: "lab"})
	b.refuses(create, remove)
	b.undo(remove)
	b.undo(create)
	if _, there := b.Document().Networks["lab"]; there {
		t.Error("the network is still there")
	}
	b.refuses(create, "cannot be undone")
	if _, err := b.Undo(t.Context(), "deadbeef", engine.Options{}); !errors.Is(err, spec.ErrNotFound) {
		t.Errorf("an unknown change: %v", err)
	}
}

func TestPortsAndForeignChangesAreInTheRecord(t *testing.T) {
	m := newMachine(t)
	e := m.start(m.fake)
	b := bench{e, t}
	b.do(network("lab"))
	p, err := e.AttachPort(byAlice(t.Context()), engine.PortRequest{Network: "lab", Guest: "web", Owner: -1, Made: "attach"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		engine.TellForeign(e, engine.Hint{Kind: "rules", Who: "dockerd (pid 8)"})
	}
	if err := engine.KeepNow(e); err != nil {
		t.Fatal(err)
	}
	all := history(t, e)
	if len(all) != 3 {
		t.Fatalf("record is %+v", all)
	}
	if f := all[0]; f.Kind != txn.EntryForeign || f.Times != 3 || f.By.String() != "dockerd (pid 8)" {
		t.Errorf("foreign change is %+v", f)
	}
	if f := all[1]; f.Kind != txn.EntryPort || !strings.Contains(f.Title, p.Tap) || f.By.String() != alice || !f.About("lab") {
		t.Errorf("port is %+v", f)
	}
	// After a crash they are still there.
	if again := history(t, m.start(m.fake)); len(again) != 3 {
		t.Errorf("after a restart the record is %+v", again)
	}
}

func TestARolledBackChangeIsInTheRecord(t *testing.T) {
	m := newMachine(t)
	e := m.start(m.fake)
	m.fake.FailAt(3)
	_, err := e.Do(byAlice(t.Context()), network("lab"), engine.Options{})
	if err == nil {
		t.Fatal("it did not fail")
	}
	all := history(t, e)
	if len(all) != 1 || all[0].Phase != txn.RolledBack || all[0].Problem == "" || all[0].By.String() != alice {
		t.Fatalf("record is %+v", all)
	}
	b := bench{e, t}
	b.refuses(all[0].ID, "rolled-back")
}

// Whenever the power goes, a change is in the record as confirmed if, and only if,
// it is in the document.
func TestTheRecordAgreesWithTheDocumentAfterAPowerCut(t *testing.T) {
	for cut := 0; ; cut++ {
		m := newMachine(t)
		e := m.start(m.fake)
		if _, err := e.Do(t.Context(), network("default"), engine.Options{}); err != nil {
			t.Fatal(err)
		}
		m.disk.cut = cut
		_, err := e.Do(byAlice(t.Context()), network("lab", isolated), engine.Options{})
		over := m.disk.cut > 0 || err == nil
		m.fake.Restart()
		e = m.start(m.fake)
		_, there := e.Document().Networks["lab"]
		confirmed, ended := 0, 0
		for _, entry := range history(t, e) {
			if entry.Title != `create network "lab"` {
				continue
			}
			ended++
			if entry.Phase == txn.Confirmed {
				confirmed++
			}
			if entry.By.String() != alice {
				t.Errorf("cut %d: it was done by %q", cut, entry.By)
			}
		}
		if (confirmed == 1) != there || confirmed > 1 || ended > 1 {
			t.Errorf("cut %d: the network is there: %v; the record has it %d times, %d of them confirmed", cut, there, ended, confirmed)
		}
		if over {
			if cut < 2 {
				t.Errorf("only %d writes", cut)
			}
			return
		}
		if cut > 20 {
			t.Fatal("it never ends")
		}
	}
}

// What doctor turned of the host is in the record with its way back, which is refused
// if it is not any more as it was left.
func TestUndoTurnsTheHostBack(t *testing.T) {
	m := newMachine(t)
	b := bench{m.start(m.fake), t}
	b.do(network("lab"))
	loose := host.Sysctl{Path: "net/ipv4/conf/enp6s18/rp_filter", Value: "2", Link: "enp6s18"}
	value := func() string {
		seen, err := m.fake.Observe(t.Context(), loose.Key())
		if err != nil {
			t.Fatal(err)
		}
		s, _ := seen[loose.Key()].(host.Sysctl)
		return s.Value
	}
	strict := value()
	res, err := b.Mend(byAlice(t.Context()), "mend rp-filter of enp6s18", []plan.Step{{After: loose}}, engine.Options{})
	if err != nil || value() != "2" {
		t.Fatalf("rp_filter is %s: %v", value(), err)
	}
	back := b.undo(res.ID)
	if value() != strict {
		t.Errorf("rp_filter is %s and was %s", value(), strict)
	}
	b.refuses(res.ID, "sysctl net/ipv4/conf/enp6s18/rp_filter is not any more as it left it")
	b.undo(back)
	if value() != "2" {
		t.Errorf("undoing the undoing left rp_filter at %s", value())
	}
	if e := history(t, b.Engine)[0]; e.Title != "undo "+back+" (undo "+res.ID+" (mend rp-filter of enp6s18))" || len(e.Steps) != 1 {
		t.Errorf("the record says %+v", e)
	}
}

// Of a link that doctor turned it is what was turned that counts: the rest is others'.
func TestUndoLeavesWhatElseHappenedToALink(t *testing.T) {
	m := newMachine(t)
	b := bench{m.start(m.fake), t}
	link := func() host.Link {
		seen, err := m.fake.Observe(t.Context(), host.LinkKey("enp6s18"))
		if err != nil {
			t.Fatal(err)
		}
		return seen[host.LinkKey("enp6s18")].(host.Link)
	}
	was := link()
	small := was
	small.MTU = 1400
	res, err := b.Mend(byAlice(t.Context()), "mend mtu of enp6s18", []plan.Step{{Before: was, After: small}}, engine.Options{})
	if err != nil || link() != small {
		t.Fatalf("it is %+v: %v", link(), err)
	}
	other, want := small, was
	other.Alias, want.Alias = "somebody's", "somebody's"
	if err := m.fake.Outside(plan.Step{Before: small, After: other}); err != nil {
		t.Fatal(err)
	}
	b.undo(res.ID)
	if got := link(); got != want {
		t.Errorf("it is %+v, want %+v", got, want)
	}
	b.refuses(res.ID, "link enp6s18 is not any more as it left it")
}
