package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// eventKindNames are offered by completion; the daemon has the last word.
var eventKindNames = []string{"network", "port", "lease", "forward", "reservation", "change", "drift", "repair", "services", "foreign"}

func (a *app) monitorCommand() *cobra.Command {
	var o api.WatchOptions
	var since string
	c := &cobra.Command{
		Use: "monitor", Short: "Print what happens, as it happens, until interrupted", Args: cobra.NoArgs,
		Long: `Print what happens, as it happens, until interrupted: networks, ports, leases, forwards,
the phases of changes, drift seen and repaired, guest services, and what other programs
changed. A restart of the daemon is waited out. With --since it begins with what happened
before, as far as the daemon still knows it; "drawbridge log" has what is kept for good.
With -o json it prints one event a line.`,
		Example: `  drawbridge monitor
  drawbridge monitor --network default --kind lease,port
  drawbridge monitor --since 10m -o json | jq -r .text
  drawbridge monitor --since 3f2a9c01-117      # after the event with this id`,
		RunE: func(c *cobra.Command, _ []string) error {
			if d, err := time.ParseDuration(since); err == nil {
				if d < 0 {
					return usage("--since %s: a time that is over, as in 10m", since)
				}
				since = a.now().Add(-d).UTC().Format(time.RFC3339Nano)
			} else if !isMoment(since) {
				return usage("--since %s: it is neither a time span (10m), a time (2026-11-23T12:00:00Z), nor an event's id", since)
			}
			o.Since = since
			err := a.client.Follow(c.Context(), o, a.printEvent, func(error) {
				a.complain("the daemon went away; waiting for it")
			})
			if c.Context().Err() != nil {
				return nil // the person had enough
			}
			return err
		},
	}
	c.Flags().StringVar(&o.Network, "network", "", "only what is about this `NETWORK`")
	c.Flags().StringSliceVar(&o.Kinds, "kind", nil, "only these `KINDS`, by comma: "+strings.Join(eventKindNames, ", "))
	c.Flags().StringVar(&since, "since", "", "begin with what happened so long ago (`TIME`: 10m), since a time (RFC 3339), or after the event with this id")
	_ = c.RegisterFlagCompletionFunc("network", a.complete(networkNames))
	_ = c.RegisterFlagCompletionFunc("kind", fixed(eventKindNames...))
	return c
}

// isMoment says whether an event can be looked for by it: nothing, a time, or an id.
func isMoment(since string) bool {
	_, err := time.Parse(time.RFC3339Nano, since)
	run, number, _ := strings.Cut(since, "-")
	_, odd := strconv.ParseUint(number, 10, 64)
	return since == "" || err == nil || run != "" && odd == nil
}

func (a *app) printEvent(e api.Event) error {
	switch a.format {
	case "json": // one a line, for programs that read lines
		raw, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", raw)
		return err
	case "yaml": // a stream of documents
		fmt.Fprintln(a.stdout, "---")
	}
	return a.show(e, func(w *writer) {
		who := ""
		if e.Who != "" {
			who = "  (" + e.Who + ")"
		}
		line := fmt.Sprintf("%s  %-11s  %s%s", e.Time.Local().Format("15:04:05.000"), e.Kind, e.Text, who)
		w.painted(eventPaint(e), line)
	})
}

func eventPaint(e api.Event) paint {
	switch {
	case e.Kind == "drift", e.Kind == api.EventGap, e.Action == "held", e.Action == "rolled-back", e.Action == "stuck", e.Kind == "services" && e.Action == "gone":
		return bad
	case e.Kind == "repair", e.Action == "waiting":
		return warning
	case e.Kind == "change", e.Kind == "foreign":
		return faint
	}
	return ""
}
