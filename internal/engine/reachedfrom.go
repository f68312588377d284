package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
	"drawbridge/internal/render"
	"drawbridge/internal/ruleset"
	"drawbridge/internal/spec"
)

// Paths reads what decides about packets' ways: everybody's rules, and the links,
// addresses, routes and neighbours of the host.
type Paths interface {
	Rules(ctx context.Context) (*ruleset.Ruleset, error)
	// ForeignRules leaves out our own tables, which may be large.
	ForeignRules(ctx context.Context) (*ruleset.Ruleset, error)
	Machine(ctx context.Context) (*diagnose.Host, error)
	// Scene is all of these, and who is behind which port.
	Scene(ctx context.Context) (*diagnose.Scene, error)
	// Probe sends a packet, as if it came in at a port ("": the host sends it), and
	// says what the kernel traced of it. Nothing of that stays.
	Probe(ctx context.Context, p diagnose.Packet, port, mac string) ([]diagnose.TraceStep, error)
}

// ReachedFrom is whether a forward can be used from somewhere.
type ReachedFrom struct {
	// From is lan, internet, host or guests; Link where packets come in, "" for the
	// host itself.
	From, Link string
	Verdict    diagnose.Kind
	// Why names what is in the way, with its owner; "" if it is reached.
	Why   string
	Owner ruleset.Owner
}

// protocols are the numbers of what can be forwarded. A forward of a whole
// address is tried with TCP.
var protocols = map[spec.Proto]uint8{spec.TCP: 6, spec.UDP: 17, spec.SCTP: 132, spec.ProtoAll: 6}

// doorOf describes a forward that leads to an address.
func doorOf(n spec.Network, f spec.Forward, to netip.Addr, open bool) diagnose.Door {
	return diagnose.Door{
		Proto: protocols[f.Proto], Listen: f.Listen, First: f.First, Last: f.Last, Target: netip.AddrPortFrom(to, f.TargetPort),
		From: f.From, Bridge: n.Bridge, Open: open,
	}
}

// bridges are those of all networks that run.
func (e *Engine) bridges(doc spec.Document) []string {
	var names []string
	for _, name := range doc.Names() {
		if n := doc.Networks[name]; n.Started {
			names = append(names, n.Bridge)
		}
	}
	return names
}

// walls looks for rules of others that would take or swallow what comes to a
// forward which is not open yet: sure are those that make it useless from
// outside, doubts what may, or does from some places only.
func (e *Engine) walls(ctx context.Context, n spec.Network, f spec.Forward) (sure, doubts []string, err error) {
	if e.Paths == nil || !n.Started {
		return nil, nil, nil
	}
	rules, err := e.Paths.ForeignRules(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("look for firewall rules in the way: %w", err)
	}
	machine, err := e.Paths.Machine(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("look for firewall rules in the way: %w", err)
	}
	doc := e.Store.Document()
	e.mu.Lock()
	to, known := e.targetOf(ctx, doc, n, f)
	e.mu.Unlock()
	if !known {
		return nil, nil, nil
	}
	door := doorOf(n, f, to, false)
	outside, blocked := 0, []string{}
	var opens map[host.Table]bool // asked for once something is in the way
	for _, r := range diagnose.Reach(rules, machine, door, e.bridges(doc)) {
		out := r.Name == "lan" || r.Name == "internet"
		if out {
			outside++
		}
		switch {
		case r.Taken != nil && r.Kind != diagnose.Unknown:
			sure = append(sure, r.Why)
		case r.Kind == diagnose.Unknown && out:
			doubts = append(doubts, fmt.Sprintf("whether %s is reached from %s is not known: %s", f.Key(), placeOf(r.Name, r.Link), r.Why))
		case r.Verdict.Chain != nil && out:
			if opens == nil {
				opens = e.exceptions(ctx, n, f)
			}
			if !opens[host.Table{Family: host.Family(r.Verdict.Chain.Table.Family), Name: r.Verdict.Chain.Table.Name}] {
				blocked = append(blocked, wall(r, door))
			}
		}
	}
	slices.Sort(blocked)
	count := len(blocked)
	blocked = slices.Compact(blocked)
	if count > 0 && count == outside {
		sure = append(sure, blocked...)
	} else {
		doubts = append(doubts, blocked...)
	}
	slices.Sort(sure)
	slices.Sort(doubts)
	return slices.Compact(sure), slices.Compact(doubts), nil
}

// exceptions are the tables of others that let a forward's packets pass once it
// is there, since an exception for them is put into each (into one chain or
// another: Docker has one for the purpose). Whatever cannot be
// read counts as no exception.
func (e *Engine) exceptions(ctx context.Context, n spec.Network, f spec.Forward) map[host.Table]bool {
	opens := map[host.Table]bool{}
	if e.Firewalls == nil || e.Observe {
		return opens
	}
	seen, err := e.Host.Observe(ctx)
	if err != nil {
		return opens
	}
	accepts, _, err := e.Firewalls.Exceptions(ctx, e.Store.Document().With(n.WithForward(f)), seen)
	if err != nil {
		return opens
	}
	for _, x := range accepts {
		if a, ok := x.(host.Accept); ok && a.Way == host.WayDoors && a.Bridge == n.Bridge {
			opens[a.Table] = true
		}
	}
	return opens
}

// wall says what blocks a door, and how its owner lets through.
func wall(r diagnose.Reached, door diagnose.Door) string {
	text := fmt.Sprintf("what comes from %s is %s by %s: %s", placeOf(r.Name, r.Link), r.Kind, r.Owner, r.Verdict.Where())
	if way := diagnose.WayOut(r.Owner, r.Verdict.Chain, door); way != "" {
		text += " (let it through with: " + way + ")"
	}
	return text
}

func placeOf(name, link string) string {
	switch {
	case name == "host":
		return "this host"
	case link != "" && name != "guests":
		return name + " (" + link + ")"
	}
	return name
}

// targetOf is where a forward leads, or for a guest that is not there yet some
// address of its network: rules of others rarely name a single one.
func (e *Engine) targetOf(ctx context.Context, doc spec.Document, n spec.Network, f spec.Forward) (netip.Addr, bool) {
	targets := map[render.Target]netip.Addr{}
	e.guests(ctx, doc).targets(targets, n, slices.Values([]spec.Forward{f}))
	if a, ok := (render.Facts{Targets: targets}).GuestAddr(n.Name, f); ok && a.IsValid() {
		return a, true
	}
	subnet, ok := n.Subnet4()
	if f.Listen.Is6() {
		subnet, ok = n.Subnet6()
	}
	a := subnet.Gateway.Next()
	return a, ok && subnet.Prefix.Contains(a)
}

// fewForwards is up to how many forwards it is looked from where each is reached.
const fewForwards = 256

// Reached fills in from where forwards can be used, if they are not too many:
// each asks what becomes of several packets. The second answer says whether it
// was looked.
func (e *Engine) Reached(ctx context.Context, list []ForwardView) (bool, error) {
	if e.Paths == nil || len(list) == 0 || len(list) > fewForwards {
		return false, nil
	}
	rules, err := e.Paths.Rules(ctx)
	if err != nil {
		return false, err
	}
	machine, err := e.Paths.Machine(ctx)
	if err != nil {
		return false, err
	}
	doc := e.Store.Document()
	bridges := e.bridges(doc)
	for i := range list {
		v := &list[i]
		if v.Waiting != "" || !v.Address.IsValid() {
			continue
		}
		v.Reached = []ReachedFrom{}
		door := doorOf(doc.Networks[v.Network], v.Forward, v.Address, true)
		for _, r := range diagnose.Reach(rules, machine, door, bridges) {
			one := ReachedFrom{From: r.Name, Link: r.Link, Verdict: r.Kind, Why: r.Why, Owner: r.Owner}
			if r.Verdict.Chain != nil && r.Kind != diagnose.Unknown {
				one.Why = wall(r, door)
			}
			v.Reached = append(v.Reached, one)
		}
	}
	return true, nil
}

// loginPort is where people log in.
const loginPort = 22

// takesWayIn says why a forward might keep whoever asked from coming back: it
// takes the port that they are connected to, or port 22 of that address, or the
// whole of an address that the host itself goes out with.
func (e *Engine) takesWayIn(ctx context.Context, f spec.Forward, pid int) ([]string, error) {
	var why []string
	var found []host.Connection
	if e.Reach != nil && pid != 0 {
		var err error
		if found, err = e.Reach.Operator(ctx, pid); err != nil {
			e.Log.Warn("whoever asked is not found", "err", err)
		}
	}
	for _, c := range found {
		local := netip.AddrPortFrom(c.Local.Addr().Unmap(), c.Local.Port())
		switch {
		case takes(f, local):
			why = append(why, fmt.Sprintf("you are connected to %s, and whoever comes back there would reach the guest", local))
		case takes(f, netip.AddrPortFrom(local.Addr(), loginPort)):
			why = append(why, fmt.Sprintf("it takes port %d of %s, by which you came", loginPort, local.Addr()))
		}
	}
	if f.Proto != spec.ProtoAll || e.Paths == nil {
		return why, nil
	}
	machine, err := e.Paths.Machine(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for the address that the host goes out with: %w", err)
	}
	if diagnose.DefaultSource(machine, f.Listen.Is6()) == f.Listen {
		why = append(why, fmt.Sprintf("%s is the address that this host itself goes out with", f.Listen))
	}
	return why, nil
}

// takes says whether a forward takes what comes to an address and TCP port.
func takes(f spec.Forward, to netip.AddrPort) bool {
	if f.Everywhere() && f.Listen.Is4() != to.Addr().Is4() || !f.Everywhere() && f.Listen != to.Addr() {
		return false
	}
	return f.Proto == spec.ProtoAll || f.Proto == spec.TCP && f.First <= to.Port() && to.Port() <= f.Last
}
