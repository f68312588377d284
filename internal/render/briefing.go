package render

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Fact is something that is so before a change, for the person who decides on it.
type Fact struct {
	Name   string
	Values []string
}

// Briefing is what there is to know of the links that a document moves into a
// bridge or takes out of one: it is what must be the same afterwards.
func Briefing(doc spec.Document, f Facts) []Fact {
	var facts []Fact
	for _, name := range doc.Names() {
		n := doc.Networks[name]
		if f.Moving[name] && !n.Adopt && len(n.Uplinks) > 0 && !joined(n, f.Seen) {
			facts = append(facts, f.brief(n.Uplinks[0])...)
		}
	}
	for _, n := range f.Leaving {
		if br, there := f.Seen[host.LinkKey(n.Bridge)].(host.Link); there && br.Type == host.TypeBridge && !n.Adopt && len(n.Uplinks) > 0 {
			facts = append(facts, f.brief(n.Bridge)...)
		}
	}
	return facts
}

// brief lists what a link has.
func (f Facts) brief(name string) []Fact {
	l, ok := f.Seen[host.LinkKey(name)].(host.Link)
	if !ok {
		return nil
	}
	link := fmt.Sprintf("%s, %s, mtu %d", l.Name, l.MAC, l.MTU)
	switch {
	case l.Type == host.TypeBridge:
		link += ", a bridge of " + strings.Join(f.portsOf(name), ", ")
	case l.Master != "":
		link += ", a port of bridge " + l.Master
	default:
		link += ", in no bridge"
	}
	facts := []Fact{{"link", []string{link}}}
	var addresses, routes, rules []string
	for _, a := range f.hostAddresses(name) {
		text := a.Addr.String()
		if a.ValidUntil != 0 {
			text += " (for a time)"
		}
		addresses = append(addresses, text)
	}
	for _, k := range f.Seen.Keys() {
		switch r := f.Seen[k].(type) {
		case host.Route:
			if r.Protocol != protocolKernel && usesLink(r, name) {
				routes = append(routes, routeText(r))
			}
		case host.Rule:
			if r.Iif == name || r.Oif == name {
				rules = append(rules, fmt.Sprintf("%d: table %d", r.Priority, r.Table))
			}
		}
	}
	// Default routes first: they are what people look for.
	slices.SortStableFunc(routes, func(a, b string) int {
		return rank(strings.HasPrefix(a, "default")) - rank(strings.HasPrefix(b, "default"))
	})
	facts = append(facts, Fact{"addresses", orNone(addresses)}, Fact{"routes", orNone(routes)})
	if len(rules) > 0 {
		facts = append(facts, Fact{"policy rules", rules})
	}
	return facts
}

func rank(first bool) int {
	if first {
		return 0
	}
	return 1
}

func orNone(list []string) []string {
	if len(list) == 0 {
		return []string{"none"}
	}
	return list
}

func (f Facts) portsOf(bridge string) []string {
	var ports []string
	for _, k := range f.Seen.Keys() {
		if l, ok := f.Seen[k].(host.Link); ok && l.Master == bridge {
			ports = append(ports, l.Name)
		}
	}
	return orNone(ports)
}

// routeText is a route as ip-route(8) would write it, without its link.
func routeText(r host.Route) string {
	text := r.Dst.String()
	if r.Dst.Bits() == 0 {
		text = "default"
	}
	if r.Gateway.IsValid() {
		text += " via " + r.Gateway.String()
	}
	if r.Hops != "" {
		text += " over several gateways"
	}
	if r.Src.IsValid() {
		text += " src " + r.Src.String()
	}
	if r.Metrics != "" {
		text += " " + r.Metrics
	}
	if usual := r.Dst.Addr().Is6() && r.Metric == 1024; r.Metric != 0 && !usual {
		text += " metric " + strconv.Itoa(r.Metric)
	}
	if r.Table != host.MainTable {
		text += " table " + strconv.Itoa(r.Table)
	}
	return text
}
