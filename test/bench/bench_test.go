package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

func series(u Unit, v ...float64) Series { return Series{Unit: u, Values: v} }

func TestSeries(t *testing.T) {
	tests := []struct {
		s                     Series
		median, p99, min, max float64
		text                  string
	}{
		{series(Millis, 7), 7, 7, 7, 7, "7 ms"},
		{series(Millis, 3, 1, 2), 2, 3, 1, 3, "2 ms (1–3, 3 runs)"},
		{series(Rate, 4, 1, 3, 1000), 3.5, 1000, 1, 1000, "3.50/s (1–1000, 4 runs)"},
		{series(Millis, 0.0456, 12.345, 123.4), 12.345, 123.4, 0.0456, 123.4, "12.3 ms (0.046–123, 3 runs)"},
	}
	for _, tt := range tests {
		if got := tt.s.Median(); got != tt.median {
			t.Errorf("median of %v: %v, want %v", tt.s.Values, got, tt.median)
		}
		if got := tt.s.Percentile(99); got != tt.p99 {
			t.Errorf("p99 of %v: %v, want %v", tt.s.Values, got, tt.p99)
		}
		if tt.s.Min() != tt.min || tt.s.Max() != tt.max {
			t.Errorf("of %v: %v to %v, want %v to %v", tt.s.Values, tt.s.Min(), tt.s.Max(), tt.min, tt.max)
		}
		if got := tt.s.String(); got != tt.text {
			t.Errorf("%v reads %q, want %q", tt.s.Values, got, tt.text)
		}
	}
	var hundred Series
	for i := range 100 {
		hundred.Took(time.Duration(100-i) * time.Millisecond)
	}
	if got := hundred.Percentile(99); got != 99 {
		t.Errorf("p99 of 1 to 100: %v, want 99", got)
	}
	if got := hundred.Values[0]; got != 100 {
		t.Errorf("the first value became %v: the order of the runs was changed", got)
	}
	if empty := (Series{}); !math.IsNaN(empty.Median()) || empty.String() != "–" {
		t.Errorf("no values: %v, %q", empty.Median(), empty.String())
	}
}

func TestVerdict(t *testing.T) {
	tests := []struct {
		name           string
		row            Row
		verdict, ratio string
	}{
		{"met", Row{Ours: series(Millis, 10), Peer: series(Millis, 100), Target: faster(10)}, "met", "10 ×"},
		{"just short is never met", Row{Ours: series(Millis, 10), Peer: series(Millis, 99.99), Target: faster(10)}, "**falls short** (99 % of it)", "10.00 ×"},
		{"rates turn round", Row{Ours: series(Rate, 3000), Peer: series(Rate, 1000), Target: more(2)}, "met", "3 ×"},
		{"half the rate", Row{Ours: series(Rate, 1000), Peer: series(Rate, 1000), Target: more(2)}, "**falls short** (50 % of it)", "1 ×"},
		{"the median counts for limits", Row{Ours: series(Millis, 1, 2, 900), Target: below(3, Millis)}, "met", "–"},
		{"over the limit", Row{Ours: series(Millis, 4), Target: below(3, Millis)}, "**falls short** (75 % of it)", "–"},
		{"one lost packet", Row{Ours: series(Packets, 0, 0, 1), Peer: series(Packets, 5), Target: none(Packets)}, "**falls short**", "∞"},
		{"none lost", Row{Ours: series(Packets, 0, 0), Target: none(Packets)}, "met", "–"},
		{"no target", Row{Ours: series(Millis, 1), Peer: series(Millis, 2)}, "", "2 ×"},
		{"no figures", Row{Target: faster(10)}, "not measured", "–"},
		{"no peer", Row{Ours: series(Millis, 1), Target: faster(10)}, "not measured", "–"},
		{"failed", Row{Ours: series(Millis, 1), Peer: series(Millis, 100), Target: faster(10), Failed: "it broke"}, "not measured", "100 ×"},
		{"equal", Row{Ours: series(MiB, 6), Peer: series(MiB, 36), Target: smaller(6)}, "met", "6 ×"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.row.Verdict(); got != tt.verdict {
				t.Errorf("verdict %q, want %q", got, tt.verdict)
			}
			if got := tt.row.Ratio(); got != tt.ratio {
				t.Errorf("ratio %q, want %q", got, tt.ratio)
			}
		})
	}
}

func TestReportHidesNothing(t *testing.T) {
	r := Report{
		Facts:  []Fact{{"cores", "2 | of them slow"}},
		All:    []Group{{Name: "a", Title: "Networks", Method: "As users do."}},
		Groups: []Group{{Name: "a", Title: "Networks", Method: "As users do."}},
		Rows: []Row{
			{Group: "a", Work: "create", Ours: series(Millis, 5), Peer: series(Millis, 100), Target: faster(10)},
			{Group: "a", Work: "stop", Ours: series(Millis, 50), Peer: series(Millis, 100), Target: faster(4), Notes: []string{"the kernel's\nshare"}},
			{Group: "a", Work: "flush", Target: below(100, Millis), Failed: "no nft"},
			{Group: "a", Work: "rows without target", Ours: series(Millis, 5), PeerSaid: "never"},
		},
		Elapsed: 90 * time.Second,
	}
	var b strings.Builder
	if err := r.Write(&b, ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1 of 3 targets are met; short of their target are:\n",
		"- stop: 50 ms, target 4 × faster: falls short",
		"- flush: not measured, target under 100 ms: not measured\n",
		"| cores | 2 \\| of them slow |\n",
		"| create | 5 ms | 100 ms | 20 × | 10 × faster | met |\n",
		"| stop | 50 ms | 100 ms | 2 × | 4 × faster | **falls short** (50 % of it) |\n",
		"| flush | not measured | – | – | under 100 ms | not measured |\n",
		"| rows without target | 5 ms | never | – | – |  |\n",
		"- stop: the kernel's share\n",
		"- flush was not measured: no nft\n",
		"| it took | 1m30s |\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

// TestOneSectionAlone measures one group after another had been measured: what the
// document says of that one stays, and the summary counts both.
func TestOneSectionAlone(t *testing.T) {
	all := []Group{{Name: "a", Title: "Networks", Method: "As users do."}, {Name: "b", Title: "Forwards", Method: "By ports."}, {Name: "c", Title: "Never measured"}}
	first := Report{
		Facts: []Fact{{factDate, "Monday"}}, All: all, Groups: all[:1],
		Rows: []Row{{Group: "a", Work: "stop", Ours: series(Millis, 50), Peer: series(Millis, 100), Target: faster(4), Notes: []string{"the kernel's share"}}},
	}
	second := Report{
		Facts: []Fact{{factDate, "Tuesday"}}, All: all, Groups: all[1:2],
		Rows: []Row{{Group: "b", Work: "add", Ours: series(Millis, 5), Target: below(30, Millis)}},
	}
	old := ""
	for i, r := range []Report{first, second, second} {
		var b strings.Builder
		if err := r.Write(&b, old); err != nil {
			t.Fatal(err)
		}
		if i == 2 && b.String() != old {
			t.Errorf("writing the same again changed the document:\n%s", b.String())
		}
		old = b.String()
	}
	for _, want := range []string{
		"1 of 2 targets are met; short of their target are:\n\n- stop: 50 ms, target 4 × faster: falls short (50 % of it)\n\n## The last run",
		"\n## Networks\n\nAs users do.\n\nMeasured: date Monday.\n\n| work ", "| stop | 50 ms | 100 ms | 2 × | 4 × faster | **falls short** (50 % of it) |\n\n- stop: the kernel's share\n",
		"\n## Forwards\n\nBy ports.\n\nMeasured: date Tuesday.\n\n| work ", "| add | 5 ms | – | – | under 30 ms | met |\n",
		"| measured in it | b |\n",
	} {
		if !strings.Contains(old, want) {
			t.Errorf("no %q in:\n%s", want, old)
		}
	}
	if strings.Count(old, "## ") != 3 {
		t.Errorf("headings are there twice, or of what was never measured:\n%s", old)
	}
}

func TestEveryGroupIsChosenByItsName(t *testing.T) {
	all := groups()
	seen := map[string]bool{}
	for _, g := range all {
		if g.Name == "" || g.Title == "" || g.Method == "" || g.Run == nil || seen[g.Name] {
			t.Errorf("group %+v is not complete, or is there twice", g.Name)
		}
		seen[g.Name] = true
		if got, err := choose(all, g.Name); err != nil || len(got) != 1 || got[0].Name != g.Name {
			t.Errorf("choosing %q gave %d groups, %v", g.Name, len(got), err)
		}
	}
	if got, err := choose(all, ""); err != nil || len(got) != len(all) {
		t.Errorf("choosing all gave %d of %d, %v", len(got), len(all), err)
	}
	if _, err := choose(all, "nonsense"); err == nil {
		t.Error("a group that does not exist was chosen")
	}
}

func TestPingReport(t *testing.T) {
	const text = "PING 192.0.2.1 (192.0.2.1) 56(84) bytes of data.\n\n--- 192.0.2.1 ping statistics ---\n" +
		"8000 packets transmitted, 7991 received, 0.1125% packet loss, time 8123ms\nrtt min/avg/max/mdev = 0.020/0.041/0.512/0.011 ms\n"
	sent, received, err := parsePing(text)
	if err != nil || sent != 8000 || received != 7991 {
		t.Errorf("%d sent, %d received, %v", sent, received, err)
	}
	if _, _, err := parsePing("ping: unknown host"); err == nil {
		t.Error("a report without figures was read")
	}
}

func TestPerfdhcpReport(t *testing.T) {
	const text = `Running: perfdhcp -4
Rate: 249.5 4-way exchanges/second, expected rate: 250

***Statistics for: DISCOVER-OFFER***
sent packets: 1000
received packets: 1000
drops: 0
drops ratio: 0 %
orphans: 0
rejected leases: 0

***Statistics for: REQUEST-ACK***
sent packets: 998
received packets: 988
drops: 10
drops ratio: 1.00 %
orphans: 0
rejected leases: 0
`
	r, err := parsePerfdhcp(text)
	if err != nil || r.leases != 988 || r.sent != 1998 || r.lost != 10 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := parsePerfdhcp("usage"); err == nil {
		t.Error("a report without figures was read")
	}
}
