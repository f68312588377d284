package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand writes manual pages in man(7) macros, one for each command.
// Cobra's own generator would bring two more libraries for this.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write manual pages into a directory", Hidden: true, Args: cobra.ExactArgs(1),
		Example: "  drawbridge man /usr/share/man/man8",
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual: %w", err)
			}
			return writeManual(c.Root(), args[0])
		},
	}
}

func writeManual(c *cobra.Command, dir string) error {
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	file := filepath.Join(dir, pageName(c)+".8")
	if err := os.WriteFile(file, page(c), 0o644); err != nil {
		return fmt.Errorf("write manual: %w", err)
	}
	for _, sub := range c.Commands() {
		if err := writeManual(sub, dir); err != nil {
			return err
		}
	}
	return nil
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func page(c *cobra.Command) []byte {
	var b bytes.Buffer
	section := func(name string) { fmt.Fprintf(&b, ".SH %s\n", name) }
	fmt.Fprintf(&b, ".TH \"%s\" 8 \"\" drawbridge\n.ad l\n", strings.ToUpper(pageName(c)))
	section("NAME")
	fmt.Fprintf(&b, "%s \\- %s\n", pageName(c), roff(c.Short))
	section("SYNOPSIS")
	fmt.Fprintf(&b, ".B %s\n", roff(c.UseLine()))
	section("DESCRIPTION")
	fmt.Fprintln(&b, roff(firstOf(c.Long, c.Short+".")))
	options(&b, "OPTIONS", c.NonInheritedFlags())
	options(&b, "GLOBAL OPTIONS", c.InheritedFlags())
	if c.Example != "" {
		section("EXAMPLES")
		fmt.Fprintf(&b, ".nf\n%s\n.fi\n", roff(c.Example))
	}
	section("EXIT STATUS")
	fmt.Fprintln(&b, "0 done, 1 refused or failed, 2 bad usage, 3 the daemon is not reachable.")
	var also []string
	if c.HasParent() {
		also = append(also, fmt.Sprintf(".BR %s (8)", pageName(c.Parent())))
	}
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			also = append(also, fmt.Sprintf(".BR %s (8)", pageName(sub)))
		}
	}
	if len(also) > 0 {
		section("SEE ALSO")
		fmt.Fprintln(&b, strings.Join(also, "\n"))
	}
	return b.Bytes()
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func options(b *bytes.Buffer, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		kind, text := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(name+" "+kind)), roff(text))
	})
}

// roff escapes what troff would take for its own: backslashes, hyphens, and
// lines that begin with a dot or a quote. Words with optional parts, which may be
// longer than a line, can be broken before each part.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "[,", `\:[,`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
