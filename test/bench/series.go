package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Unit is what the values of a series count.
type Unit string

// The units of the table. Times are kept in milliseconds.
const (
	Millis  Unit = "ms"
	Micros  Unit = "µs"
	Rate    Unit = "/s"
	MiB     Unit = "MiB"
	Packets Unit = "packets"
	Clients Unit = "clients"
	Bytes   Unit = "bytes"
	Percent Unit = "%"
	Events  Unit = "events"
	Times   Unit = "times"
)

// more says whether more of it is better.
func (u Unit) more() bool { return u == Rate || u == Clients }

// Series is what several runs of the same thing gave.
type Series struct {
	Unit   Unit
	Values []float64
}

// Took adds a time to a series of milliseconds.
func (s *Series) Took(d time.Duration) {
	s.Unit = Millis
	s.Values = append(s.Values, float64(d)/float64(time.Millisecond))
}

// Counted adds a value.
func (s *Series) Counted(u Unit, v float64) {
	s.Unit = u
	s.Values = append(s.Values, v)
}

// Median is the middle value, or the mean of the two middle ones; NaN of none.
func (s Series) Median() float64 {
	v := s.sorted()
	switch n := len(v); {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return v[n/2]
	default:
		return (v[n/2-1] + v[n/2]) / 2
	}
}

// Percentile is the smallest value that at least p percent of all do not exceed
// (nearest rank); NaN of none.
func (s Series) Percentile(p float64) float64 {
	v := s.sorted()
	if len(v) == 0 {
		return math.NaN()
	}
	rank := int(math.Ceil(p / 100 * float64(len(v))))
	return v[min(max(rank, 1), len(v))-1]
}

// Max is the largest value; NaN of none.
func (s Series) Max() float64 { return s.Percentile(100) }

// Min is the smallest value; NaN of none.
func (s Series) Min() float64 { return s.Percentile(0) }

func (s Series) sorted() []float64 { return slices.Sorted(slices.Values(s.Values)) }

// String is the median, with the smallest and the largest value and their
// number where there were several.
func (s Series) String() string {
	switch len(s.Values) {
	case 0:
		return "–"
	case 1:
		return figure(s.Values[0], s.Unit)
	}
	return fmt.Sprintf("%s (%s–%s, %d runs)", figure(s.Median(), s.Unit), bare(s.Min()), bare(s.Max()), len(s.Values))
}

func figure(v float64, u Unit) string {
	if u == Rate {
		return bare(v) + string(u)
	}
	return bare(v) + " " + string(u)
}

// bare keeps three significant digits of small figures and every digit before
// the point of large ones.
func bare(v float64) string {
	switch a := math.Abs(v); {
	case a == math.Trunc(a) || a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
