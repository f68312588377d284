package render

import (
	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// nat gives guests the way out with the host's own address. Nobody reaches in.
type nat struct{}

func (nat) Name() spec.ModeName { return "nat" }

func (nat) Summary() string {
	return "a virtual switch with source NAT: guests reach out, nobody reaches in"
}

func (nat) Chains() []chain {
	return []chain{
		{
			table: routed, name: "from_nat", why: "what guests of a NAT network send out",
			rules: []rule{
				{"iifname . ip saddr @sources4 return", "guests reach everything that takes them, with an address of their network"},
				{"iifname . ip6 saddr @sources6 return", "the same in IPv6"},
				{"counter reject with icmpx admin-prohibited", "a forged source address is refused"},
			},
		},
		{
			table: routed, name: "to_nat", why: "what is sent to guests of a NAT network",
			rules: []rule{
				{"ct state { established, related } accept", "answers to what guests began"},
				{"ct status dnat accept", "what came through an open forward"},
				{"counter reject with icmpx admin-prohibited", "nobody outside begins a connection; refused aloud, not in silence"},
			},
		},
	}
}

func (nat) Validate(n spec.Network) error {
	if len(n.Subnets) == 0 {
		return &spec.InvalidError{Field: "subnet", Reason: "a NAT network needs one"}
	}
	return nil
}

func (m nat) Render(n spec.Network, f Facts) (host.Wish, []Note, error) {
	w := host.NewWish()
	switchAndServices(&w, n, f, services{routed: true, forwardDNS: true})
	w.Present.Add(
		element(routed, mapFrom, n.Bridge, "jump from_nat"),
		element(routed, mapTo, n.Bridge, "jump to_nat"),
	)
	for _, s := range n.Subnets {
		sources, hidden := setSources4, setHidden4
		if s.Prefix.Addr().Is6() {
			sources, hidden = setSources6, setHidden6
		}
		w.Present.Add(
			element(routed, sources, n.Bridge+" . "+s.Prefix.String(), ""),
			element(routed, hidden, s.Prefix.String(), ""),
		)
	}
	forwards(&w, n, f)
	return w, forwarding(&w, n, f), nil
}
