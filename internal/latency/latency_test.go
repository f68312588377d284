package latency

import (
	"slices"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	bounds := Bounds()
	if len(bounds)+1 != buckets || !slices.IsSorted(bounds) {
		t.Fatalf("%d bounds for %d buckets, or not in order: %v", len(bounds), buckets, bounds)
	}
	var h Histogram
	want := make([]uint64, buckets)
	for i, end := range bounds {
		h.Observe(end, 1)   // the end belongs to its bucket
		h.Observe(end+1, 2) // what is beyond, to the next
		want[i]++
		want[i+1] += 2
	}
	h.Observe(0, 3)
	h.Observe(time.Hour, 4)
	want[0] += 3
	want[buckets-1] += 4
	s := h.Snapshot()
	if !slices.Equal(s.Counts, want) || s.Count() != uint64(3*len(bounds)+7) {
		t.Errorf("counts are %v, want %v", s.Counts, want)
	}
	sum := 4 * time.Hour
	for _, end := range bounds {
		sum += 3*end + 2
	}
	if s.Sum != sum {
		t.Errorf("sum is %s, want %s", s.Sum, sum)
	}
}
