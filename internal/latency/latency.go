// Package latency counts how long things take, in a fixed number of buckets, so
// that what it holds never grows.
//
// It owns the buckets. It does not know what is measured, nor how it is shown.
//
// Start reading at Histogram below.
package latency

import (
	"sync/atomic"
	"time"
)

// Bounds are the upper ends of the buckets, in ascending order; beyond the last
// there is one more, without an end. They reach from an answer out of a table to
// one that waited for another server.
func Bounds() []time.Duration {
	const us, ms = time.Microsecond, time.Millisecond
	return []time.Duration{
		50 * us, 100 * us, 250 * us, 500 * us, ms, 2500 * us, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms, time.Second, 5 * time.Second,
	}
}

const buckets = 16

// Histogram counts. The zero value is ready; its methods may be called
// concurrently.
type Histogram struct {
	counts [buckets]atomic.Uint64
	sum    atomic.Int64
}

// Observe counts n things that took d each.
func (h *Histogram) Observe(d time.Duration, n uint64) {
	i := 0
	for _, end := range Bounds() {
		if d <= end {
			break
		}
		i++
	}
	h.counts[i].Add(n)
	h.sum.Add(int64(d) * int64(n))
}

// Snapshot is what a histogram held at one moment.
type Snapshot struct {
	// Counts of each bucket alone, the one without an end last.
	Counts []uint64      `json:"counts"`
	Sum    time.Duration `json:"sum"`
}

// Snapshot reads the histogram. Counts that are added meanwhile may be in it or not.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Counts: make([]uint64, buckets), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

// Count is how many things were counted.
func (s Snapshot) Count() uint64 {
	var n uint64
	for _, c := range s.Counts {
		n += c
	}
	return n
}
