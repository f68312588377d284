package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTallyOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	want := map[string][]byte{}
	for round := range 3 {
		tally, err := OpenTally(dir)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tally.LoadTally()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" || tally.Damaged() != nil {
			t.Errorf("round %d: saved (-) and loaded (+) differ, %v:\n%s", round, tally.Damaged(), diff)
		}
		change := map[string][]byte{"forward tcp/80": fmt.Append(nil, round), fmt.Sprint("round ", round): {}, fmt.Sprint("round ", round-1): nil}
		for k, v := range change {
			if want[k] = v; v == nil {
				delete(want, k)
			}
		}
		if err := tally.SaveTally(change); err != nil {
			t.Fatal(err)
		}
		if err := tally.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTallyAllOrNothing(t *testing.T) {
	tally, err := OpenTally(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer tally.Close()
	// bbolt takes no empty key.
	if tally.SaveTally(map[string][]byte{"": {1}, "a": {1}, "b": {1}, "c": {1}}) == nil {
		t.Fatal("taken")
	}
	if got, err := tally.LoadTally(); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTallyPutsDamageAside(t *testing.T) {
	for name, garbage := range map[string][]byte{"short": []byte("no"), "long": make([]byte, 100000)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, TallyFile), garbage, 0o600); err != nil {
				t.Fatal(err)
			}
			tally, err := OpenTally(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer tally.Close()
			if tally.Damaged() == nil {
				t.Error("nothing said")
			}
			if err := tally.SaveTally(map[string][]byte{"a": {1}}); err != nil {
				t.Error(err)
			}
			if kept, err := os.ReadFile(filepath.Join(dir, TallyFile+".damaged")); err != nil || len(kept) != len(garbage) {
				t.Errorf("%d bytes kept: %v", len(kept), err)
			}
		})
	}
}

// TestTallyOfThirtyThousand measures the worst round: every forward has counts.
func TestTallyOfThirtyThousand(t *testing.T) {
	tally, err := OpenTally(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer tally.Close()
	for range 2 {
		entries := map[string][]byte{"live": make([]byte, 300000)}
		for i := range 30000 {
			entries[fmt.Sprint("forward tcp/", i)] = []byte(`{"connections":1,"packets":10,"bytes":1000}`)
		}
		begin := time.Now()
		if err := tally.SaveTally(entries); err != nil {
			t.Fatal(err)
		}
		t.Logf("30000 counters saved in %v", time.Since(begin))
	}
	if got, err := tally.LoadTally(); err != nil || len(got) != 30001 {
		t.Errorf("%d entries: %v", len(got), err)
	}
}
