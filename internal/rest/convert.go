package rest

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// list makes a nil list an empty one, so that it is never null in JSON.
func list[T any](in []T) []T {
	if in == nil {
		return []T{}
	}
	return in
}

func changeOf(r engine.Result, boottime int64) api.Change {
	return api.Change{
		ID: r.ID, Title: r.Title, Phase: string(r.Phase), DryRun: r.DryRun, NothingToDo: len(r.Steps) == 0 && r.ID == "" && !r.Edits,
		Risk: cmp.Or(string(r.Risk), string(plan.RiskNone)), Steps: stepsOf(r.Steps), Cuts: list(r.Cuts), Notes: list(r.Notes),
		Seen: factsOf(r.Seen), Conditions: conditionsOf(r.Conditions), Files: list(r.Files), DeadlineSecs: leftOf(r.Phase, r.Deadline, boottime),
	}
}

func factsOf(list []engine.Fact) []api.Fact {
	var out []api.Fact
	for _, f := range list {
		out = append(out, api.Fact(f))
	}
	return out
}

func conditionsOf(list []engine.Condition) []api.Condition {
	var out []api.Condition
	for _, c := range list {
		out = append(out, api.Condition(c))
	}
	return out
}

// leftOf is how many seconds a person has to decide, nil if nobody is waited for.
func leftOf(phase txn.Phase, deadline, boottime int64) *int {
	if phase != txn.Waiting {
		return nil
	}
	left := int((max(0, deadline-boottime) + int64(time.Second) - 1) / int64(time.Second))
	return &left
}

// overOf is what is known of a change that is over.
func overOf(t txn.Ended) api.Change {
	return api.Change{
		ID: t.ID, Title: t.Title, Phase: string(t.Phase), Who: t.Who, Problem: t.Problem, Proof: t.Proof, Risk: string(plan.RiskHost),
		Steps: []api.Step{}, Cuts: []string{}, Notes: []string{}, Files: []string{}, Left: []api.Step{},
	}
}

func stepsOf(steps []plan.Step) []api.Step {
	out := make([]api.Step, 0, len(steps))
	for _, s := range steps {
		key := s.Key()
		out = append(out, api.Step{Verb: s.Verb(), Kind: string(key.Kind), Name: key.Name, Detail: describe(s.Before, s.After)})
	}
	return out
}

// pendingOf is a change that is not finished; boottime is now, in nanoseconds.
func pendingOf(t txn.Txn, boottime int64) api.Change {
	out := api.Change{
		ID: t.ID, Title: t.Title, Phase: string(t.Phase), Risk: string(plan.RiskNone), Steps: stepsOf(slices.Concat(t.Steps, t.After)),
		Cuts: []string{}, Notes: []string{}, Files: []string{}, Problem: t.Problem, Who: t.Who, Left: stepsOf(t.Left),
		DeadlineSecs: leftOf(t.Phase, t.Deadline, boottime),
	}
	if t.Within != 0 {
		// Only changes that put the host at risk wait for a person.
		out.Risk = string(plan.RiskHost)
	}
	return out
}

func networkOf(n spec.Network, v engine.NetworkView) api.Network {
	out := api.Network{
		Name: string(n.Name), UUID: n.UUID, Mode: string(n.Mode), Bridge: n.Bridge, MAC: n.MAC, MTU: n.EffectiveMTU(),
		Subnets: []api.Subnet{}, IPv6: string(n.IPv6), Domain: n.Domain, AllowUsers: list(n.AllowUsers),
		Uplinks: list(n.Uplinks), Adopt: n.Adopt, STP: n.STP, VLAN: n.Tags.VLAN, VLANTrunk: string(n.Tags.Trunk),
		Reservations: reservationsOf(n, ""), Autostart: n.Autostart, Started: n.Started,
		Running: v.Running, Problems: list(v.Problems), Guests: v.Guests, Leases: v.Leases, PoolSize: v.PoolSize,
	}
	for _, s := range n.Subnets {
		out.Subnets = append(out.Subnets, subnetOf(s))
	}
	out.Remarks = list(v.Remarks)
	switch {
	case !n.Started:
		out.State = "stopped"
	case v.Running && len(v.Problems) == 0:
		out.State = "running"
	default:
		out.State = "degraded"
	}
	return out
}

func networksOf(v engine.View) []api.Network {
	out := []api.Network{}
	for _, name := range v.Document.Names() {
		out = append(out, networkOf(v.Document.Networks[name], v.Networks[name]))
	}
	return out
}

func subnetOf(s spec.Subnet) api.Subnet {
	out := api.Subnet{CIDR: s.Prefix.String(), Gateway: s.Gateway.String()}
	if s.Prefix.Addr().Is4() {
		out.DHCPRange = cmp.Or(s.Range.String(), rangeOff)
		out.LeaseTime = api.LeaseTime(strconv.Itoa(s.LeaseSeconds))
	}
	return out
}

// reservationsOf lists those of a network; network is named in each if given.
func reservationsOf(n spec.Network, network string) []api.Reservation {
	out := []api.Reservation{}
	for _, r := range n.Reservations {
		out = append(out, api.Reservation{Network: network, MAC: r.MAC, IP: r.Addr.String(), Hostname: r.Hostname})
	}
	return out
}

func leaseOf(l engine.Lease) api.Lease {
	out := api.Lease{Network: string(l.Network), MAC: l.MAC, Address: l.Address, Hostname: l.Hostname, Guest: l.Guest}
	if l.Expires != 0 {
		at := time.Unix(l.Expires, 0).UTC()
		out.Expires = &at
	}
	return out
}

func portOf(p engine.Port) api.Port {
	out := api.Port{
		Network: string(p.Network), Bridge: p.Bridge, Tap: p.Tap, Guest: p.Guest, MAC: p.MAC, Addresses: list(p.Addresses),
		VLAN: p.Tags.VLAN, VLANTrunk: string(p.Tags.Trunk),
		Made: p.Made, PID: p.PID, Process: p.Process,
		RxBytes: p.RxBytes, TxBytes: p.TxBytes, RxPackets: p.RxPackets, TxPackets: p.TxPackets,
	}
	if p.Owner >= 0 {
		out.Owner = &p.Owner
	}
	return out
}

func guestsOf(ports []engine.Port) []api.Guest {
	byName := map[string]*api.Guest{}
	for _, p := range ports {
		name := cmp.Or(p.Guest, p.Tap)
		g := byName[name]
		if g == nil {
			g = &api.Guest{Name: name}
			byName[name] = g
		}
		nic := api.GuestNIC{Network: string(p.Network), Bridge: p.Bridge, Tap: p.Tap, MAC: p.MAC, Addresses: list(p.Addresses)}
		if p.Since != 0 {
			at := time.Unix(p.Since, 0).UTC()
			nic.Since = &at
		}
		g.NICs = append(g.NICs, nic)
	}
	out := []api.Guest{}
	for _, g := range byName {
		slices.SortFunc(g.NICs, func(a, b api.GuestNIC) int {
			return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Tap, b.Tap))
		})
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b api.Guest) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
