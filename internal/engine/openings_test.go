package engine

import (
	"net/netip"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

func TestExceptionsAreNewsUnlessSomebodyTookThemOut(t *testing.T) {
	rule := host.Accept{Table: host.Table{Family: host.FamilyIP, Name: "filter"}, Chain: "FORWARD", Bridge: "virbr0", Way: host.WayOut, Subnet: netip.MustParsePrefix("10.9.0.0/24")}
	changed := rule
	changed.Way = ""
	zone := host.InZone{Bridge: "virbr0", Zone: host.OurZone}
	mine := host.Ledger{rule.Key(): {Kind: host.Made}, zone.Key(): {Kind: host.Made}}
	for name, c := range map[string]struct {
		step   plan.Step
		ledger host.Ledger
		text   string // "" is drift
	}{
		"a firewall came":        {plan.Step{After: rule}, nil, "1 rule for guests of virbr0 added to table ip filter, which would stop them"},
		"somebody took it out":   {plan.Step{After: rule}, mine, ""},
		"somebody changed it":    {plan.Step{Before: changed, After: rule}, mine, ""},
		"not needed any more":    {plan.Step{Before: rule}, mine, "1 rule for guests of virbr0 taken out of table ip filter, which they do not need any more"},
		"somebody's own":         {plan.Step{Before: rule}, nil, ""},
		"firewalld came":         {plan.Step{After: zone}, nil, "virbr0 put into firewalld's zone drawbridge, as firewalld would stop its guests"},
		"taken out of the zone":  {plan.Step{After: zone}, mine, ""},
		"it went":                {plan.Step{Before: zone}, mine, "virbr0 taken out of firewalld's zone drawbridge, which its guests do not need any more"},
		"half of it was missing": {plan.Step{Before: host.InZone{Bridge: "virbr0"}, After: zone}, mine, ""},
		"no exception":           {plan.Step{After: host.Link{Name: "virbr0"}}, nil, ""},
	} {
		text := ""
		if o, is := openingOf(c.step, c.ledger); is {
			text = o.text(1)
		}
		if text != c.text {
			t.Errorf("%s: %q", name, text)
		}
	}
	if text := (opening{bridge: "virbr0", table: "ip filter"}).text(3); text != "3 rules for guests of virbr0 added to table ip filter, which would stop them" {
		t.Error(text)
	}
}
