package linux

import (
	"fmt"
	"strings"
	"testing"

	"drawbridge/internal/host"
)

// acceptText writes what nftAccepts should say about a rule of ours in a chain of
// others: where it is, and what it asks for before it accepts.
func acceptText(a host.Accept) string {
	var asks []string
	add := func(format string, args ...any) { asks = append(asks, fmt.Sprintf(format, args...)) }
	in, out := "iifname "+a.Bridge, "oifname "+a.Bridge
	family := "ip"
	if a.Subnet.IsValid() && a.Subnet.Addr().Is6() {
		family = "ip6"
	}
	// In chains of iptables nft does not say what iptables' own extensions ask for.
	old := a.Table.Family != host.FamilyInet
	ours := func(native string) string {
		if old {
			return "xt"
		}
		return native
	}
	icmp := func(kind string) string {
		if old {
			return "l4proto ipv6-icmp; xt"
		}
		return "icmpv6 type " + kind
	}
	switch a.Way {
	case host.WayOut:
		add("%s; %s saddr %s", in, family, a.Subnet)
	case host.WayBack:
		add("%s; %s daddr %s; %s", out, family, a.Subnet, ours("ct state established,related"))
	case host.WayDoors:
		add("%s; %s daddr %s; %s", out, family, a.Subnet, ours("ct status dnat"))
	case host.WayWithin:
		add("%s; %s", in, out)
	case host.WayDHCP:
		add("%s; udp dport 67", in)
	case host.WayOffer:
		add("%s; udp sport 67", out)
	case host.WayDNS:
		add("%s; udp dport 53", in)
	case host.WayDNSStream:
		add("%s; tcp dport 53", in)
	case host.WayName:
		add("%s; udp sport 53", out)
	case host.WaySolicit:
		add("%s; %s", in, icmp("nd-router-solicit"))
	case host.WayLook:
		add("%s; %s", in, icmp("nd-neighbor-solicit"))
	case host.WayFound:
		add("%s; %s", in, icmp("nd-neighbor-advert"))
	case host.WayAdvert:
		add("%s; %s", out, icmp("nd-router-advert"))
	case host.WayAsk:
		add("%s; %s", out, icmp("nd-neighbor-solicit"))
	case host.WayTell:
		add("%s; %s", out, icmp("nd-neighbor-advert"))
	}
	return fmt.Sprintf("%s: %s; accept", a.Key(), strings.Join(asks, "; "))
}

// nftAccepts lists the rules that say in their comment that they are ours, by the
// key that the comment gives them. One behind a drop is shown as such.
func nftAccepts(t *testing.T) (out []string) {
	var all struct{ Nftables []map[string]nftObject }
	output(t, &all, "nft", "-j", "list", "ruleset")
	late := map[string]bool{}
	for _, o := range all.Nftables {
		r, ok := o["rule"]
		if !ok {
			continue
		}
		chain := fmt.Sprintf("accept %s %s", r.table(), r.Chain)
		about, ours := strings.CutPrefix(r.Comment, "drawbridge: ")
		if !ours {
			late[chain] = true
			continue
		}
		// The key has the bridge before the way, the comment behind it.
		words := strings.Fields(about)
		words[0], words[1] = words[1], words[0]
		text := fmt.Sprintf("%s %s: %s", chain, strings.Join(words, " "), asksOf(r.Expr))
		if late[chain] {
			text += " behind a rule of others"
		}
		out = append(out, text)
	}
	return out
}

// asksOf writes the expressions of a rule in nft's words.
func asksOf(exprs []map[string]any) string {
	var asks []string
	for _, e := range exprs {
		for what, v := range e {
			switch what {
			case "counter":
			case "match":
				m := v.(map[string]any)
				right := inWords(m["right"])
				if many, ok := m["right"].([]any); ok {
					right = strings.ReplaceAll(inWords(many), " . ", ",")
				}
				asks = append(asks, askedFor(m["left"].(map[string]any))+" "+right)
			default: // accept, xt
				asks = append(asks, what)
			}
		}
	}
	return strings.Join(asks, "; ")
}

func askedFor(left map[string]any) string {
	for what, v := range left {
		f := v.(map[string]any)
		switch what {
		case "meta":
			return fmt.Sprint(f["key"])
		case "ct":
			return fmt.Sprint("ct ", f["key"])
		case "payload":
			return fmt.Sprint(f["protocol"], " ", f["field"])
		}
	}
	return fmt.Sprint(left)
}
