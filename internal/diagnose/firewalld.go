package diagnose

import (
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
)

// zoned are the bridges that are in our zone of firewalld.
func (f *Facts) zoned() (bridges []string) {
	for _, r := range f.State {
		if z, ok := r.(host.InZone); ok && z.Zone == host.OurZone {
			bridges = append(bridges, z.Bridge)
		}
	}
	return bridges
}

// unzoned is the ruleset as if firewalld knew nothing of some links: then they are
// in its default zone. What it has for a link are rules that begin with its name.
func unzoned(r *ruleset.Ruleset, links []string) *ruleset.Ruleset {
	if len(links) == 0 {
		return r
	}
	about := func(rule *ruleset.Rule) bool {
		for i, e := range rule.Exprs {
			m, ok := e.(ruleset.Meta)
			if !ok || m.Key != ruleset.MetaIIFName && m.Key != ruleset.MetaOIFName || i+1 == len(rule.Exprs) {
				continue
			}
			c, ok := rule.Exprs[i+1].(ruleset.Cmp)
			if ok && c.Op == ruleset.Equal && slices.ContainsFunc(links, func(l string) bool { return hasName(map[string]bool{l: true}, c.Data) }) {
				return true
			}
		}
		return false
	}
	out := &ruleset.Ruleset{Legacy: r.Legacy, Tables: slices.Clone(r.Tables)}
	for i, t := range out.Tables {
		if ruleset.OwnerOfTable(t) == ruleset.Firewalld {
			out.Tables[i] = cloned(t, func(c *ruleset.Chain) *ruleset.Chain {
				copied := *c
				copied.Rules = slices.DeleteFunc(slices.Clone(c.Rules), about)
				return &copied
			})
		}
	}
	return out
}
