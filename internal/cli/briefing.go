package cli

import (
	"fmt"
	"strings"
	"time"

	"drawbridge/internal/api"
)

// mostValues is how many of a kind the briefing lists; -o json has all.
const mostValues = 8

// briefing says what a change that puts the host's own connections at risk found,
// what it will do, and what can go wrong.
func briefing(w *writer, ch api.Change, o api.Options) {
	w.painted(heading, ch.Title)
	w.line("it found")
	for _, f := range ch.Seen {
		values := f.Values
		if len(values) > mostValues {
			values = append(values[:mostValues:mostValues], fmt.Sprintf("and %d more", len(f.Values)-mostValues))
		}
		for i, v := range values {
			name := f.Name
			if i > 0 {
				name = ""
			}
			w.linef("  %-12s  %s", name, v)
		}
	}
	w.line("it will")
	for _, n := range ch.Notes {
		w.line("  " + n)
	}
	for _, f := range ch.Files {
		w.line("  change " + f + ", once you confirm")
	}
	w.linef("  take %s in all; --dry-run lists them", count(len(ch.Steps), "step"))
	w.painted(warning, "the risk")
	w.painted(warning, "  the host's own connections go over these links"+cutsOff(ch))
	w.linef("  all is taken back after %s unless you confirm, also if this session, the daemon or the power ends", inWords(o.Within))
	if o.WhenReachable {
		w.line("  it confirms itself once your connection carries new data, and gateway and resolver answer again")
	}
}

func cutsOff(ch api.Change) string {
	if len(ch.Cuts) == 0 {
		return ""
	}
	return "; guests cut off: " + strings.Join(ch.Cuts, ", ")
}

// inWords writes a time as people do.
func inWords(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
}

// conditionLines say what has to be seen for a change to confirm itself.
func conditionLines(w *writer, list []api.Condition) {
	for _, c := range list {
		switch {
		case c.Met:
			w.painted(good, "  seen: "+c.What)
		default:
			w.line("  not seen: " + c.What + " (" + c.Detail + ")")
		}
	}
}
