// Package plan compares what is wanted with what is seen and yields ordered
// steps that are data.
//
// It owns the order of steps, their risk, what they cut off, and the refusal to
// touch what is not ours. It does not know networks, documents or kernels.
//
// Start reading at Make below; the order is in order.go, the refusals in
// errors.go.
package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// Step turns one resource from Before into After. A nil Before creates, a nil
// After deletes. Steps are plain data: they can be printed, stored and done
// twice.
type Step struct {
	Before, After host.Resource
}

// Key is the key of the resource that the step is about.
func (s Step) Key() host.Key {
	if s.After != nil {
		return s.After.Key()
	}
	return s.Before.Key()
}

// Verb says in one word what the step does: create, change or delete.
func (s Step) Verb() string {
	switch {
	case s.Before == nil:
		return "create"
	case s.After == nil:
		return "delete"
	}
	return "change"
}

type stepJSON struct {
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// MarshalJSON writes both sides with their kinds.
func (s Step) MarshalJSON() ([]byte, error) {
	before, err := host.MarshalResource(s.Before)
	if err != nil {
		return nil, err
	}
	after, err := host.MarshalResource(s.After)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(before)+len(after)+len(`{"before":,"after":}`))
	b = append(append(b, `{"before":`...), before...)
	b = append(append(b, `,"after":`...), after...)
	return append(b, '}'), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Step) UnmarshalJSON(b []byte) error {
	var in stepJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("decode step: %w", err)
	}
	for _, side := range []struct {
		raw json.RawMessage
		to  *host.Resource
	}{{in.Before, &s.Before}, {in.After, &s.After}} {
		if side.raw == nil {
			continue
		}
		r, err := host.UnmarshalResource(side.raw)
		if err != nil {
			return err
		}
		*side.to = r
	}
	if s.Before == nil && s.After == nil {
		return fmt.Errorf("decode step: it has neither before nor after")
	}
	return nil
}

// Risk is the worst that a plan can do while it is carried out.
type Risk string

// The risks, from least to worst.
const (
	// RiskNone: nobody loses anything.
	RiskNone Risk = "none"
	// RiskGuest: guests may be cut off.
	RiskGuest Risk = "guest"
	// RiskHost: the host's own connections may be cut off.
	RiskHost Risk = "host"
)

// Plan is what to do, what it risks, and what will be ours afterwards.
type Plan struct {
	Steps []Step
	Risk  Risk
	// Cuts lists the links that lose their bridge because a step deletes it.
	Cuts []string
	// Ledger is the ledger as it will be once all steps hold.
	Ledger host.Ledger
}

// Make plans the way from seen to want. had is the ledger so far: what is ours
// and no longer wanted is deleted or given back. A thing that is in the way and
// not ours is refused with *ForeignError. seen must cover every key of want and
// had that can be seen at all.
func Make(want host.Wish, had host.Ledger, seen host.State) (Plan, error) {
	goal := host.State{}
	ledger := host.Ledger{}
	var keys []host.Key
	for _, key := range want.Present.Keys() {
		wanted, there := want.Present[key], seen[key]
		claim, err := claimFor(wanted, there, had)
		if err != nil {
			return Plan{}, &ForeignError{Key: root(key, want, had, seen)}
		}
		if claim.Kind != "" {
			ledger[key] = claim
		}
		goal[key] = wanted
		keys = append(keys, key)
	}
	for key, claim := range had {
		if _, wanted := want.Present[key]; wanted {
			continue
		}
		keys = append(keys, key)
		there, ok := seen[key]
		switch {
		case claim.Kind == host.Borrowed:
			goal[key] = claim.Original
		case ok && (claim.Kind == host.Left || key.Kind == host.KindSysctl):
			// A parameter that came with a link of ours goes with it, and not before.
			goal[key] = there
		}
	}
	for key := range want.Absent {
		if there, ok := seen[key]; ok {
			if claim, mine := had[key]; mine {
				ledger[key] = claim
			} else {
				ledger[key] = host.Claim{Kind: host.Borrowed, Original: there}
			}
		}
		delete(goal, key)
		keys = append(keys, key)
	}
	keys = append(keys, strangers(want, had, seen)...)
	keys = append(keys, give(goal, ledger, want)...)
	steps := Diff(goal, seen.Only(keys))
	if err := restorable(steps); err != nil {
		return Plan{}, err
	}
	cuts := cutPorts(steps, seen)
	return Plan{Steps: steps, Risk: riskOf(steps, cuts, had, seen), Cuts: cuts, Ledger: ledger}, nil
}

// give puts what the host shall have of its own into the goal, and out of the
// ledger: whatever right we had to it ends here.
func give(goal host.State, ledger host.Ledger, want host.Wish) []host.Key {
	for key, r := range want.Given {
		delete(ledger, key)
		delete(goal, key)
		if r != nil {
			goal[key] = r
		}
	}
	return want.Given.Keys()
}

// restorable refuses steps that take something away which could not be made
// again as it is.
func restorable(steps []Step) error {
	for _, s := range steps {
		var what string
		switch r := s.Before.(type) {
		case host.Address:
			what = r.Unrestorable
		case host.Route:
			what = r.Unrestorable
		}
		if what != "" {
			return &UnrestorableError{Key: s.Key(), Attributes: strings.Split(what, ", ")}
		}
	}
	return nil
}

// root is what a thing that is in the way hangs on, if that is in the way itself.
func root(key host.Key, want host.Wish, had host.Ledger, seen host.State) host.Key {
	for _, need := range want.Present[key].Needs() {
		wanted, there := want.Present[need], seen[need]
		if wanted == nil || there == nil {
			continue
		}
		if _, err := claimFor(wanted, there, had); err != nil {
			return need
		}
	}
	return key
}

// claimFor says by what right wanted may stand where there is now.
func claimFor(wanted, there host.Resource, had host.Ledger) (host.Claim, error) {
	key := wanted.Key()
	if claim, mine := had[key]; mine {
		return claim, nil
	}
	switch {
	case there == nil:
		return host.Claim{Kind: host.Made}, nil
	case key.Kind == host.KindSysctl:
		if host.Same(there, wanted) {
			return host.Claim{}, nil
		}
		// Parameters of the whole host, and of links that are not ours, gate
		// others by the time we stop; those of our own links die with them.
		return host.Claim{Kind: host.Left, Original: there}, nil
	case inOurProcess(key.Kind), hangsOnMine(wanted, had):
		return host.Claim{Kind: host.Made}, nil
	}
	return host.Claim{}, &ForeignError{Key: key}
}

// inOurProcess says that only our own programs can have made things of a kind.
func inOurProcess(k host.Kind) bool {
	switch k {
	case host.KindPool, host.KindReservation, host.KindRouter, host.KindZone, host.KindGuest, host.KindResolver, host.KindAccept, host.KindInZone, host.KindUnmanaged:
		return true
	}
	return false
}

// hangsOnMine says that all that wanted needs is ours, so that whoever put it
// there put it into our own house.
func hangsOnMine(wanted host.Resource, had host.Ledger) bool {
	needs := wanted.Needs()
	for _, need := range needs {
		if had[need].Kind != host.Made {
			return false
		}
	}
	return len(needs) > 0
}

// strangers are things that somebody put among ours, where only ours may be:
// into our tables, or a service that we no longer know of. They are taken out.
func strangers(want host.Wish, had host.Ledger, seen host.State) []host.Key {
	var keys []host.Key
	for key, there := range seen {
		_, wanted := want.Present[key]
		_, mine := had[key]
		_, tableIsOurs := want.Present[tableOf(there)]
		service := inOurProcess(key.Kind) && key.Kind != host.KindResolver
		if !wanted && !mine && (tableIsOurs || service) {
			keys = append(keys, key)
		}
	}
	return keys
}

// Diff lists the ordered steps from seen to goal. Both are taken to be about
// the same keys: what is seen and not in goal is deleted.
func Diff(goal, seen host.State) []Step {
	var steps []Step
	for key, wanted := range goal {
		there, ok := seen[key]
		if !ok {
			steps = append(steps, Step{After: wanted})
		} else if !host.Same(there, wanted) {
			steps = append(steps, Step{Before: there, After: wanted})
		}
	}
	for key, there := range seen {
		if _, ok := goal[key]; !ok {
			steps = append(steps, Step{Before: there})
		}
	}
	return order(withDependents(steps, goal, seen))
}

// cutPorts names the links that are plugged into a bridge which a step deletes,
// or which a step unplugs.
func cutPorts(steps []Step, seen host.State) []string {
	gone, replugged := map[string]bool{}, map[string]bool{}
	for _, s := range steps {
		l, ok := s.Before.(host.Link)
		if ok && s.After == nil && l.Type == host.TypeBridge {
			gone[l.Name] = true
		}
		replugged[s.Key().Name] = ok && s.After != nil
	}
	if len(gone) == 0 {
		return nil
	}
	var cuts []string
	for _, r := range seen {
		if l, ok := r.(host.Link); ok && gone[l.Master] && !replugged[l.Name] {
			cuts = append(cuts, l.Name)
		}
	}
	slices.Sort(cuts)
	return cuts
}

func riskOf(steps []Step, cuts []string, had host.Ledger, seen host.State) Risk {
	risk := RiskNone
	if len(cuts) > 0 {
		risk = RiskGuest
	}
	for _, s := range steps {
		if !touchesForeignLink(s, had) || plugsIdle(s, seen) {
			continue
		}
		if !keepsUntagged(s) {
			return RiskHost
		}
		risk = RiskGuest
	}
	return risk
}

// touchesForeignLink says whether a step changes a link that we did not make,
// or an address or route on one: the host's own connection may run over it.
func touchesForeignLink(s Step, had host.Ledger) bool {
	if s.Before == nil && s.Key().Kind == host.KindLink {
		return false
	}
	var link string
	switch r := firstOf(s.Before, s.After).(type) {
	case host.Link:
		link = r.Name
	case host.Address:
		link = r.Link
	case host.Route:
		link = r.Link
	default:
		return false
	}
	if s.Before == nil {
		return false
	}
	return had[host.LinkKey(link)].Kind != host.Made
}

// plugsIdle says whether a step does no more than plug a link into a bridge over
// which the host itself does not speak: the link has no addresses but
// link-local ones and was in no bridge.
func plugsIdle(s Step, seen host.State) bool {
	before, ok1 := s.Before.(host.Link)
	after, ok2 := s.After.(host.Link)
	if !ok1 || !ok2 || before.Master != "" {
		return false
	}
	before.Master, before.Up, before.Isolated, before.Hairpin, before.VLANs = after.Master, after.Up, after.Isolated, after.Hairpin, after.VLANs
	if before != after {
		return false
	}
	for _, r := range seen {
		if a, ok := r.(host.Address); ok && a.Link == after.Name && !a.Addr.Addr().IsLinkLocalUnicast() {
			return false
		}
	}
	return true
}

// onlyVLANs says whether two versions of a link differ in nothing else.
func onlyVLANs(before, after host.Link) bool {
	before.VLANs, before.Filter = after.VLANs, after.Filter
	return before == after
}

// gainsOnly says whether a link is in no VLAN less than before.
func gainsOnly(before, after host.Link) bool {
	had, err1 := host.ParseVLANs(before.VLANs, host.DefaultVLAN)
	has, err2 := host.ParseVLANs(after.VLANs, host.DefaultVLAN)
	for id, flags := range had {
		if now, in := has[id]; !in || now != flags {
			return false
		}
	}
	return err1 == nil && err2 == nil
}

// keepsUntagged says whether a step does no more to a link than to change what it
// does with tagged frames: those without a tag go the same way before and after.
func keepsUntagged(s Step) bool {
	before, ok1 := s.Before.(host.Link)
	after, ok2 := s.After.(host.Link)
	if !ok1 || !ok2 || !onlyVLANs(before, after) {
		return false
	}
	was, now := untagged(before), untagged(after)
	return was != nil && maps.Equal(was, now)
}

// untagged are the VLANs of a link whose frames it takes or gives without a tag;
// nil if that cannot be told.
func untagged(l host.Link) host.VLANSet {
	set, err := host.ParseVLANs(l.VLANs, host.DefaultVLAN)
	if err != nil {
		return nil
	}
	maps.DeleteFunc(set, func(_ int, flags host.VLANFlags) bool { return flags == 0 })
	return set
}

func firstOf(a, b host.Resource) host.Resource {
	if a != nil {
		return a
	}
	return b
}
