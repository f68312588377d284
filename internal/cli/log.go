package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// logKinds are what the record can be asked for.
var logKinds = []string{"change", "repair", "port", "foreign"}

func (a *app) logCommand() *cobra.Command {
	var o api.LogOptions
	var since string
	c := &cobra.Command{
		Use: "log", Short: "Say what was done, when and by whom", Args: cobra.NoArgs,
		Long: `Say what was done, when and by whom: every change with its result, what was put back,
guests plugged in and out, and what other programs changed on the host's network, as far as the
kernel tells who it was. The record is kept on disk; the newest of it comes last.`,
		Example: `  drawbridge log
  drawbridge log --since 24h --network default
  drawbridge log --kind change -n 5 -o json
  drawbridge log show 3f2a9c01        # the steps, and what was before and after
  drawbridge undo 3f2a9c01 --dry-run`,
		RunE: func(c *cobra.Command, _ []string) error {
			at, err := a.pastTime(since)
			if err != nil {
				return err
			}
			o.Since = at
			entries, err := a.client.Log(c.Context(), o)
			if err != nil {
				return err
			}
			return a.show(entries, func(w *writer) { a.logTable(w, entries) })
		},
	}
	f := c.Flags()
	f.StringVar(&since, "since", "", "how far back: a `TIME` span (24h), or a time (RFC 3339)")
	f.StringVar(&o.Network, "network", "", "only what was about this `NETWORK`")
	f.StringSliceVar(&o.Kinds, "kind", nil, "only these `KINDS`, by comma: "+strings.Join(logKinds, ", "))
	f.IntVarP(&o.Limit, "lines", "n", 50, "`N` entries at most")
	_ = c.RegisterFlagCompletionFunc("network", a.complete(networkNames))
	_ = c.RegisterFlagCompletionFunc("kind", fixed(logKinds...))
	c.AddCommand(a.logShow())
	return c
}

// pastTime reads a duration before now, or a time.
func (a *app) pastTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return a.now().Add(-d), nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return at, usage("--since %s: it is neither a duration (24h) nor a time (2026-11-23T12:00:00Z)", s)
	}
	return at, nil
}

func (a *app) logTable(w *writer, entries []api.LogEntry) {
	if len(entries) == 0 {
		w.line("nothing was done")
		return
	}
	var rows [][]cell
	for _, e := range slices.Backward(entries) {
		result := cell{e.Result, good}
		switch e.Result {
		case "":
			result = cell{e.Kind, faint}
		case "confirmed":
			result.text = "done"
		default:
			result.paint = bad
		}
		what := e.Title
		if e.Times > 1 {
			what += fmt.Sprintf(" (%d times)", e.Times)
		}
		took := ""
		if e.ID != "" {
			took = fmt.Sprintf("%.0f ms", e.DurationMS)
		}
		row := cells(e.Ended.Local().Format("2006-01-02 15:04:05"), entryName(e), "", took, e.Who, what)
		row[2] = result
		rows = append(rows, row)
	}
	w.table([]string{"TIME", "ID", "RESULT", "TOOK", "WHO", "WHAT"}, rows)
}

func entryName(e api.LogEntry) string {
	if e.ID != "" {
		return e.ID
	}
	return fmt.Sprint(e.Number)
}

func (a *app) logShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one entry: the steps, and what was before and after", Args: cobra.ExactArgs(1),
		Example: "  drawbridge log show 3f2a9c01", ValidArgsFunction: a.completeFirst(loggedIDs),
		RunE: func(c *cobra.Command, args []string) error {
			e, err := a.client.LogEntry(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(e, func(w *writer) { entryText(w, e) })
		},
	}
}

func entryText(w *writer, e api.LogEntry) {
	w.painted(heading, e.Title)
	w.linef("  %s  %s", entryName(e), e.Kind)
	w.linef("  by       %s", orUnknown(e.Who))
	w.linef("  at       %s, for %.0f ms", e.Began.Local().Format("2006-01-02 15:04:05.000"), e.DurationMS)
	if e.Result != "" {
		w.linef("  result   %s", e.Result)
	}
	if e.Problem != "" {
		w.linef("  problem  %s", e.Problem)
	}
	for _, o := range e.Objects {
		w.linef("%s %s", o.Kind, strings.TrimSpace(o.Network+" "+o.Name))
		for _, key := range keysOfBoth(o) {
			before, was := o.Before[key]
			after, is := o.After[key]
			switch {
			case was && is && fmt.Sprint(before) == fmt.Sprint(after):
			case was && is:
				w.linef("  ~ %s: %v -> %v", key, before, after)
			case was:
				w.linef("  - %s: %v", key, before)
			default:
				w.linef("  + %s: %v", key, after)
			}
		}
	}
	if len(e.Steps) > 0 {
		w.linef("%s:", count(e.StepCount, "step"))
		stepLines(w, e.Steps)
		if more := e.StepCount - len(e.Steps); more > 0 {
			w.linef("  and %d more, which are not kept", more)
		}
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "nobody knows"
	}
	return s
}

func keysOfBoth(o api.LogObject) []string {
	var keys []string
	for _, side := range []map[string]any{o.Before, o.After} {
		for k := range side {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

func (a *app) undoCommand() *cobra.Command {
	var flags changeFlags
	c := &cobra.Command{
		Use: "undo ID", Short: "Put back what a change altered", Args: cobra.ExactArgs(1),
		Long: `Put the networks, reservations and forwards that a change altered back to what they were
before it. This is a change of its own, planned, verified, and recorded; it can be undone too.
It is refused, with their names, if later changes stand on the one that is to be undone.`,
		Example:           "  drawbridge log --kind change -n 5\n  drawbridge undo 3f2a9c01 --dry-run\n  drawbridge undo 3f2a9c01",
		ValidArgsFunction: a.completeFirst(loggedIDs),
		RunE: func(c *cobra.Command, args []string) error {
			return a.mayMove(c.Context(), "undo "+args[0], &flags, func(o api.Options) (api.Change, error) { return a.client.Undo(c.Context(), args[0], o) })
		},
	}
	flags.dryRun(c)
	flags.deciding(c)
	flags.cutGuests(c)
	return c
}
