package engine

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// doorChange is what happens to one forward.
type doorChange struct {
	network spec.Network // as it will be
	old     *spec.Forward
	new     *spec.Forward
}

// doorChanges lists what differs between two documents, if it is nothing but
// ports that are forwarded on running networks; else ok is false. Such a change
// is about a few elements of maps, so that one of thirty thousand forwards is
// neither read nor thought about together with the others.
func doorChanges(had, want spec.Document) (changes []doorChange, ok bool) {
	if len(had.Networks) != len(want.Networks) {
		return nil, false
	}
	for name, n := range want.Networks {
		old, there := had.Networks[name]
		plain := old
		plain.Forwards = n.Forwards
		if !there || !plain.Equal(n) {
			return nil, false
		}
		list := diffForwards(n, old.Forwards)
		if len(list) > 0 && !sameNeeds(old, n) {
			return nil, false
		}
		changes = append(changes, list...)
	}
	for _, c := range changes {
		if c.old != nil && c.old.Proto == spec.ProtoAll || c.new != nil && c.new.Proto == spec.ProtoAll {
			return nil, false
		}
	}
	return changes, len(changes) > 0
}

// sameNeeds says whether a network needs the same besides its forwards.
func sameNeeds(a, b spec.Network) bool {
	return slices.Equal(render.ForwardNeeds(a), render.ForwardNeeds(b))
}

func diffForwards(n spec.Network, old spec.Forwards) []doorChange {
	var all []doorChange
	for old, now := range old.Changes(n.Forwards) {
		all = append(all, doorChange{network: n, old: old, new: now})
	}
	return all
}

// someAddr stands for an address of a family where only keys are asked for: the
// key of an element does not depend on where it leads.
func someAddr(f spec.Forward) netip.Addr {
	if f.Listen.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// draftDoors plans a change of forwards alone.
func (e *Engine) draftDoors(ctx context.Context, want spec.Document, changes []doorChange) (draft, error) {
	if err := validateDoors(want, changes); err != nil {
		return draft{}, err
	}
	goal, keys := e.doors(ctx, want, changes)
	keys = append(keys, bridgeFilters...)
	for _, tap := range e.targetTaps(ctx, want, changes) {
		keys = append(keys, host.LinkKey(tap))
	}
	seen, err := e.Host.Observe(ctx, keys...)
	if err != nil {
		return draft{}, fmt.Errorf("look at the host: %w", err)
	}
	reflects := e.reflectsNow(ctx, want, changes, seen)
	for _, r := range seen {
		// What is looked at beside the doors stays as it is.
		if k := r.Key(); !render.IsDoor(k) && reflects[k] == nil {
			delete(seen, k)
		}
	}
	maps.Copy(goal, reflects)
	return draft{doc: want, plan: plan.Plan{Steps: plan.Diff(goal, seen), Risk: plan.RiskNone, Ledger: e.Store.Ledger()}, seen: seen}, nil
}

// fewDoors is up to how many forwards are compared with all others one by one;
// sorting all of them costs as much as comparing with this many.
const fewDoors = 16

func validateDoors(want spec.Document, changes []doorChange) error {
	if len(changes) > fewDoors {
		return render.Validate(want)
	}
	for _, c := range changes {
		if c.new == nil {
			continue
		}
		only := c.network
		only.Forwards = spec.MakeForwards(*c.new)
		if err := render.ValidateNetwork(only); err != nil {
			return err
		}
		if err := want.Beside(*c.new, c.network.Name); err != nil {
			return err
		}
	}
	return nil
}

// doors is what changed forwards shall be on the host, and all that they were
// or will be.
func (e *Engine) doors(ctx context.Context, want spec.Document, changes []doorChange) (goal host.State, keys []host.Key) {
	facts := render.Facts{Targets: map[render.Target]netip.Addr{}, Now: e.Now().Unix()}
	who := e.guests(ctx, want)
	goal = host.State{}
	for _, c := range changes {
		if c.old != nil {
			for _, r := range render.ForwardElements(*c.old, someAddr(*c.old)) {
				keys = append(keys, r.Key())
			}
		}
		if c.new == nil || !e.runs(c.network) {
			continue
		}
		for _, r := range render.ForwardElements(*c.new, someAddr(*c.new)) {
			keys = append(keys, r.Key())
		}
		who.targets(facts.Targets, c.network, slices.Values([]spec.Forward{*c.new}))
		goal.Add(render.OpenForward(c.network, *c.new, facts)...)
	}
	slices.SortFunc(keys, host.Key.Compare)
	return goal, slices.Compact(keys)
}

func (e *Engine) runs(n spec.Network) bool {
	_, held := e.held[n.Name]
	return n.Started && !held
}

// findTargets finds the addresses of all guests that forwards name.
func (e *Engine) findTargets(ctx context.Context, doc spec.Document) map[render.Target]netip.Addr {
	targets := map[render.Target]netip.Addr{}
	who := e.guests(ctx, doc)
	for _, name := range doc.Names() {
		if n := doc.Networks[name]; n.Started {
			who.targets(targets, n, n.Forwards.All())
		}
	}
	return targets
}

// follow leads the forwards to a guest, by any of its names, to where it is now.
func (e *Engine) follow(ctx context.Context, network spec.NetworkName, names ...string) {
	n, ok := e.Store.Document().Networks[network]
	if !ok {
		return
	}
	var list []spec.Forward
	for f := range n.Forwards.All() {
		if f.Target != "" && slices.Contains(names, f.Target) {
			list = append(list, f)
		}
	}
	if port, ok := e.portOf(n, names); ok && port.Guest != "" && !slices.Contains(names, port.Guest) {
		for f := range n.Forwards.All() {
			if f.Target == port.Guest {
				list = append(list, f)
			}
		}
	}
	e.followAll(ctx, network, list)
}

func (e *Engine) portOf(n spec.Network, names []string) (host.Port, bool) {
	for _, p := range e.live {
		if p.Network == string(n.Name) && slices.Contains(names, p.MAC) {
			return p, true
		}
	}
	return host.Port{}, false
}

// followAll leads forwards of a network to where their guests are now. It is no
// change of the document, so it goes on while one is pending; what fails is put
// right by the next repair.
func (e *Engine) followAll(ctx context.Context, network spec.NetworkName, list []spec.Forward) {
	doc := e.Store.Document()
	n, ok := doc.Networks[network]
	if !ok || !e.runs(n) {
		return
	}
	var changes []doorChange
	for _, f := range list {
		if _, fixed := f.TargetAddr(); !fixed {
			changes = append(changes, doorChange{network: n, old: &f, new: &f})
		}
	}
	if len(changes) == 0 {
		return
	}
	goal, keys := e.doors(ctx, doc, changes)
	seen, err := e.Host.Observe(ctx, keys...)
	if err != nil {
		e.Log.Warn("forwards do not follow their guest yet", "err", err)
		return
	}
	// A forward of a whole address has an element with the guest's own address
	// as key; the old one is not among the keys, the next repair takes it out.
	steps := plan.Diff(goal, seen)
	if len(steps) == 0 {
		return
	}
	if err := e.Host.Apply(ctx, steps); err != nil {
		e.Log.Warn("forwards do not follow their guest yet", "err", err)
		return
	}
	e.cutFlows(ctx, list)
	for _, f := range list {
		e.tell(Event{Kind: ForwardEvent, Action: "follows", Network: network, Object: f.Key(), Text: fmt.Sprintf("forward %s follows %s", f.Key(), f.Target)})
	}
}

// disownDoors takes forwards out of a ledger: what is in our own tables is
// ours, and thirty thousand entries would have to be read and compared.
func disownDoors(ledger host.Ledger) {
	maps.DeleteFunc(ledger, func(k host.Key, _ host.Claim) bool { return render.IsDoor(k) })
}

// ownDoors claims the forwards for a plan.
func ownDoors(ledger host.Ledger, wish host.Wish) {
	for k := range wish.Present {
		if render.IsDoor(k) {
			ledger[k] = host.Claim{Kind: host.Made}
		}
	}
}

// changedForwards lists the forwards whose flows have to be looked at after a
// change from one document to another; made says that it was not taken back.
func changedForwards(had, want spec.Document, made bool) []spec.Forward {
	var list []spec.Forward
	seen := func(n spec.Network, old spec.Forwards) {
		for _, c := range diffForwards(n, old) {
			switch {
			case c.old != nil:
				list = append(list, *c.old)
			case made && c.new.Everywhere() && c.new.Proto != spec.UDP:
				// What came there went to the host, or by a forward of one address,
				// and goes on so. To look costs the kernel 4 ms.
			default:
				list = append(list, *c.new)
			}
		}
	}
	for name, n := range want.Networks {
		old := had.Networks[name]
		if old.Started != n.Started {
			list = append(append(list, old.Forwards.List()...), n.Forwards.List()...)
			continue
		}
		seen(n, old.Forwards)
	}
	for name, old := range had.Networks {
		if _, stays := want.Networks[name]; !stays {
			list = append(list, old.Forwards.List()...)
		}
	}
	return list
}

func allForwards(doc spec.Document) []spec.Forward {
	var all []spec.Forward
	for _, n := range doc.Networks {
		all = append(all, n.Forwards.List()...)
	}
	return all
}

// endForwards takes forwards out of the document whose time is over. Their
// doors are closed by then, or by the repair that follows, also while a pending
// change keeps the document as it is.
func (e *Engine) endForwards(ctx context.Context) {
	had := e.Store.Document()
	want, now := had.Clone(), e.Now().Unix()
	var over []spec.Forward
	for name, n := range want.Networks {
		for f := range n.Forwards.All() {
			if f.Until != 0 && f.Until <= now {
				over = append(over, f)
				n = n.WithoutForward(f)
			}
		}
		want.Networks[name] = n
	}
	if len(over) == 0 || len(e.open.all()) > 0 {
		return
	}
	if _, err := e.change(txn.By(ctx, txn.Actor{Kind: txn.ByClock}), "end "+keysOfForwards(over), had, want, Options{}); err != nil {
		e.Log.Warn("forwards whose time is over", "err", err)
	}
}

// anyOver says whether a forward is still in the document after its time.
func anyOver(doc spec.Document, now int64) bool {
	return slices.ContainsFunc(allForwards(doc), func(f spec.Forward) bool { return f.Until != 0 && f.Until <= now })
}

// nextEnd is how long it is until a forward ends, at most limit.
func (e *Engine) nextEnd(limit time.Duration) time.Duration {
	now := e.Now()
	for _, n := range e.Store.Document().Networks {
		for f := range n.Forwards.All() {
			if f.Until > now.Unix() {
				limit = min(limit, max(time.Unix(f.Until, 0).Sub(now), time.Millisecond))
			}
		}
	}
	return limit
}
