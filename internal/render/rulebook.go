package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Rulebook writes, in Markdown, every rule that concerns networks of a mode
// with its reason, and the elements that one such network adds.
func Rulebook(m Mode) (string, error) {
	n := spec.Network{
		Name: "example", Mode: m.Name(), Bridge: "virbr0", Uplinks: []string{"enp6s18"}, MAC: "52:54:00:00:00:01", Started: true, Domain: "example.internal",
		Subnets: []spec.Subnet{
			spec.NewSubnet(netip.MustParsePrefix("192.168.122.0/24")),
			spec.NewSubnet(netip.MustParsePrefix("fd00:122::/64")),
		},
	}
	w, _, err := m.Render(n, Facts{KernelIPv6: true})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Rules of mode `%s`\n\n%s.\n\n", m.Name(), capital(m.Summary()))
	if IsDirect(n) {
		b.WriteString("None: what guests of such a network send and get does not pass the host's rules.\n")
		return b.String(), nil
	}
	b.WriteString("Written from the source by `go test ./internal/render -update`. The tables are called `drawbridge`; no rule in\n" +
		"them concerns an interface that is not a bridge of ours. An accept here does not override a drop in another table.\n\n")
	b.WriteString("## What one network adds\n\nFor a network with bridge `virbr0`, 192.168.122.0/24 and fd00:122::/64; nothing else changes when it starts or stops.\n\n| set or map | element |\n|---|---|\n")
	for _, k := range w.Present.Keys() {
		if e, ok := w.Present[k].(host.Element); ok {
			value := e.Value
			if e.Data != "" {
				value += " : " + e.Data
			}
			fmt.Fprintf(&b, "| `%s %s` | `%s` |\n", e.Table, e.Set, value)
		}
	}
	b.WriteString("\nEach guest's tap is an element of `bridge drawbridge ports`.\n\n## The rules\n")
	for _, c := range slices.Concat(baseChains, m.Chains()) {
		writeChain(&b, c)
	}
	return b.String(), nil
}

func writeChain(b *strings.Builder, c chain) {
	fmt.Fprintf(b, "\n### `%s %s`\n\n%s.", c.table, c.name, capital(c.why))
	if c.hook != "" {
		fmt.Fprintf(b, " Type %s, hook %s, priority %d, policy accept.", c.typ, c.hook, c.priority)
	}
	b.WriteString("\n\n| rule | why |\n|---|---|\n")
	for _, r := range c.rules {
		fmt.Fprintf(b, "| `%s` | %s |\n", r.text, r.why)
	}
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
