package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// draft is a change that was thought through and not yet done.
type draft struct {
	doc   spec.Document
	plan  plan.Plan
	seen  host.State
	notes []render.Note
	facts []render.Fact
	known known
	// held are networks that it leaves out, nil if it is about forwards alone.
	held map[spec.NetworkName]string
	// mends is txn.Txn.Mends.
	mends bool
}

// change takes the whole road from a wanted document to a changed host.
func (e *Engine) change(ctx context.Context, title string, had, want spec.Document, o Options) (Result, error) {
	if busy := e.open.all(); len(busy) > 0 && !o.DryRun && !want.Equal(had) {
		return Result{}, &PendingError{Title: title, ID: busy[0].ID, Phase: busy[0].Phase}
	}
	d, err := e.draft(ctx, had, want)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", title, err)
	}
	if o.risky && len(d.plan.Steps) > 0 {
		d.plan.Risk = plan.RiskHost
	}
	res := Result{
		Title: title, Steps: d.plan.Steps, Risk: d.plan.Risk, Cuts: e.guestsOf(d.plan.Cuts),
		DryRun: o.DryRun, Document: d.doc,
	}
	for _, n := range d.notes {
		res.Notes = append(res.Notes, string(n))
	}
	res.Notes = append(res.Notes, e.elsewhere(had, d.doc)...)
	if stranded, note := e.stranded(ctx, had, d.doc, d.seen); len(stranded) > 0 {
		res.Cuts, res.Notes = append(res.Cuts, stranded...), append(res.Notes, note)
	}
	if d.plan.Risk == plan.RiskHost {
		res.Files = e.files(ctx, d.plan.Steps)
		res.Seen = slices.Concat(d.facts, e.ways(ctx, o.PID))
	}
	if o.DryRun {
		res.Edits = !d.doc.Equal(had)
		return res, nil
	}
	if len(res.Cuts) > 0 && !o.CutGuests {
		return res, &CutError{Title: title, Guests: res.Cuts}
	}
	if len(d.plan.Steps) == 0 && d.doc.Equal(had) && maps.Equal(d.plan.Ledger, e.Store.Ledger()) {
		return res, nil
	}
	if busy := e.open.all(); len(busy) > 0 {
		return res, &PendingError{Title: title, ID: busy[0].ID, Phase: busy[0].Phase}
	}
	done, err := e.carryOut(ctx, title, d, &o)
	if d.known.ports != nil && err == nil {
		e.known = d.known
	}
	if d.held != nil && err == nil {
		e.tellHeld(e.held, d.held)
		e.held = d.held
	}
	res.ID, res.Phase, res.Deadline, res.Conditions = done.ID, done.Phase, done.Deadline, e.Conditions(done)
	// Also when it was taken back: what flowed meanwhile went another way.
	e.cutFlows(ctx, changedForwards(had, d.doc, err == nil))
	e.forgetCounts(had)
	return res, err
}

// draft settles, renders and plans.
func (e *Engine) draft(ctx context.Context, had, want spec.Document) (draft, error) {
	if doors, only := doorChanges(had, want); only {
		return e.draftDoors(ctx, want, doors)
	}
	facts, err := e.look(ctx)
	if err != nil {
		return draft{}, err
	}
	doc, err := render.Settle(had, want, facts)
	if err != nil {
		return draft{}, err
	}
	if err := render.Validate(doc); err != nil {
		return draft{}, err
	}
	facts.Moving, facts.Leaving = render.Turn(had, doc)
	notes, who, err := e.findManager(ctx, &facts, doc)
	if err != nil {
		return draft{}, err
	}
	if ask := render.Asks(doc, facts.Moving, facts.Seen); len(ask) > 0 {
		more, err := e.Host.Observe(ctx, ask...)
		if err != nil {
			return draft{}, fmt.Errorf("look at the host: %w", err)
		}
		maps.Copy(facts.Seen, more)
	}
	held := e.staysHeld(had, doc)
	d, err := e.planFor(ctx, e.without(doc, held), facts)
	d.doc, d.held = doc, held
	d.notes = append(d.notes, notes...)
	if d.plan.Risk == plan.RiskHost {
		d.facts = slices.Concat(render.Briefing(doc, facts), who)
	}
	return d, err
}

// planFor renders a settled document and plans the way there.
func (e *Engine) planFor(ctx context.Context, doc spec.Document, facts render.Facts) (draft, error) {
	facts.Targets, facts.Now = e.findTargets(ctx, doc), e.Now().Unix()
	if err := e.findTags(ctx, doc, &facts); err != nil {
		return draft{}, err
	}
	wish, notes, err := render.Wish(doc, facts)
	if err != nil {
		return draft{}, err
	}
	ledger := e.Store.Ledger()
	disownUsurped(ledger, e.Store.Document(), facts.Seen)
	notes = append(notes, e.wishAccepts(ctx, &wish, doc, facts, ledger)...)
	reflects := e.hairpins(ctx, doc, facts.Seen)
	foreign := e.wishPorts(&wish, doc, ledger, facts.Seen, reflects)
	foreign = append(foreign, e.tagOthers(&wish, doc, ledger, facts.Seen)...)
	e.wishSnoops(&wish, ledger, doc, facts.Seen)
	ownDoors(ledger, wish)
	if err := e.lookCloser(ctx, facts.Seen, wish, ledger); err != nil {
		return draft{}, err
	}
	p, err := e.within(doc, facts).make(wish, ledger, facts.Seen)
	if err != nil {
		return draft{}, err
	}
	e.disownPorts(p.Ledger, foreign)
	disownSnoops(p.Ledger, wish, facts.Seen)
	disownDoors(p.Ledger)
	now := known{ports: e.attachedPorts(doc, facts.Seen, reflects), targets: facts.Targets}
	return draft{doc: doc, plan: p, seen: facts.Seen, notes: notes, known: now}, nil
}

const forwarding6 = "net/ipv6/conf/all/forwarding"

// bridgeFilters are 1 while br_netfilter shows bridged frames to the IP hooks,
// those of IPv4 and those of IPv6.
var bridgeFilters = []host.Key{
	host.SysctlKey("net/bridge/bridge-nf-call-iptables"), host.SysctlKey("net/bridge/bridge-nf-call-ip6tables"),
}

// look reads the host.
func (e *Engine) look(ctx context.Context) (render.Facts, error) {
	seen, err := e.Host.Observe(ctx)
	if err != nil {
		return render.Facts{}, fmt.Errorf("look at the host: %w", err)
	}
	return e.lookBeside(ctx, seen)
}

// lookBeside adds to what was seen of the host what is only seen by asking for it.
func (e *Engine) lookBeside(ctx context.Context, seen host.State) (render.Facts, error) {
	probe, err := e.Host.Observe(ctx, append([]host.Key{host.SysctlKey(forwarding6)}, bridgeFilters...)...)
	if err != nil {
		return render.Facts{}, fmt.Errorf("look at the host: %w", err)
	}
	maps.Copy(seen, probe)
	_, six := probe[host.SysctlKey(forwarding6)]
	return render.Facts{Seen: seen, Seed: e.Seed, KernelIPv6: six, Resolved: e.Resolved(ctx), HandsOff: e.Manager != nil}, nil
}

// lookCloser adds to seen what can only be seen by asking for it.
func (e *Engine) lookCloser(ctx context.Context, seen host.State, wish host.Wish, ledger host.Ledger) error {
	var ask []host.Key
	need := func(k host.Key) {
		if _, known := seen[k]; !known && k.Kind == host.KindSysctl {
			ask = append(ask, k)
		}
	}
	for k := range wish.Present {
		need(k)
	}
	for k := range wish.Given {
		need(k)
	}
	for k := range ledger {
		if _, again := wish.Present[k]; !again {
			need(k)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	slices.SortFunc(ask, host.Key.Compare)
	more, err := e.Host.Observe(ctx, ask...)
	if err != nil {
		return fmt.Errorf("look at the host: %w", err)
	}
	// A parameter does not tell which link it belongs to; the wish does.
	for k, r := range more {
		if wanted, ok := wish.Present[k].(host.Sysctl); ok {
			got := r.(host.Sysctl)
			got.Link = wanted.Link
			r = got
		}
		seen[k] = r
	}
	return nil
}

// reconcile makes the host what the document says, leaving out networks that
// something foreign keeps from running; those become problems. It returns the
// steps that were taken. who made it necessary, if that is known.
func (e *Engine) reconcile(ctx context.Context, title string, want spec.Document, who string) ([]plan.Step, error) {
	had := e.Store.Document()
	facts, err := e.look(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.reap(ctx, facts.Seen); err != nil {
		e.Log.Warn("ports of ended guests", "err", err)
	}
	held := map[spec.NetworkName]string{}
	runnable := want.Clone()
	for {
		d, err := e.planFor(ctx, runnable, facts)
		if name, why, ok := culprit(err, runnable); ok {
			n := runnable.Networks[name]
			n.Started = false
			runnable.Networks[name] = n
			held[name] = why
			continue
		}
		if err != nil {
			return nil, err
		}
		e.tellHeld(e.held, held)
		e.held = held
		d.doc = want
		if len(d.plan.Steps) == 0 && want.Equal(had) && maps.Equal(d.plan.Ledger, e.Store.Ledger()) {
			e.known = d.known
			return nil, nil
		}
		if txn.ActorOf(ctx).Kind == txn.ByRepair && len(d.plan.Steps) > 0 {
			return e.mend(ctx, d, who)
		}
		return d.plan.Steps, e.settle(ctx, title, d)
	}
}

// mend carries out what a look found missing, and tells drift from what is new. It
// returns what others had broken, or all of it if that failed.
func (e *Engine) mend(ctx context.Context, d draft, who string) ([]plan.Step, error) {
	drift, news := e.tellApart(d.plan.Steps, d.doc, d.known)
	title := titleOf(news)
	if len(drift) == 0 {
		ctx = txn.By(ctx, txn.Actor{Kind: txn.ByFollow, Name: who})
	} else {
		title = putBack(drift)
		e.tellSteps(DriftEvent, "seen", drift, who, "changed behind our back: %s")
	}
	if err := e.settle(ctx, title, d); err != nil {
		return d.plan.Steps, err
	}
	if len(drift) > 0 {
		e.keepNews(news, who)
	}
	e.tellNews(news, who)
	return drift, nil
}

// settle carries out what nobody asked for.
func (e *Engine) settle(ctx context.Context, title string, d draft) error {
	_, err := e.carryOut(ctx, title, d, nil)
	if slices.ContainsFunc(d.plan.Steps, func(s plan.Step) bool { return render.IsDoor(s.Key()) }) {
		e.cutFlows(ctx, allForwards(d.doc))
	}
	if err == nil {
		e.known = d.known
	}
	return err
}

// culprit finds the network whose bridge something foreign stands in the way of.
func culprit(err error, d spec.Document) (spec.NetworkName, string, bool) {
	var foreign *plan.ForeignError
	if !errors.As(err, &foreign) {
		return "", "", false
	}
	for name, n := range d.Networks {
		if n.Started && hangsOn(foreign.Key, n.GuestLink()) {
			return name, foreign.Error(), true
		}
	}
	return "", "", false
}
