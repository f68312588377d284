package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is all that docs/bench.md says.
type Report struct {
	Facts   []Fact
	Groups  []Group
	Rows    []Row
	Elapsed time.Duration
}

// Fact is one thing about the machine, the programs or the run.
type Fact struct{ What, Value string }

const preamble = `# Measured beside the peer

Written by ` + "`sudo make bench`" + `; do not edit. The peer is Debian's libvirtd with its dnsmasq, both installed from packages.
Ours and the peer's are measured in one run, in turn, on the same machine, each in network namespaces of its own with its
state on the same file system. A figure is the median of several runs, with the smallest and the largest; a ratio is of
medians, and says how many times shorter, smaller or more often ours is. A command's time is from starting its process to
its end.

**Read ratios, not milliseconds.** On machines with few cores, or shared with others, times vary by ± 30 % from run to run,
the peer's as much as ours.

`

// Write writes the report as Markdown.
func (r Report) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString(preamble)
	r.summary(&b)
	b.WriteString("## The run\n\n| | |\n|---|---|\n")
	for _, f := range r.Facts {
		fmt.Fprintf(&b, "| %s | %s |\n", cell(f.What), cell(f.Value))
	}
	fmt.Fprintf(&b, "| the whole run took | %s |\n", r.Elapsed.Round(time.Second))
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", g.Title, strings.TrimSpace(g.Method))
		b.WriteString("| work | ours | peer | ratio | target | |\n|---|---|---|---|---|---|\n")
		var notes []string
		for _, row := range r.of(g.Name) {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", cell(row.Work), cell(row.oursText()), cell(row.peerText()),
				row.Ratio(), cell(row.targetText()), row.Verdict())
			if row.Failed != "" {
				notes = append(notes, row.Work+" was not measured: "+row.Failed)
			}
			for _, n := range row.Notes {
				notes = append(notes, row.Work+": "+n)
			}
		}
		for i, n := range notes {
			if i == 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "- %s\n", cell(n))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// summary says first what falls short.
func (r Report) summary(b *strings.Builder) {
	var targets int
	var short []Row
	for _, row := range r.Rows {
		if row.Target.Text != "" || row.Failed != "" {
			targets++
		}
		if row.Short() {
			short = append(short, row)
		}
	}
	if len(short) == 0 {
		fmt.Fprintf(b, "All %d targets are met.\n\n", targets)
		return
	}
	fmt.Fprintf(b, "%d of %d targets are met; short of their target are:\n\n", targets-len(short), targets)
	for _, row := range short {
		fmt.Fprintf(b, "- %s: %s, target %s: %s\n", row.Work, row.oursText(), row.targetText(), strings.ReplaceAll(row.Verdict(), "*", ""))
	}
	b.WriteString("\n")
}

func (r Report) of(group string) []Row {
	var rows []Row
	for _, row := range r.Rows {
		if row.Group == group {
			rows = append(rows, row)
		}
	}
	return rows
}

func (r Row) targetText() string {
	if r.Target.Text == "" {
		return "–"
	}
	return r.Target.Text
}

// cell keeps a text on one line and inside one cell.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", "\\|")
}

// Line is a row for a terminal.
func (r Row) Line() string {
	verdict := strings.ReplaceAll(r.Verdict(), "*", "")
	if r.Failed != "" {
		return fmt.Sprintf("%-46s not measured: %s", r.Work, r.Failed)
	}
	return fmt.Sprintf("%-46s ours %-36s peer %-36s %-8s %s: %s", r.Work, r.oursText(), r.peerText(), r.Ratio(), r.targetText(), verdict)
}
