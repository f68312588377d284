package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
)

func (a *app) topologyCommand() *cobra.Command {
	var change string
	var watch, all, ascii bool
	c := &cobra.Command{
		Use: "topology", Short: "Draw LAN, NICs, forwards, bridges, taps and guests", Args: cobra.NoArgs,
		Long: `Draw the host's network as it is just now: the LAN and its gateway, the NICs, the forwards
(doors) that are open, every bridge as a rail, drawbridge's or not, and the guests plugged into
it. A filled dot is a guest that is up; what is not as it should be says why after a "!", what
doctor found last with its code (drawbridge doctor says how it is mended). More than 30 guests of
one network are folded, unless --all.`,
		Example: `  drawbridge topology
  drawbridge topology --watch
  drawbridge topology --before-after 3f2a9c01      # what a change that waits brings and takes away
  drawbridge topology -o svg > host.svg
  drawbridge topology -o mermaid                   # for a wiki`,
		Annotations: map[string]string{moreForms: "svg mermaid"},
		RunE: func(c *cobra.Command, _ []string) error {
			ask := func(ctx context.Context) (api.Topology, error) {
				v := paper(a.stdout, ascii)
				if all {
					v.Fold = -1
				}
				if a.format != "table" {
					v.Draw, v.Width, v.ASCII = a.format, 0, false
				}
				if a.format == "json" || a.format == "yaml" {
					v.Draw = "graph"
				}
				return a.client.BeforeAfter(ctx, change, *v)
			}
			if change != "" {
				a.told = append(a.told, change)
			}
			if watch {
				return a.watchTopology(c.Context(), ask)
			}
			t, err := ask(c.Context())
			if err != nil {
				return err
			}
			return a.showTopology(t)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "draw again whenever something happens, until interrupted")
	c.Flags().BoolVar(&all, "all", false, "draw every guest, however many there are")
	c.Flags().BoolVar(&ascii, "ascii", false, "draw with characters of ASCII alone (also where the locale is not UTF-8)")
	c.Flags().StringVar(&change, "before-after", "", "draw what the `CHANGE` that waits, or is under way, brings (+) and takes away (-)")
	_ = c.RegisterFlagCompletionFunc("before-after", a.complete(changeIDs))
	return c
}

func (a *app) showTopology(t api.Topology) error {
	if a.format == "svg" || a.format == "mermaid" {
		_, err := io.WriteString(a.stdout, t.Drawing)
		return err
	}
	return a.show(t, func(w *writer) { drawing(w, t.Lines) })
}

// drawing prints a picture made of text.
func drawing(w *writer, lines []api.Line) {
	for _, l := range lines {
		for _, s := range l.Spans {
			w.buf.WriteString(w.paint(styles(s.Style), clean(s.Text)))
		}
		w.buf.WriteByte('\n')
	}
}

// styles are the colours of the pieces of a picture: those of the terminal's own
// palette, which are right on dark and light ground.
func styles(style string) paint {
	switch style {
	case "name":
		return heading
	case "soft", "foreign":
		return faint
	case "good", "added":
		return good
	case "bad", "removed":
		return bad
	case "changed", "isolated", "warn":
		return warning
	case "nat":
		return "34"
	case "bridged":
		return "35"
	case "door":
		return "36"
	}
	return ""
}

// paper is what a picture has to fit on: a terminal is as wide as it is, or as
// COLUMNS says; what goes elsewhere is never cut.
func paper(out io.Writer, ascii bool) *api.View {
	return &api.View{Draw: "text", Width: width(out), ASCII: ascii || !utf8Locale()}
}

// narrowest and widest are what the daemon draws for.
const narrowest, widest = 20, 1000

func width(out io.Writer) int {
	n, _ := strconv.Atoi(os.Getenv("COLUMNS"))
	if n <= 0 {
		n, _ = screen(out)
	}
	if n <= 0 {
		return 0
	}
	return min(max(n, narrowest), widest)
}

// screen is the size of a terminal in cells; 0 for what is none.
func screen(out io.Writer) (columns, rows int) {
	f, ok := out.(*os.File)
	if !ok {
		return 0, 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(size.Col), int(size.Row)
}

// utf8Locale goes by the variables that setlocale(3) looks at, in its order.
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(os.Getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// rendered is what showTopology would print.
func (a *app) rendered(t api.Topology) (string, error) {
	var b bytes.Buffer
	to := a.stdout
	colored := a.colored()
	if a.format != "table" {
		a.stdout = &b
		defer func() { a.stdout = to }()
		err := a.showTopology(t)
		return b.String(), err
	}
	w := &writer{color: colored}
	drawing(w, t.Lines)
	return w.buf.String(), nil
}

// crop keeps what fits on a screen of so many rows, with a last line that says
// what does not.
func crop(text string, rows int) string {
	lines := strings.SplitAfter(text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if rows <= 1 || len(lines) <= rows {
		return text
	}
	kept := lines[:rows-1]
	return strings.Join(kept, "") + fmt.Sprintf("(%d more lines: make the terminal higher)\n", len(lines)-len(kept))
}
