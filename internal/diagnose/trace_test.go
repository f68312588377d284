package diagnose

import (
	"testing"

	"drawbridge/internal/ruleset"
)

// What the kernel traced and what was said agree only if the packet ended at the
// same rule, or at none.
func TestTracedAgrees(t *testing.T) {
	chain := &ruleset.Chain{Name: "forward", Type: "filter", Hook: "forward"}
	(&ruleset.Table{Family: ruleset.Inet, Name: "t"}).Add(chain)
	rule := &ruleset.Rule{Chain: chain, Handle: 5}
	step := func(k Kind, r *ruleset.Rule, c *ruleset.Chain) PathStep { return PathStep{Kind: k, Rule: r, Chain: c} }
	seen := func(v ruleset.VerdictKind, handle uint64) TraceStep {
		return TraceStep{Family: ruleset.Inet, Table: "t", Chain: "forward", Handle: handle, Policy: handle == 0, Verdict: v}
	}
	passes, drops := step(Accepted, rule, chain), step(Dropped, rule, chain)
	for _, c := range []struct {
		name   string
		said   []PathStep
		trace  []TraceStep
		did    Kind
		agrees bool
	}{
		{"passes", []PathStep{passes}, []TraceStep{seen(ruleset.Accept, 5)}, Accepted, true},
		{"said to pass, and dropped", []PathStep{passes}, []TraceStep{seen(ruleset.Drop, 5)}, Dropped, false},
		{"said to pass, and not seen", []PathStep{passes}, nil, Unknown, false},
		{"dropped by that rule", []PathStep{drops}, []TraceStep{seen(ruleset.Drop, 5)}, Dropped, true},
		{"dropped by another rule", []PathStep{drops}, []TraceStep{seen(ruleset.Drop, 6)}, Dropped, false},
		{"said to be dropped, and passes", []PathStep{drops}, []TraceStep{seen(ruleset.Accept, 6)}, Accepted, false},
		{"said to be dropped, and not seen", []PathStep{drops}, nil, Unknown, false},
		{"dropped by the policy", []PathStep{step(Dropped, nil, chain)}, []TraceStep{seen(ruleset.Drop, 0)}, Dropped, true},
		{"ends at a cable", []PathStep{step(Dropped, nil, nil)}, nil, Unknown, true},
		{"the answer ends", []PathStep{passes, {Back: true, Kind: Dropped, Rule: rule, Chain: chain}}, []TraceStep{seen(ruleset.Accept, 5)}, Accepted, true},
		{"not known", []PathStep{step(Unknown, rule, chain)}, []TraceStep{seen(ruleset.Drop, 5)}, Dropped, true},
	} {
		did, agrees := Traced(Answer{Steps: c.said}, c.trace)
		if did != c.did || agrees != c.agrees {
			t.Errorf("%s: %s, agrees %v; want %s, %v", c.name, did, agrees, c.did, c.agrees)
		}
	}
}
