package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// wrongError says by the exit code alone that something is wrong.
type wrongError struct{ error }

func (wrongError) ExitCode() int { return ExitFailed }

// allFindings is what --fix without a code stands for.
const allFindings = "all"

func (a *app) doctorCommand() *cobra.Command {
	var flags changeFlags
	c := &cobra.Command{
		Use: "doctor [GUEST|NETWORK]", Short: "Say what is wrong and how to mend it", Args: cobra.MaximumNArgs(1),
		Long: "Say what is wrong with this host, its networks and guests: what was seen, what it means, and what\n" +
			"mends it. It works without the daemon too, as root. The exit code is 1 if anything is wrong.\n\n" +
			"--fix does what can be done without asking somebody, of every finding or of those with the given\n" +
			"code; each is a change of its own, which is taken back as any other.",
		Example: "  drawbridge doctor\n  drawbridge doctor ubuntu-cloud\n  drawbridge doctor -o json          # for monitoring\n" +
			"  drawbridge doctor --fix --dry-run\n  drawbridge doctor --fix=dhcp-blocked",
		ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			about := strings.Join(args, "")
			if c.Flags().Changed("fix") {
				code, _ := c.Flags().GetString("fix")
				if code == allFindings {
					code = ""
				}
				return a.treat(c, api.FixRequest{Code: code, About: about}, flags.Options)
			}
			stop := a.progress("look at the host")
			d, err := a.client.Doctor(c.Context(), about)
			stop()
			if err != nil {
				return err
			}
			if err := a.show(d, func(w *writer) { diagnosisText(w, d, about) }); err != nil || d.Healthy {
				return err
			}
			return wrongError{errors.New(wrongCount(d))}
		},
	}
	c.Flags().String("fix", "", "mend what can be mended by itself: all findings, or those of one `CODE`")
	c.Flags().Lookup("fix").NoOptDefVal = allFindings
	flags.dryRun(c)
	return c
}

func wrongCount(d api.Diagnosis) string {
	n := map[string]int{}
	for _, f := range d.Findings {
		n[f.Severity]++
	}
	var parts []string
	if n["fault"] > 0 {
		parts = append(parts, count(n["fault"], "fault"))
	}
	if n["warning"] > 0 {
		parts = append(parts, count(n["warning"], "warning"))
	}
	return strings.Join(parts, ", ")
}

func diagnosisText(w *writer, d api.Diagnosis, about string) {
	paints := map[string]paint{"fault": bad, "warning": warning, "note": faint}
	for _, f := range d.Findings {
		w.painted(paints[f.Severity], fmt.Sprintf("%s: %s%s", f.Severity, f.Code, subject(f)))
		w.line("  seen:  " + f.Seen)
		w.line("  means: " + f.Means)
		if f.Fix.Automatic && f.Fix.Command != "drawbridge doctor --fix" {
			w.linef("  fix:   %s   (or: drawbridge doctor --fix=%s)", f.Fix.Command, f.Code)
		} else if f.Fix.Automatic {
			w.line("  fix:   drawbridge doctor --fix=" + f.Code)
		} else if f.Fix.Command != "" {
			w.line("  fix:   " + f.Fix.Command)
		}
		if f.Fix.Advice != "" {
			w.line("         " + f.Fix.Advice)
		}
		if f.Fix.Undo != "" {
			w.line("  undo:  " + f.Fix.Undo)
		}
	}
	if d.Healthy {
		what := "nothing is wrong"
		if about != "" {
			what += " with " + about
		}
		w.painted(good, fmt.Sprintf("%s (%d checks)", what, d.Checks))
	}
}

func subject(f api.Symptom) string {
	switch {
	case f.Guest != "":
		return "  guest " + f.Guest
	case f.Network != "":
		return "  network " + f.Network
	case f.Link != "":
		return "  " + f.Link
	}
	return ""
}

func (a *app) treat(c *cobra.Command, r api.FixRequest, o api.Options) error {
	stop := a.progress("mend")
	done, err := a.client.Treat(c.Context(), r, o)
	stop()
	if err != nil {
		return err
	}
	return a.show(done, func(w *writer) {
		if len(done) == 0 {
			w.line("nothing that can be mended by itself")
		}
		for _, t := range done {
			w.linef("%s: %s", t.Finding.Code, t.Finding.Seen)
			changeText(w, t.Change)
			if undo := t.Undo; undo != "" {
				if byHand := t.Finding.Fix.Undo; byHand != "" {
					undo += "   (or: " + byHand + ")"
				}
				w.line("  undo: " + undo)
			}
		}
	})
}
