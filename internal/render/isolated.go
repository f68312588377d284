package render

import (
	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// isolated joins guests with each other and the host, and with nobody else.
type isolated struct{}

func (isolated) Name() spec.ModeName { return "isolated" }

func (isolated) Summary() string {
	return "a virtual switch without a way out: guests reach each other and the host"
}

func (isolated) Chains() []chain {
	return []chain{{
		table: routed, name: "refuse", why: "an isolated network has no way in or out",
		rules: []rule{
			{"counter reject with icmpx admin-prohibited", "refused aloud, not in silence"},
		},
	}}
}

func (isolated) Validate(n spec.Network) error {
	return noForwards(n, "is isolated: nothing leads into it; only networks of mode nat have forwards")
}

func (isolated) Render(n spec.Network, f Facts) (host.Wish, []Note, error) {
	w := host.NewWish()
	switchAndServices(&w, n, f, services{})
	w.Present.Add(
		element(routed, mapFrom, n.Bridge, "jump refuse"),
		element(routed, mapTo, n.Bridge, "jump refuse"),
	)
	return w, nil, nil
}
