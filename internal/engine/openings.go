package engine

import (
	"fmt"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// opening is what is opened, or shut again, for the guests of one bridge in one table
// or zone of another program's firewall.
type opening struct {
	bridge, table, zone string
	gone                bool
}

// openingOf says which one a step belongs to, if it is news: an exception that nobody
// needed before, or one that is not needed any more. One that was there, and that
// somebody took out, is none.
func openingOf(s plan.Step, ledger host.Ledger) (o opening, ok bool) {
	_, mine := ledger[s.Key()]
	if !host.IsException(s.Key().Kind) || s.Before != nil && s.After != nil || mine != (s.After == nil) {
		return o, false
	}
	r := s.After
	if o.gone = r == nil; o.gone {
		r = s.Before
	}
	o.bridge = host.Excepted(r)
	switch r := r.(type) {
	case host.Accept:
		o.table = r.Table.String()
	case host.InZone:
		o.zone = host.OurZone
	}
	return o, true
}

func (o opening) text(rules int) string {
	if o.zone != "" {
		if o.gone {
			return fmt.Sprintf("%s taken out of firewalld's zone %s, which its guests do not need any more", o.bridge, o.zone)
		}
		return fmt.Sprintf("%s put into firewalld's zone %s, as firewalld would stop its guests", o.bridge, o.zone)
	}
	count := "1 rule"
	if rules != 1 {
		count = fmt.Sprintf("%d rules", rules)
	}
	if o.gone {
		return fmt.Sprintf("%s for guests of %s taken out of table %s, which they do not need any more", count, o.bridge, o.table)
	}
	return fmt.Sprintf("%s for guests of %s added to table %s, which would stop them", count, o.bridge, o.table)
}

// tellOpenings takes the steps out that open other programs' firewalls for guests, or
// shut them again, because these came or went: nobody broke anything.
func (e *Engine) tellOpenings(steps []plan.Step, doc spec.Document) (rest []plan.Step, news []Event) {
	var ledger host.Ledger
	var order []opening
	rules := map[opening]int{}
	for _, s := range steps {
		if host.IsException(s.Key().Kind) {
			if ledger == nil {
				ledger = e.Store.Ledger()
			}
			if o, is := openingOf(s, ledger); is {
				if rules[o]++; rules[o] == 1 {
					order = append(order, o)
				}
				continue
			}
		}
		rest = append(rest, s)
	}
	at := txn.NetworksByBridge(doc)
	for _, o := range order {
		news = append(news, Event{Kind: NetworkEvent, Action: "changed", Network: at[o.bridge], Object: string(at[o.bridge]), Text: o.text(rules[o])})
	}
	return rest, news
}
