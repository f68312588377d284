package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is all that docs/bench.md says.
type Report struct {
	Facts []Fact
	// All there is to be measured, in order; Groups were measured in this run.
	All, Groups []Group
	Rows        []Row
	Elapsed     time.Duration
}

// Fact is one thing about the machine, the programs or the run.
type Fact struct{ What, Value string }

const preamble = `# Measured beside the peer

Written by ` + "`sudo make bench`" + `, or one section of it by ` + "`sudo make bench ONLY=forwards`" + `; do not edit. The peer is Debian's libvirtd with its dnsmasq, both installed from packages.
Ours and the peer's are measured in one run, in turn, on the same machine, each in network namespaces of its own with its
state on the same file system. A figure is the median of several runs, with the smallest and the largest; a ratio is of
medians, and says how many times shorter, smaller or more often ours is. A command's time is from starting its process to
its end.

**Read ratios, not milliseconds.** On machines with few cores, or shared with others, times vary by ± 30 % from run to run,
the peer's as much as ours.

`

// Write writes the report as Markdown. old is the document so far, or "": groups that were not
// measured in this run keep what it says of them.
func (r Report) Write(w io.Writer, old string) error {
	kept := sections(old)
	measured := map[string]bool{}
	for _, g := range r.Groups {
		measured[g.Name] = true
	}
	var parts strings.Builder
	for _, g := range r.All {
		body, there := kept[g.Title]
		if measured[g.Name] {
			body, there = r.section(g), true
		}
		if there {
			fmt.Fprintf(&parts, "\n## %s\n\n%s\n", g.Title, body)
		}
	}
	var b strings.Builder
	b.WriteString(preamble)
	summary(&b, parts.String())
	b.WriteString("## The last run\n\n| | |\n|---|---|\n")
	for _, f := range r.Facts {
		fmt.Fprintf(&b, "| %s | %s |\n", cell(f.What), cell(f.Value))
	}
	fmt.Fprintf(&b, "| measured in it | %s |\n| it took | %s |\n", r.groupNames(), r.Elapsed.Round(time.Second))
	b.WriteString(parts.String())
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Report) groupNames() string {
	var names []string
	for _, g := range r.Groups {
		names = append(names, g.Name)
	}
	return strings.Join(names, ", ")
}

// section is all about a group but its heading.
func (r Report) section(g Group) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace(g.Method))
	var when []string
	for _, f := range r.Facts {
		if f.What == factDate || f.What == factVersion || f.What == factLoad {
			when = append(when, f.What+" "+f.Value)
		}
	}
	if len(when) > 0 {
		fmt.Fprintf(&b, "Measured: %s.\n\n", cell(strings.Join(when, "; ")))
	}
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
	return strings.TrimSpace(b.String())
}

// sections splits a document into what stands below its headings, by heading.
func sections(document string) map[string]string {
	all := map[string]string{}
	parts := strings.Split(document, "\n## ")
	for _, part := range parts[1:] {
		title, body, _ := strings.Cut(part, "\n")
		all[strings.TrimSpace(title)] = strings.TrimSpace(body)
	}
	return all
}

// summary says first what falls short, by the tables themselves: some may be of earlier runs.
func summary(b *strings.Builder, parts string) {
	var targets int
	var short []string
	for line := range strings.Lines(parts) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 6 {
			continue
		}
		target, verdict := cells[4], strings.TrimSpace(strings.TrimSuffix(cells[5], "|"))
		if verdict != "met" && verdict != "not measured" && !strings.HasPrefix(verdict, "**") {
			continue
		}
		targets++
		if verdict != "met" {
			short = append(short, fmt.Sprintf("- %s: %s, target %s: %s\n", strings.TrimPrefix(cells[0], "| "), cells[1], target, strings.ReplaceAll(verdict, "*", "")))
		}
	}
	if len(short) == 0 {
		fmt.Fprintf(b, "All %d targets are met.\n\n", targets)
		return
	}
	fmt.Fprintf(b, "%d of %d targets are met; short of their target are:\n\n%s\n", targets-len(short), targets, strings.Join(short, ""))
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
