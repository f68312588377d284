package main

import (
	"fmt"
	"math"
)

// Row is one line of the table.
type Row struct {
	Group string // which measurement it belongs to
	Work  string
	Ours  Series
	// Peer is empty where there is nothing to compare with.
	Peer Series
	// PeerSaid stands in the peer's place where it has no figure ("never").
	PeerSaid string
	Target   Target
	// Notes say what a reader has to know of how it was measured.
	Notes []string
	// Failed says why there are no figures; the row then falls short.
	Failed string
}

// bare is the same row before anything was measured.
func (r Row) bare() Row { return Row{Work: r.Work, Target: r.Target} }

// Target is what a row must reach. The zero value is none: the row informs.
type Target struct {
	Text string
	// Share of the target that is reached, from the two series: 1 and more is met.
	Share func(ours, peer Series) float64
}

// faster wants our median to be at least k times shorter (or smaller) than the peer's.
func faster(k float64) Target {
	return Target{fmt.Sprintf("%s × faster", bare(k)), func(ours, peer Series) float64 { return peer.Median() / ours.Median() / k }}
}

// smaller is faster in words for sizes.
func smaller(k float64) Target {
	t := faster(k)
	t.Text = fmt.Sprintf("1/%s of it", bare(k))
	return t
}

// more wants our median to be at least k times the peer's.
func more(k float64) Target {
	return Target{bare(k) + " × as many", func(ours, peer Series) float64 { return ours.Median() / peer.Median() / k }}
}

// noWorse wants our median to be at most the peer's.
func noWorse() Target {
	t := faster(1)
	t.Text = "no worse"
	return t
}

// below wants our median to be under a limit in the row's unit.
func below(limit float64, u Unit) Target {
	return Target{"under " + figure(limit, u), func(ours, _ Series) float64 { return limit / ours.Median() }}
}

// none wants every value to be 0.
func none(u Unit) Target {
	return Target{"0 " + string(u), func(ours, _ Series) float64 {
		if ours.Max() == 0 {
			return 1
		}
		return 0
	}}
}

// Verdict is the last word on a row. Shares below 1 are rounded down, so that
// what falls short never reads as met.
func (r Row) Verdict() string {
	switch {
	case r.Failed != "":
		return "not measured"
	case r.Target.Share == nil:
		return ""
	}
	share := r.Target.Share(r.Ours, r.Peer)
	switch {
	case math.IsNaN(share):
		return "not measured"
	case share >= 1:
		return "met"
	case share == 0:
		return "**falls short**"
	}
	return fmt.Sprintf("**falls short** (%.0f %% of it)", math.Floor(share*100))
}

// Short tells whether the row has a target and misses it, or was not measured.
func (r Row) Short() bool {
	v := r.Verdict()
	return v != "" && v != "met"
}

// Ratio is how many times shorter, smaller or more often ours is than the peer's.
func (r Row) Ratio() string {
	if len(r.Ours.Values) == 0 || len(r.Peer.Values) == 0 {
		return "–"
	}
	ours, peer := r.Ours.Median(), r.Peer.Median()
	if r.Ours.Unit.more() {
		ours, peer = peer, ours
	}
	switch {
	case ours == 0 && peer == 0:
		return "equal"
	case ours == 0:
		return "∞"
	}
	return bare(peer/ours) + " ×"
}

func (r Row) oursText() string {
	if r.Failed != "" {
		return "not measured"
	}
	return r.Ours.String()
}

func (r Row) peerText() string {
	if len(r.Peer.Values) == 0 && r.PeerSaid != "" {
		return r.PeerSaid
	}
	return r.Peer.String()
}
