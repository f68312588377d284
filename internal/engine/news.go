package engine

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// Not all that a look finds missing was broken by somebody. This file tells what is new
// from drift: other programs plug guests in and out, and guests come to addresses.

// known is what the last look was about; what differs from it is new.
type known struct {
	ports   map[string]attached
	targets map[render.Target]netip.Addr
}

// attached is a guest's port.
type attached struct {
	host.Port
	// others: another program plugged it in.
	others bool
	// reflects: its guest gets back what it sends to itself; see hairpins.
	reflects bool
}

// attachedPorts are the ports of all running networks.
func (e *Engine) attachedPorts(doc spec.Document, seen host.State, reflects map[string]bool) map[string]attached {
	networks := map[string]spec.Network{}
	for _, n := range doc.Networks {
		if n.Started {
			networks[n.GuestLink()] = n
		}
	}
	ports := map[string]attached{}
	for _, r := range seen {
		l, ok := r.(host.Link)
		if !ok || l.On() == "" {
			continue
		}
		n, ours := networks[l.On()]
		if !ours || render.IsUplink(n, l) {
			continue
		}
		p, made := e.live[l.Name]
		if !made {
			p = host.Port{Tap: l.Name, Bridge: l.On(), Network: string(n.Name)}
		}
		ports[l.Name] = attached{Port: p, others: !made, reflects: reflects[l.Name]}
	}
	return ports
}

// newsOf says what is new about a port; "" if nothing is.
func newsOf(was, is attached, had, has bool) (action, text string) {
	switch {
	case has && is.others && !had:
		return "plugged", fmt.Sprintf("%s plugged into %s by another program", is.Tap, is.Bridge)
	case had && was.others && !has:
		return "unplugged", fmt.Sprintf("%s, plugged in by another program, is gone from %s", was.Tap, was.Bridge)
	case has && is.reflects && !was.reflects:
		return "changed", fmt.Sprintf("hairpin mode of %s switched on: its guest may call itself by a forward", is.Tap)
	case has && was.reflects && !is.reflects:
		return "changed", fmt.Sprintf("hairpin mode of %s switched off: its guest does not need it any more", is.Tap)
	}
	return "", ""
}

// tellApart divides what a look found missing into drift and what is new since the last
// one, with the events that tell of the latter.
func (e *Engine) tellApart(steps []plan.Step, doc spec.Document, now known) (drift []plan.Step, news []Event) {
	steps, news = e.tellOpenings(steps, doc)
	about := map[host.Key]Event{}
	names := slices.Sorted(maps.Keys(e.known.ports))
	for name := range now.ports {
		if _, both := e.known.ports[name]; !both {
			names = append(names, name)
		}
	}
	for _, name := range names {
		was, had := e.known.ports[name]
		is, has := now.ports[name]
		action, text := newsOf(was, is, had, has)
		if action == "" {
			continue
		}
		p := is.Port
		if !has {
			p = was.Port
		}
		ev := Event{Kind: PortEvent, Action: action, Network: spec.NetworkName(p.Network), Object: name, Text: text}
		about[host.LinkKey(name)] = ev
		if action != "changed" {
			about[host.Snoop{Bridge: p.Bridge, Tap: name}.Key()] = ev
			for _, r := range render.PortRules(name) {
				about[r.Key()] = ev
			}
		}
	}
	led, told := e.ledElsewhere(doc, now.targets), false
	for _, s := range steps {
		ev, known := about[s.Key()]
		switch {
		case known && portOnly(s):
			if !slices.Contains(news, ev) {
				news = append(news, ev)
			}
		case len(about) > 0 && comesAlong(s):
		case len(led) > 0 && render.IsDoor(s.Key()):
			if !told {
				news, told = append(news, led...), true
			}
		default:
			drift = append(drift, s)
		}
	}
	return drift, news
}

// portOnly says whether a step does no more to a link than what is new about a port calls
// for.
func portOnly(s plan.Step) bool {
	if s.Key().Kind != host.KindLink {
		return true
	}
	before, ok1 := s.Before.(host.Link)
	after, ok2 := s.After.(host.Link)
	before.Hairpin, before.VLANs = after.Hairpin, after.VLANs
	return ok1 && ok2 && before == after
}

// comesAlong: with the first guest that is listened to comes the zone that it has its name
// in, and the host asks for that.
func comesAlong(s plan.Step) bool {
	r := s.After
	if r == nil {
		r = s.Before
	}
	_, zone := r.(host.Zone)
	_, resolver := r.(host.Resolver)
	return zone && ofSnoops(r) || resolver
}

// ledElsewhere are the forwards whose guest has another address than at the last look.
func (e *Engine) ledElsewhere(doc spec.Document, now map[render.Target]netip.Addr) []Event {
	if maps.Equal(e.known.targets, now) {
		return nil
	}
	var list []Event
	for _, name := range doc.Names() {
		n := doc.Networks[name]
		for f := range n.Forwards.All() {
			if t, ask := render.TargetOf(name, f); ask && e.known.targets[t] != now[t] && len(list) < manyEvents {
				list = append(list, Event{
					Kind: ForwardEvent, Action: "follows", Network: name, Object: f.Key(), Text: fmt.Sprintf("forward %s follows %s", f.Key(), f.Target),
				})
			}
		}
	}
	return list
}

// titleOf is what an entry about news is called in the record.
func titleOf(news []Event) string {
	var texts []string
	for _, ev := range news {
		texts = append(texts, ev.Text)
	}
	if more := len(texts) - 3; more > 0 {
		texts = append(texts[:3], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

// tellNews tells what is new; who did it, if that is known.
func (e *Engine) tellNews(news []Event, who string) {
	for i, ev := range news {
		if i < manyEvents {
			ev.Who = who
			e.tell(ev)
		}
		e.Log.Info(ev.Text, "network", ev.Network, "who", who)
	}
}

// putBack says in words what a repair put back.
func putBack(steps []plan.Step) string {
	if len(steps) == 1 {
		return "put back " + steps[0].Key().String()
	}
	return fmt.Sprintf("put back %s and %d more", steps[0].Key(), len(steps)-1)
}

// keepNews writes down what is new beside a repair, which has an entry of its own.
func (e *Engine) keepNews(news []Event, who string) {
	for _, ev := range news {
		e.keepPort(host.Port{Network: string(ev.Network)}, txn.Actor{Kind: txn.ByFollow, Name: who}, ev.Text)
	}
}
