package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

type ctx = context.Context

// change does one changing call and says what became of it.
func (a *app) change(title string, call func() (api.Change, error)) error {
	stop := a.progress(title)
	c, err := call()
	stop()
	if err != nil {
		return err
	}
	return a.show(c, func(w *writer) { changeText(w, c) })
}

// changeText is one line for what was done, and all steps for a dry run.
func changeText(w *writer, c api.Change) {
	switch {
	case c.NothingToDo:
		w.line(c.Title + ": nothing to do")
	case c.DryRun:
		w.linef("%s: would take %s, %s", c.Title, count(len(c.Steps), "step"), cost(c))
		stepLines(w, c.Steps)
		if c.Picture != nil {
			w.line("")
			drawing(w, c.Picture.Lines)
		}
	case c.DeadlineSecs != nil || c.Phase == "waiting":
		w.painted(warning, fmt.Sprintf("%s: done, and taken back unless confirmed: drawbridge change confirm %s", c.Title, c.ID))
	default:
		w.linef("%s: done in %.0f ms (%s)", c.Title, c.DurationMS, count(len(c.Steps), "step"))
		if len(c.Cuts) > 0 {
			w.line("  cut off: " + strings.Join(c.Cuts, ", "))
		}
	}
	for _, n := range c.Notes {
		w.line("  note: " + n)
	}
	conditionLines(w, c.Conditions)
}

// cost says who would pay for a change.
func cost(c api.Change) string {
	var parts []string
	if len(c.Cuts) > 0 {
		parts = append(parts, "guests cut off: "+strings.Join(c.Cuts, ", "))
	}
	switch {
	case c.Risk == "host":
		parts = append(parts, "the host's own connections at risk")
	case len(c.Cuts) == 0:
		parts = append(parts, "nobody cut off")
	}
	return strings.Join(parts, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (a *app) changeCommand() *cobra.Command {
	group := &cobra.Command{
		Use: "change", Short: "Changes that wait for a decision, or are stuck",
		Long: "A change that touches the host's own links, or may keep you from coming back, is made on trial: it waits to be\n" +
			"confirmed, and is taken back if nobody does so in time. What was done before is in \"drawbridge log\".",
		Example: "  drawbridge change ls\n  drawbridge change confirm 3f2a9c01\n  drawbridge change cancel 3f2a9c01",
	}
	ls := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List changes that are not finished", Args: cobra.NoArgs, Example: "  drawbridge change ls",
		RunE: func(c *cobra.Command, _ []string) error {
			changes, err := a.client.Changes(c.Context())
			if err != nil {
				return err
			}
			a.tell(changes)
			return a.show(changes, func(w *writer) {
				if len(changes) == 0 {
					w.line("nothing pending")
				}
				for _, ch := range changes {
					w.line(changeLine(ch))
				}
			})
		},
	}
	show := &cobra.Command{
		Use: "show ID", Short: "Show one of them with its steps", Args: cobra.ExactArgs(1), Example: "  drawbridge change show 3f2a9c01",
		ValidArgsFunction: a.completeFirst(changeIDs),
		RunE: func(c *cobra.Command, args []string) error {
			a.told = append(a.told, args[0])
			ch, err := a.client.Change(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(ch, func(w *writer) {
				w.line(changeLine(ch))
				stepLines(w, ch.Steps)
				conditionLines(w, ch.Conditions)
				for _, f := range ch.Files {
					w.line("  changes when it is confirmed: " + f)
				}
				if len(ch.Left) > 0 {
					w.line("could not be taken back:")
					stepLines(w, ch.Left)
				}
			})
		},
	}
	group.AddCommand(ls, show, a.decision("confirm", "Keep a change", "kept", (*api.Client).Confirm),
		a.decision("cancel", "Take a change back", "taken back", (*api.Client).Cancel), a.extendCommand())
	return group
}

func (a *app) decision(name, short, done string, call func(*api.Client, ctx, string) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " ID", Short: short, Args: cobra.ExactArgs(1), Example: "  drawbridge change " + name + " 3f2a9c01",
		ValidArgsFunction: a.completeFirst(changeIDs),
		RunE: func(c *cobra.Command, args []string) error {
			a.told = append(a.told, args[0])
			stop := a.progress(name + " change " + args[0])
			err := call(a.client, c.Context(), args[0])
			stop()
			if err != nil {
				return err
			}
			return a.done("change " + args[0] + ": " + done)
		},
	}
}

// done says that something without an answer of its own was done.
func (a *app) done(text string) error {
	return a.show(struct {
		Done string `json:"done"`
	}{text}, func(w *writer) { w.line(text) })
}

func (a *app) extendCommand() *cobra.Command {
	var by time.Duration
	c := &cobra.Command{
		Use: "extend ID", Short: "Give more time to decide", Args: cobra.ExactArgs(1), Example: "  drawbridge change extend 3f2a9c01 --by 5m",
		ValidArgsFunction: a.completeFirst(changeIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if by < time.Second || by > time.Hour {
				return usage("--by %s is not between 1s and 1h", by)
			}
			a.told = append(a.told, args[0])
			if err := a.client.Extend(c.Context(), args[0], by); err != nil {
				return err
			}
			return a.done(fmt.Sprintf("change %s: %s more", args[0], by))
		},
	}
	c.Flags().DurationVar(&by, "by", time.Minute, "`TIME` by which the change is taken back later, 1s to 1h")
	return c
}
