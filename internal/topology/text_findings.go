package topology

import "cmp"

// trouble is how what is not well is printed.
var trouble = map[Health]Style{Problem: Bad, Warning: Warn}

var graveStyles = map[Severity]Style{Fault: Bad, Alert: Warn, Note: Soft}

// also are the codes of further findings about a node: its note tells the worst.
func (t *tree) also(n Node) Line {
	var line Line
	for _, f := range n.Findings {
		if f.words() != n.Note {
			line = append(line, Span{"  " + clean(cmp.Or(f.Code, f.Text)), graveStyles[f.Severity]})
		}
	}
	return line
}

// whole adds a line for each fault of the host as a whole.
func (t *tree) whole(list []Finding) {
	first := true
	for _, f := range list {
		if f.Severity != Note {
			if first {
				t.lines = append(t.lines, nil)
			}
			first = false
			t.put("", "", Line{{"! " + clean(f.words()), graveStyles[f.Severity]}})
		}
	}
}
