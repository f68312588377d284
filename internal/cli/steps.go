package cli

import (
	"fmt"
	"slices"
	"strings"

	"drawbridge/internal/api"
)

// manyAlike is from how many steps on, of one kind and in one place, they get
// one line: a person looks for what is special. The forms for programs list all.
const manyAlike = 8

// stepLines prints what a change does, a line for each step or for many alike.
func stepLines(w *writer, steps []api.Step) {
	sign := map[string]string{"create": "+", "change": "~", "delete": "-"}
	groups := map[string][]api.Step{}
	for _, s := range steps {
		groups[groupOf(s)] = append(groups[groupOf(s)], s)
	}
	folded := false
	for _, s := range steps {
		group := groups[groupOf(s)]
		switch {
		case len(group) < manyAlike:
			line := "  " + sign[s.Verb] + " " + s.Kind + " " + s.Name
			if s.Detail != "" {
				line += "  (" + s.Detail + ")"
			}
			w.line(line)
		case s == group[0]:
			w.line("  " + sign[s.Verb] + " " + foldedLine(group))
			folded = true
		}
	}
	if folded {
		w.line("  (-o yaml lists every step)")
	}
}

// ruleset are the kinds of things that make up a table of rules.
var ruleset = []string{"set", "chain"}

// groupOf is the same for steps that a person would read as one.
func groupOf(s api.Step) string {
	place := s.Name
	if words := strings.Fields(s.Name); len(words) > 2 {
		place = words[0] + " " + words[1] // inet drawbridge
		if s.Kind == "element" {
			place += " " + words[2]
		}
	}
	kind := s.Kind
	if slices.Contains(ruleset, kind) {
		kind = "rules"
	}
	if kind != "rules" && kind != "element" {
		place = s.Name
	}
	return s.Verb + " " + kind + " " + place
}

func foldedLine(group []api.Step) string {
	words := strings.Fields(group[0].Name)
	if group[0].Kind == "element" {
		return fmt.Sprintf("%d elements %s", len(group), strings.Join(words[:3], " "))
	}
	var parts []string
	for _, kind := range ruleset {
		n := 0
		for _, s := range group {
			if s.Kind == kind {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, count(n, kind))
		}
	}
	return fmt.Sprintf("rules %s  (%s)", strings.Join(words[:2], " "), strings.Join(parts, ", "))
}
