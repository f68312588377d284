package store

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

var same = cmp.Options{
	cmp.Comparer(func(a, b spec.Document) bool { return a.Equal(b) && a.Revision == b.Revision }),
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func forward(proto spec.Proto, port uint16, target string) spec.Forward {
	return spec.Forward{Proto: proto, Listen: netip.IPv4Unspecified(), First: port, Last: port, Target: target, TargetPort: 80}
}

// wander makes a document and a ledger that differ from others in some places.
func wander(r *rand.Rand, doc spec.Document, ledger host.Ledger) (spec.Document, host.Ledger) {
	doc, ledger = doc.Clone(), ledger.Clone()
	if doc.Networks == nil {
		doc.Networks = map[spec.NetworkName]spec.Network{}
	}
	for range 1 + r.IntN(4) {
		name := spec.NetworkName([]string{"a", "ab", "b-c"}[r.IntN(3)])
		n := doc.Networks[name]
		n.Name = name
		switch r.IntN(6) {
		case 0:
			delete(doc.Networks, name)
			continue
		case 1:
			n.MTU = 1000 + r.IntN(3)
		default:
			for range r.IntN(5) {
				f := forward([]spec.Proto{spec.TCP, spec.UDP}[r.IntN(2)], uint16(1+r.IntN(12)), fmt.Sprint("guest", r.IntN(3)))
				if f.Last += uint16(r.IntN(2)); r.IntN(3) == 0 {
					n = n.WithoutForward(f)
				} else {
					n = n.WithForward(f)
				}
			}
		}
		doc.Networks[name] = n
	}
	key := host.LinkKey(fmt.Sprint("virbr", r.IntN(4)))
	if delete(ledger, key); r.IntN(2) == 0 {
		ledger[key] = host.Claim{Kind: host.Borrowed, Original: host.Link{Name: key.Name, MTU: r.IntN(2)}}
	}
	return doc, ledger
}

// TestWhatIsCommittedIsReadBack walks from document to document, through the
// journal, and looks after each step with a store of its own.
func TestWhatIsCommittedIsReadBack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 14))
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 150 {
		had, owned := s.Document(), s.Ledger()
		change := txn.Txn{ID: "c", Title: fmt.Sprint("change ", i), Phase: txn.Applying, Scope: []host.Key{host.LinkKey("virbr0")}, Snapshot: host.State{}, Goal: host.State{}}
		change.Doc, change.Ledger = wander(r, had, owned)
		if err := s.Save(change); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = open(t, dir)
		left, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]txn.Txn{change}, left, same); diff != "" {
			t.Fatalf("round %d: the journal gives back something else:\n%s", i, diff)
		}
		if !s.Document().Equal(had) || !cmp.Equal(s.Ledger(), owned) {
			t.Fatalf("round %d: a change that is not committed shows", i)
		}
		if r.IntN(4) == 0 {
			if err := s.End(left[0]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := s.Commit(left[0]); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = open(t, dir)
		want := change.Doc
		want.Revision = had.Revision + 1
		if diff := cmp.Diff(want, s.Document(), same); diff != "" {
			t.Fatalf("round %d: committed (-) and read back (+) differ:\n%s", i, diff)
		}
		if diff := cmp.Diff(change.Ledger, s.Ledger()); diff != "" {
			t.Fatalf("round %d: ledger committed (-) and read back (+) differ:\n%s", i, diff)
		}
		if left, err := s.Load(); err != nil || len(left) > 0 {
			t.Fatalf("round %d: the journal holds %v, %v", i, left, err)
		}
	}
}

// TestConfirmedKeepsWhatFollows commits a change with steps for afterwards.
func TestConfirmedKeepsWhatFollows(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	doc := spec.Document{}.With(spec.Network{Name: "lan"}.WithForward(forward(spec.TCP, 80, "web")))
	change := txn.Txn{ID: "c", Phase: txn.Confirmed, Doc: doc, Ledger: host.Ledger{}, After: []plan.Step{{After: host.Profile{Stage: host.Permanent, Bridge: "br0"}}}}
	if err := s.Commit(change); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	left, err := s.Load()
	if err != nil || len(left) != 1 || !left[0].Doc.Equal(doc) || len(left[0].After) != 1 {
		t.Fatalf("%+v, %v", left, err)
	}
	if !s.Document().Equal(doc) {
		t.Errorf("committed is %v", s.Document())
	}
	if err := s.End(left[0]); err != nil {
		t.Fatal(err)
	}
	if left, err := s.Load(); err != nil || len(left) > 0 {
		t.Errorf("afterwards %v, %v", left, err)
	}
}

// TestOldFormatIsConverted writes a database as format 1 had it: networks with
// their forwards in them, the journal with whole documents.
func TestOldFormatIsConverted(t *testing.T) {
	dir := t.TempDir()
	doc := spec.Document{Revision: 7, Networks: map[spec.NetworkName]spec.Network{
		"lab": spec.Network{Name: "lab", Bridge: "virbr0"}.WithForward(forward(spec.TCP, 80, "web")).WithForward(forward(spec.UDP, 53, "ns")),
		"iso": {Name: "iso"},
	}}
	ledger := host.Ledger{host.LinkKey("virbr0"): {Kind: host.Made}}
	open1 := txn.Txn{ID: "c", Title: "add", Phase: txn.Applying, Doc: doc.With(doc.Networks["iso"].WithForward(forward(spec.TCP, 81, "web"))), Ledger: host.Ledger{}}
	db, err := bbolt.Open(filepath.Join(dir, File), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		write := func(bucket, key string, v []byte) {
			b, err := tx.CreateBucketIfNotExists([]byte(bucket))
			if err == nil {
				err = b.Put([]byte(key), v)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		text := func(v any) []byte {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		for name, n := range doc.Networks {
			write("networks", string(name), text(n))
		}
		for key, claim := range ledger {
			write("ledger", key.String(), text(claim))
		}
		write("journal", "c", text(open1))
		write("meta", "revision", number(7))
		write("meta", "format", number(1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	for range 2 { // the second time it is of the new format
		s := open(t, dir)
		if diff := cmp.Diff(doc, s.Document(), same); diff != "" {
			t.Errorf("old (-) and read (+) differ:\n%s", diff)
		}
		if diff := cmp.Diff(ledger, s.Ledger()); diff != "" {
			t.Errorf("old ledger (-) and read (+) differ:\n%s", diff)
		}
		left, err := s.Load()
		if err != nil || len(left) != 1 {
			t.Fatalf("%v, %v", left, err)
		}
		if !left[0].Doc.Equal(open1.Doc) || len(left[0].Ledger) != 0 || left[0].Title != "add" {
			t.Errorf("the journal gives %+v", left[0])
		}
		s.Close()
	}
}

// TestNewerFormatIsRefused leaves alone what a newer program wrote.
func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyFormat, number(format+1)) }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(dir); err == nil {
		t.Error("opened")
	}
}

// TestOneForwardOfManyIsWrittenAlone counts what a change of one of many forwards
// writes to the disk: some pages, however many there are.
func TestOneForwardOfManyIsWrittenAlone(t *testing.T) {
	written := map[int]int64{}
	for _, count := range []int{10, 20000} {
		s := open(t, t.TempDir())
		var list []spec.Forward
		for i := range count {
			list = append(list, forward(spec.TCP, uint16(1000+i), "web"))
		}
		n := spec.Network{Name: "lab"}.WithForwards(list)
		doc := spec.Document{}.With(n)
		if err := s.Commit(txn.Txn{ID: "a", Doc: doc}); err != nil {
			t.Fatal(err)
		}
		before := s.db.Stats()
		change := txn.Txn{ID: "b", Doc: doc.With(n.WithForward(forward(spec.TCP, 5, "web")))}
		if err := s.Save(change); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(change); err != nil {
			t.Fatal(err)
		}
		now := s.db.Stats()
		written[count] = now.TxStats.PageAlloc - before.TxStats.PageAlloc
	}
	if written[20000] > written[10]+200<<10 {
		t.Errorf("bytes of pages written beside so many others: %v", written)
	}
	t.Logf("bytes of pages written beside so many others: %v", written)
}
