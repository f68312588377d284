package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

func entries(t *testing.T, s *Store) []txn.Entry {
	t.Helper()
	var all []txn.Entry
	if err := s.History(func(e txn.Entry) bool { all = append(all, e); return true }); err != nil {
		t.Fatal(err)
	}
	return all
}

func reopen(t *testing.T, s *Store, dir string) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func changeTo(id string, phase txn.Phase, names ...spec.NetworkName) txn.Txn {
	doc := spec.Document{Networks: map[spec.NetworkName]spec.Network{}}
	for _, n := range names {
		doc = doc.With(spec.Network{Name: n, Bridge: "br-" + string(n)})
	}
	return txn.Txn{
		ID: id, Title: "make " + id, Phase: phase, Doc: doc, Ledger: host.Ledger{},
		By:    txn.Actor{Kind: txn.ByUser, Name: "alice", UID: 1000},
		Steps: []plan.Step{{After: host.Link{Name: "br-a", Type: host.TypeBridge}}},
	}
}

func TestTheRecordIsWrittenWithTheCommit(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Save(changeTo("1", txn.Applying, "a")))
	if got := entries(t, s); len(got) != 0 {
		t.Errorf("before the commit the record is %+v", got)
	}
	must(s.Commit(changeTo("1", txn.Confirmed, "a")))
	must(s.End(changeTo("2", txn.RolledBack, "a", "b")))
	must(s.Save(changeTo("3", txn.Stuck, "a", "c")))
	after := changeTo("4", txn.Confirmed, "a", "d")
	after.After = []plan.Step{{After: host.Profile{}}}
	must(s.Commit(after))
	must(s.End(after)) // is in the record already
	must(s.Record(txn.Entry{Kind: txn.EntryPort, Title: "plugged", StepCount: 1}))
	s = reopen(t, s, dir)
	want := []string{"5 port plugged  0", "4 change make 4 confirmed 1", "3 change make 3 stuck 1", "2 change make 2 rolled-back 1", "1 change make 1 confirmed 1"}
	for i, e := range entries(t, s) {
		if got := fmt.Sprint(e.Number, " ", e.Kind, " ", e.Title, " ", e.Phase, " ", e.ObjectCount); got != want[i] {
			t.Errorf("entry %d is %q, want %q", i, got, want[i])
		}
		if e.Ended.IsZero() || e.Began.IsZero() {
			t.Errorf("entry %d has no time: %+v", i, e)
		}
	}
	if e := entries(t, s)[1]; e.Objects[0].Network != "d" || e.Objects[0].Bare.After.Bridge != "br-d" || e.By.Name != "alice" || e.Steps[0].After != after.Steps[0].After {
		t.Errorf("entry is %+v", e)
	}
}

func TestTheRecordIsBoundedAndForeignChangesPushOutNoOthers(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.db.NoSync = true
	if err := s.Commit(changeTo("mine", txn.Confirmed, "a")); err != nil {
		t.Fatal(err)
	}
	limit := shelves[string(bucketSeen)]
	long := strings.Repeat("x", 2*limit.bytes/limit.entries)
	lot := make([]txn.Entry, 500)
	for range 2*limit.entries/len(lot) + 1 {
		for i := range lot {
			lot[i] = txn.Entry{Kind: txn.EntryForeign, Title: long, StepCount: 1}
		}
		if err := s.Record(lot...); err != nil {
			t.Fatal(err)
		}
	}
	got := entries(t, s)
	bytes := 0
	if err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSeen).ForEach(func(k, v []byte) error { bytes += len(k) + len(v); return nil })
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) > limit.entries || bytes > limit.bytes || bytes < limit.bytes/2 {
		t.Errorf("%d entries with %d bytes are kept, of %+v", len(got), bytes, limit)
	}
	if last := got[len(got)-1]; last.ID != "mine" {
		t.Errorf("the oldest is %+v", last.Title)
	}
	if got[0].Number <= got[1].Number {
		t.Errorf("order is %d, %d", got[0].Number, got[1].Number)
	}
}

func TestALargeChangeIsRecordedInShort(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var list []spec.Forward
	for port := range 5000 {
		list = append(list, spec.Forward{Proto: spec.TCP, First: uint16(port + 1), Last: uint16(port + 1), Target: "web", TargetPort: 80})
	}
	big := changeTo("big", txn.Confirmed)
	big.Doc = big.Doc.With(spec.Network{Name: "a"}.WithForwards(list))
	for range 5000 {
		big.Steps = append(big.Steps, big.Steps[0])
	}
	if err := s.Commit(big); err != nil {
		t.Fatal(err)
	}
	e := entries(t, s)[0]
	if e.ObjectCount != 5001 || e.StepCount != 5001 || len(e.Objects) != 1000 || len(e.Steps) != 500 || e.Whole() {
		t.Errorf("entry has %d of %d things and %d of %d steps", len(e.Objects), e.ObjectCount, len(e.Steps), e.StepCount)
	}
}

func TestADamagedEntryIsNamedAndTheOthersAreRead(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"1", "2", "3"} {
		if err := s.Commit(changeTo(id, txn.Confirmed, "a", spec.NetworkName("n"+id))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketRecord).Put(number(2), []byte(`{"Kind":`)) }); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir)
	got := entries(t, s)
	if len(got) != 3 || got[0].ID != "3" || got[2].ID != "1" || got[1].Kind != txn.EntryDamaged || got[1].Problem == "" || got[1].Number != 2 {
		t.Errorf("record is %+v", got)
	}
	if err := s.Commit(changeTo("4", txn.Confirmed, "a")); err != nil {
		t.Error(err)
	}
}

// What cannot be written is not half written.
func TestAFailedCommitLeavesNoEntry(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	full := errors.New("no space left")
	err = s.db.Update(func(tx *bbolt.Tx) error {
		if err := s.record(tx, changeTo("1", txn.Confirmed, "a").Entry(spec.Document{})); err != nil {
			return err
		}
		return full
	})
	if !errors.Is(err, full) || len(entries(t, s)) != 0 {
		t.Errorf("%v, record %+v", err, entries(t, s))
	}
	if err := s.Commit(changeTo("2", txn.Confirmed, "a")); err != nil || entries(t, s)[0].Number != 1 {
		t.Errorf("%v, record %+v", err, entries(t, s))
	}
}
