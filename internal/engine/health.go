package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// View looks at the host and tells how everything is.
func (e *Engine) View(ctx context.Context) (View, error) {
	x, err := e.Examine(ctx)
	return x.View, err
}

// Examine is View with all that it was concluded from. Where nothing but what is
// counted changed since the last time, the conclusions are those of then.
func (e *Engine) Examine(ctx context.Context) (Examination, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// What does not depend on the document is read meanwhile.
	glimpse := e.glimpse(ctx)
	doc := e.Store.Document()
	now, settled, err := e.ground(ctx, doc)
	now.seen = <-glimpse
	if err = errors.Join(err, now.seen.err); err != nil {
		return Examination{Observe: e.Observe}, err
	}
	if settled && e.kept.same(ctx, e.Host, now, e.Now()) {
		return e.kept.with(now.seen.counters), nil
	}
	e.kept = kept{}
	planner, facts, err := e.planner(ctx, now, settled)
	if err != nil {
		return Examination{Observe: e.Observe}, err
	}
	x := e.conclude(ctx, planner, doc, facts, now.seen)
	if settled {
		e.views++
		x.Same = e.views
		now.until = e.Now().Add(e.nextEnd(believed))
		e.kept = kept{now.keep(), x}
	}
	return x, nil
}

// conclude is all of an examination that takes thinking.
func (e *Engine) conclude(ctx context.Context, planner *Engine, doc spec.Document, facts render.Facts, seen glimpsed) Examination {
	x := Examination{Observe: e.Observe, Learned: seen.learned, Neighbours: seen.neighbours}
	v := View{
		Document: doc, State: facts.Seen, Links: seen.counters, Leases: slices.Clone(seen.leases), Changes: e.open.all(),
		Networks: map[spec.NetworkName]NetworkView{}, Repairs: e.repairs,
	}
	// Leases of a removed network are no news for as long as they are not forgotten.
	v.Leases = slices.DeleteFunc(v.Leases, func(l Lease) bool {
		_, there := doc.Networks[l.Network]
		return !there
	})
	v.Ports = e.portsSeen(doc, facts.Seen, seen.users, seen.counters)
	silent := silentMACs(doc, slices.Values(v.Leases))
	for i, p := range v.Ports {
		if macs := x.Learned[p.Tap]; p.MAC == "" && len(macs) == 1 {
			v.Ports[i].MAC = macs[0]
		} else if p.MAC == "" && len(macs) == 0 {
			l, _ := facts.Seen[host.LinkKey(p.Tap)].(host.Link)
			v.Ports[i].MAC = silent(l, p.Network)
		}
	}
	v.Leases = nameLeases(v.Leases, v.Ports, doc)
	namePorts(v.Ports, v.Leases)
	v.Leases = slices.DeleteFunc(v.Leases, func(l Lease) bool { return !fits(doc.Networks[l.Network], l) })
	fillAddresses(v.Ports, v.Leases, doc)
	addNeighbours(v.Ports, x.Neighbours)
	addHeard(v.Ports, seen.heard)
	d, err := planner.planFor(ctx, e.without(doc, e.held), facts)
	if err != nil {
		v.Problems = append(v.Problems, err.Error())
	} else {
		x.Missing = d.plan.Steps
	}
	for name, n := range doc.Networks {
		v.Networks[name] = e.networkView(n, x.Missing, v)
	}
	v.Problems = append(v.Problems, e.hostProblems(x.Missing, doc, seen)...)
	v.Problems = append(v.Problems, e.sharedNames(v.Ports)...)
	x.View, x.Held, x.Quarrel, x.Silent = v, maps.Clone(e.held), e.quarrel.problem(), seen.leaseErr
	for _, p := range e.live {
		x.Live = append(x.Live, p)
	}
	return x
}

func (e *Engine) without(doc spec.Document, held map[spec.NetworkName]string) spec.Document {
	doc = doc.Clone()
	for name := range held {
		if n, ok := doc.Networks[name]; ok {
			n.Started = false
			doc.Networks[name] = n
		}
	}
	return doc
}

func (e *Engine) networkView(n spec.Network, missing []plan.Step, v View) NetworkView {
	nv := NetworkView{Running: n.Started}
	for _, r := range render.Remarks(n) {
		nv.Remarks = append(nv.Remarks, string(r))
	}
	for _, p := range v.Ports {
		if p.Network == n.Name {
			nv.Guests++
		}
	}
	for _, l := range v.Leases {
		if l.Network == n.Name {
			nv.Leases++
		}
	}
	if four, ok := n.Subnet4(); ok && !four.Range.IsZero() {
		nv.PoolSize = rangeSize(four.Range)
	}
	if why, held := e.held[n.Name]; held && n.Started {
		nv.Running = false
		nv.Problems = append(nv.Problems, why+"; remove it, or give the network another bridge")
	}
	if !n.Started {
		return nv
	}
	if why := render.Trouble(n, v.State); why != "" {
		nv.Running = false
		nv.Problems = append(nv.Problems, why)
	}
	for _, s := range missing {
		if hangsOn(s.Key(), n.GuestLink()) {
			nv.Running = false
			nv.Problems = append(nv.Problems, Differs(s))
		}
	}
	return nv
}

func (e *Engine) hostProblems(missing []plan.Step, doc spec.Document, seen glimpsed) []string {
	var problems []string
	if seen.leaseErr != nil {
		problems = append(problems, "guest services do not answer: "+seen.leaseErr.Error())
	}
	problems = append(problems, seen.problems...)
	if p := e.quarrel.problem(); p != "" {
		problems = append(problems, p)
	}
	if p := e.keeper.trouble(); p != "" {
		problems = append(problems, p)
	}
	for _, t := range e.open.all() {
		if t.Phase == txn.Stuck {
			problems = append(problems, fmt.Sprintf("change %s is stuck: %s", t.ID, t.Problem))
		}
		if t.Phase == txn.Confirmed {
			problems = append(problems, (&txn.UnfinishedError{ID: t.ID, Cause: errors.New(t.Problem)}).Error())
		}
	}
	for _, s := range missing {
		if !slices.ContainsFunc(doc.Names(), func(name spec.NetworkName) bool { return hangsOn(s.Key(), doc.Networks[name].GuestLink()) }) {
			problems = append(problems, Differs(s))
		}
	}
	return problems
}

// Differs says in a few words what is not as wanted.
func Differs(s plan.Step) string {
	switch s.Verb() {
	case "create":
		return s.Key().String() + " is missing"
	case "delete":
		return s.Key().String() + " should not be there"
	}
	return s.Key().String() + " is not as wanted"
}

// hangsOn says whether a thing belongs to a link: its name stands in its key
// as a word of its own, since keys are what a person would recognise.
func hangsOn(k host.Key, link string) bool {
	return link != "" && slices.Contains(strings.FieldsFunc(k.Name, func(r rune) bool { return r == ' ' || r == '/' }), link)
}

func rangeSize(r spec.Range) int {
	a, b := r.First.As4(), r.Last.As4()
	n := func(v [4]byte) int { return int(v[0])<<24 | int(v[1])<<16 | int(v[2])<<8 | int(v[3]) }
	return n(b) - n(a) + 1
}

// portsSeen lists the guests' NICs on our bridges, ours and those that others
// plugged in.
func (e *Engine) portsSeen(doc spec.Document, seen host.State, users map[string]TapUser, counters map[string]Counters) []Port {
	networks := map[string]spec.NetworkName{}
	for name, n := range doc.Networks {
		// What is plugged into a foreign bridge in the place of ours is none of its guests.
		if _, held := e.held[name]; n.GuestLink() != "" && !held {
			networks[n.GuestLink()] = name
		}
	}
	var links []host.Link
	for _, r := range seen {
		if l, ok := r.(host.Link); ok {
			links = append(links, l)
		}
	}
	slices.SortFunc(links, func(a, b host.Link) int { return strings.Compare(a.Name, b.Name) })
	ports := make([]Port, 0, len(links))
	for _, l := range links {
		live, ours := e.live[l.Name]
		network, onOurs := networks[l.On()]
		if !ours && (!onOurs || render.IsUplink(doc.Networks[network], l)) {
			continue
		}
		p := Port{Network: network, Bridge: l.On(), Tap: l.Name, Guest: l.Name, Made: "other", Owner: -1}
		if ours {
			p = portView(live)
		}
		if bridge, _ := seen[host.LinkKey(l.Master)].(host.Link); bridge.Filter {
			p.Tags = render.TagsOf(l)
		}
		user := users[l.Name]
		p.PID, p.Process = user.PID, user.Process
		if p.Guest == p.Tap && user.Guest != "" {
			p.Guest = user.Guest
		}
		if l.Type == host.TypeMacvtap { // is the guest's end itself
			p.MAC = l.MAC
		}
		countPort(&p, seen, counters)
		ports = append(ports, p)
	}
	return ports
}

// silentMACs finds the hardware addresses of guests that the switch has forgotten, as it
// does after five minutes without a frame: libvirt gives a tap its guest's address with
// fe in front, so whose lease or reservation has the rest is behind it; "" for nobody, or
// if it may be one of several.
func silentMACs(doc spec.Document, leases iter.Seq[Lease]) func(tap host.Link, on spec.NetworkName) string {
	var known map[string]string
	add := func(on spec.NetworkName, mac string) {
		if len(mac) < len("52:") {
			return
		}
		key := string(on) + " " + mac[len("52:"):]
		if other, there := known[key]; there && other != mac {
			mac = ""
		}
		known[key] = mac
	}
	return func(tap host.Link, on spec.NetworkName) string {
		rest, ok := strings.CutPrefix(tap.MAC, "fe:")
		if !ok {
			return ""
		}
		if known == nil { // mostly nobody is silent
			known = map[string]string{}
			for l := range leases {
				add(l.Network, l.MAC)
			}
			for name, n := range doc.Networks {
				for _, r := range n.Reservations {
					add(name, r.MAC)
				}
			}
		}
		return known[string(on)+" "+rest]
	}
}

// countPort fills in what went over a port.
func countPort(p *Port, seen host.State, counters map[string]Counters) {
	c := counters[p.Tap]
	// What the host sends into a tap, the guest receives.
	p.RxBytes, p.TxBytes, p.RxPackets, p.TxPackets = c.TxBytes, c.RxBytes, c.TxPackets, c.RxPackets
	if l, _ := seen[host.LinkKey(p.Tap)].(host.Link); l.Type == host.TypeMacvtap { // is the guest's end itself
		p.RxBytes, p.TxBytes, p.RxPackets, p.TxPackets = c.RxBytes, c.TxBytes, c.RxPackets, c.TxPackets
	}
}

// nameLeases gives each lease the name that DNS answers with: the port's, else
// the reservation's, else what the client said.
func nameLeases(leases []Lease, ports []Port, doc spec.Document) []Lease {
	names := map[string]string{}
	for name, n := range doc.Networks {
		for _, r := range n.Reservations {
			names[string(name)+" "+r.MAC] = r.Hostname
		}
	}
	for _, p := range ports {
		if p.MAC != "" && p.Guest != p.Tap {
			names[string(p.Network)+" "+p.MAC] = p.Guest
		}
	}
	for i, l := range leases {
		leases[i].Guest = nameOr(names[string(l.Network)+" "+l.MAC], l.Hostname)
	}
	return leases
}

// namePorts gives the guest behind a port that nobody named the name by which its
// lease is known, as long as that is the name of no other guest: clients say what
// they like.
func namePorts(ports []Port, leases []Lease) {
	holders := map[string]int{}
	for _, p := range ports {
		holders[p.Guest]++
	}
	known := map[string]string{}
	for _, l := range leases {
		nic := string(l.Network) + " " + l.MAC
		if known[nic] != l.Guest { // else it is another lease of the same guest
			holders[l.Guest]++
		}
		known[nic] = l.Guest
	}
	for i, p := range ports {
		if name := known[string(p.Network)+" "+p.MAC]; p.Guest == p.Tap && p.MAC != "" && name != "" && holders[name] == 1 {
			ports[i].Guest = name
		}
	}
}

func fillAddresses(ports []Port, leases []Lease, doc spec.Document) {
	addrs := map[string][]string{}
	for _, l := range leases {
		addrs[string(l.Network)+" "+l.MAC] = append(addrs[string(l.Network)+" "+l.MAC], l.Address)
	}
	for name, n := range doc.Networks {
		for _, r := range n.Reservations {
			key := string(name) + " " + r.MAC
			if !slices.Contains(addrs[key], r.Addr.String()) && len(addrs[key]) == 0 {
				addrs[key] = append(addrs[key], r.Addr.String())
			}
		}
	}
	for i, p := range ports {
		ports[i].Addresses = addrs[string(p.Network)+" "+p.MAC]
	}
}

// addNeighbours adds the IPv6 addresses that guests were seen to use.
func addNeighbours(ports []Port, neighbours []Neighbour) {
	type nic struct{ link, mac string }
	seen := map[nic][]string{}
	for _, n := range neighbours {
		if n.Addr.Is6() && n.Addr.IsGlobalUnicast() {
			seen[nic{n.Link, n.MAC}] = append(seen[nic{n.Link, n.MAC}], n.Addr.String())
		}
	}
	for i, p := range ports {
		ports[i].Addresses = slices.Concat(ports[i].Addresses, seen[nic{p.Bridge, p.MAC}])
	}
}
