package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say what runs, what is wrong and what is pending", Args: cobra.NoArgs,
		Example: "  drawbridge status\n  drawbridge status -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.client.Status(c.Context())
			if err != nil {
				return err
			}
			a.tell(s.Changes)
			return a.show(s, func(w *writer) { statusText(w, s) })
		},
	}
}

func statusText(w *writer, s api.Status) {
	services := fmt.Sprintf("guest services pid %d", s.ServicesPID)
	if s.ServicesPID == 0 {
		services = "guest services not running"
	}
	w.linef("drawbridge %s, up %s, pid %d, %s", s.Version, span(time.Duration(s.UptimeSecs)*time.Second), s.PID, services)
	w.line("")
	if len(s.Networks) == 0 {
		w.line("no networks; make one with: drawbridge network create NAME")
	} else {
		networkTable(w, s.Networks)
	}
	w.line("")
	if len(s.Changes) > 0 {
		w.painted(warning, fmt.Sprintf("pending: %d", len(s.Changes)))
		for _, c := range s.Changes {
			w.line("  " + changeLine(c))
		}
	} else {
		w.line("nothing pending")
	}
	if len(s.Problems) == 0 {
		w.painted(good, "nothing wrong")
	} else {
		w.painted(bad, fmt.Sprintf("problems: %d", len(s.Problems)))
		for _, p := range s.Problems {
			w.line("  " + p)
		}
	}
	if s.Repairs > 0 {
		w.linef("put back since start: %d (see drawbridge monitor)", s.Repairs)
	}
}

// changeLine says what a pending change is and what can be done about it.
func changeLine(c api.Change) string {
	line := fmt.Sprintf("%s  %s  %s", c.ID, c.Phase, c.Title)
	if c.DeadlineSecs != nil {
		line += fmt.Sprintf("  (taken back in %d s unless: drawbridge change confirm %s)", *c.DeadlineSecs, c.ID)
	}
	if c.Proof != "" {
		line += ": " + c.Proof
	}
	if c.Problem != "" {
		line += ": " + c.Problem
	}
	return line
}

func networkTable(w *writer, nets []api.Network) {
	var rows [][]cell
	for _, n := range nets {
		state := cell{n.State, good}
		switch n.State {
		case "stopped":
			state.paint = faint
		case "degraded":
			state.paint = bad
		}
		row := cells(n.Name, n.Mode, "", n.Bridge, subnets(n.Subnets), fmt.Sprint(n.Guests), leases(n))
		row[2] = state
		rows = append(rows, row)
	}
	w.table([]string{"NETWORK", "MODE", "STATE", "BRIDGE", "SUBNET", "GUESTS", "LEASES"}, rows)
}

func leases(n api.Network) string {
	if n.PoolSize == 0 {
		return fmt.Sprint(n.Leases)
	}
	return fmt.Sprintf("%d/%d", n.Leases, n.PoolSize)
}

func subnets(list []api.Subnet) string {
	var out []string
	for _, s := range list {
		out = append(out, s.CIDR)
	}
	return strings.Join(out, " ")
}

// span writes a duration with its two largest units.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	days, h, m, s := d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, h)
	case h > 0:
		return fmt.Sprintf("%dh%dm", h, m)
	case m > 0:
		return fmt.Sprintf("%dm%ds", m, s)
	}
	return fmt.Sprintf("%ds", s)
}

func (a *app) modeCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List them", Args: cobra.NoArgs, Example: "  drawbridge mode ls",
		RunE: func(c *cobra.Command, _ []string) error {
			modes, err := a.client.Modes(c.Context())
			if err != nil {
				return err
			}
			return a.show(modes, func(w *writer) {
				var rows [][]cell
				for _, m := range modes {
					rows = append(rows, cells(m.Name, m.Summary))
				}
				w.table([]string{"MODE", "GUESTS"}, rows)
			})
		},
	}
	group := &cobra.Command{Use: "mode", Short: "What a network can do with its guests' traffic", Example: "  drawbridge mode ls"}
	group.AddCommand(ls)
	return group
}
