package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"drawbridge/internal/ruleset"
)

// TraceStep is what the kernel tells about a packet at one rule or policy.
type TraceStep struct {
	Family, Table, Chain string
	// Handle of the rule; 0 for a policy.
	Handle  uint64
	Policy  bool
	Verdict ruleset.VerdictKind
	// Source and Target as they were there.
	Source, Target netip.Addr
}

// String is the step as "inet drawbridge forward: accept (rule 12)".
func (s TraceStep) String() string {
	by := fmt.Sprintf("rule %d", s.Handle)
	if s.Policy {
		by = "policy"
	}
	return fmt.Sprintf("%s %s %s: %s (%s)", s.Family, s.Table, s.Chain, s.Decision(), by)
}

// Decision is the verdict in nft's word.
func (s TraceStep) Decision() string { return ruleset.Verdict{Kind: s.Verdict}.String() }

// Traced compares what was said about a packet's way there with what the kernel
// traced: the verdict by the trace (Unknown if it shows nothing), and whether both
// agree. A packet that was said to end before any rule sees it leaves no trace; one
// that was said to meet rules and leaves none went elsewhere.
func Traced(a Answer, trace []TraceStep) (Kind, bool) {
	did := Unknown
	var last TraceStep
	if len(trace) > 0 {
		last = trace[len(trace)-1]
		did = Accepted
		if last.Verdict == ruleset.Drop {
			did = Dropped
		}
	}
	end := endOfWay(a)
	switch {
	case len(trace) == 0 && meetsRules(a):
		return did, end != nil && end.Kind == Unknown
	case end == nil || end.Chain == nil && len(trace) > 0:
		// It passes every rule; what comes after the last is not traced.
		return did, did != Dropped
	case end.Kind == Unknown:
		return did, true
	case end.Chain == nil:
		return did, true
	}
	same := did == Dropped && last.Table == end.Chain.Table.Name && last.Family == end.Chain.Table.Family
	if end.Rule != nil {
		same = same && last.Handle == end.Rule.Handle
	}
	return did, same || end.Chain.Table.Family == ruleset.ARP || end.Chain.Table.Family == ruleset.Netdev
}

// meetsRules says whether a packet was said to meet rules on its way there that the
// kernel traces: those of arp and netdev it does not, as the packet is marked later.
func meetsRules(a Answer) bool {
	return slices.ContainsFunc(a.Steps, func(s PathStep) bool {
		return !s.Back && s.Chain != nil && s.Chain.Table.Family != ruleset.ARP && s.Chain.Table.Family != ruleset.Netdev && s.Chain.Hook != "ingress"
	})
}

// endOfWay is where the way there ended; nil if it did not.
func endOfWay(a Answer) *PathStep {
	for i := range a.Steps {
		if s := &a.Steps[i]; !s.Back && s.Kind != Accepted {
			return s
		}
	}
	return nil
}
