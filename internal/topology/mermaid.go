package topology

import (
	"fmt"
	"strings"
)

// Mermaid writes a graph that Layout was given as a flowchart for
// https://mermaid.js.org, which many wikis draw. Names are quoted and have
// whatever has a meaning there written as an entity; ids are numbers.
func Mermaid(g Graph) string {
	var b strings.Builder
	b.WriteString("flowchart TB\n")
	ids, guests := map[string]string{}, map[string]string{}
	for _, e := range g.Edges {
		if e.Kind == EdgeGuest {
			guests[e.From] = e.To
		}
	}
	for i, n := range g.Nodes {
		if n.Folded != "" || guests[n.ID] != "" {
			continue
		}
		ids[n.ID] = fmt.Sprintf("n%d", i)
		open, shut := "[", "]"
		switch n.Kind {
		case KindLAN:
			open, shut = "([", "])"
		case KindForward:
			open, shut = ">", "]"
		case KindBridge:
			open, shut = "[[", "]]"
		case KindMore:
			open, shut = "(", ")"
		}
		fmt.Fprintf(&b, "  %s%s\"%s\"%s%s\n", ids[n.ID], open, mermaidLabel(n), shut, mermaidClass(n))
	}
	for _, e := range g.Edges {
		from, to, label := ids[e.From], ids[e.To], ""
		if e.Kind == EdgeGuest {
			continue
		}
		if guest := guests[e.To]; e.Kind == EdgePlugged && guest != "" {
			// A port is what is written on the line to its guest.
			to, label = ids[guest], strings.TrimPrefix(e.To, string(KindPort)+":")
		}
		if e.Translated {
			label = "NAT"
		}
		if from == "" || to == "" {
			continue
		}
		line := "---"
		switch {
		case e.Mark == Added:
			line, label = "===", strings.TrimSpace("+ "+label)
		case e.Mark == Removed:
			line, label = "-.-", strings.TrimSpace("− "+label)
		case e.Dashed || e.Health == Problem || e.Health == Down:
			line = "-.-"
		}
		if label != "" {
			line += "|\"" + mermaidText(label) + "\"|"
		}
		fmt.Fprintf(&b, "  %s %s %s\n", from, line, to)
	}
	for _, more := range g.Nodes {
		if bridge := ids[id(KindBridge, more.Name)]; more.Kind == KindMore && bridge != "" {
			fmt.Fprintf(&b, "  %s -.- %s\n", bridge, ids[more.ID])
		}
	}
	b.WriteString("  classDef problem stroke:#cf222e,stroke-width:3px\n  classDef warning stroke:#bc4c00,stroke-width:3px\n  classDef off stroke-dasharray:4 3\n")
	b.WriteString("  classDef added stroke:#1a7f37,stroke-width:3px\n  classDef removed stroke:#cf222e,stroke-width:3px,stroke-dasharray:4 3\n  classDef changed stroke:#9a6700,stroke-width:3px\n")
	return b.String()
}

func mermaidClass(n Node) string {
	switch {
	case n.Mark != "":
		return ":::" + string(n.Mark)
	case n.Health == Problem:
		return ":::problem"
	case n.Health == Warning:
		return ":::warning"
	case n.Health == Down || n.Health == Stopped || n.Health == Unknown:
		return ":::off"
	}
	return ""
}

func mermaidLabel(n Node) string {
	lines := []string{n.Name}
	switch n.Kind {
	case KindLAN:
		lines = []string{"LAN " + n.Name}
		if len(n.Addresses) > 0 {
			lines = append(lines, "gateway "+first(n.Addresses))
		}
	case KindForward:
		lines = []string{n.Listen + " → " + n.Target}
	case KindBridge:
		if n.Network != "" {
			lines = []string{n.Network + " (" + n.Mode + ")", n.Name}
		}
		lines = append(lines, n.Addresses...)
	case KindHost:
		lines = append([]string{"this host"}, n.Addresses...)
	case KindMore:
		lines = []string{n.Note}
	default:
		lines = append(lines, n.Addresses...)
	}
	if n.Note != "" && n.Kind != KindMore {
		lines = append(lines, n.Note)
	}
	if sign := signs[string(n.Mark)]; sign != "" {
		lines[0] = sign + " " + lines[0]
	}
	for i, l := range lines {
		lines[i] = mermaidText(l)
	}
	return strings.Join(lines, "<br/>")
}

// mermaidText leaves letters, digits and what is harmless as it is; the rest
// becomes #code;, Mermaid's way of writing entities.
func mermaidText(s string) string {
	var b strings.Builder
	for _, r := range clean(s) {
		switch {
		case r >= 0x80, r == ' ', r == '.', r == ':', r == '/', r == '-', r == '(', r == ')', r == ',', r == '_', r == '+',
			r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	return b.String()
}
