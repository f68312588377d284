package diagnose

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
)

// firewallChecks are about rules of other programs: every base chain at a hook
// has to accept, so an accept of ours does not help against them.
func firewallChecks() []Check {
	const mends = "Put an exception into the other program's chain: doctor --fix does, and takes it back when the network stops. The daemon does so by itself unless it runs with --coexist observe."
	blocked := func(ways ...host.Way) func(*Facts) []Finding {
		return func(f *Facts) []Finding { return findObstacles(f, ways) }
	}
	return []Check{
		{
			"guests-blocked", Fault, "Another program's firewall stops what guests send out", "Guests have addresses and names, and nothing beyond the host answers.",
			mends, blocked(host.WayOut),
		},
		{
			"answers-blocked", Fault, "Another program's firewall stops the answers to guests", "Connections of guests hang: what they send leaves, and nothing comes back.",
			mends, blocked(host.WayBack),
		},
		{
			"dhcp-blocked", Fault, "Another program's firewall stops guests' DHCP", "Guests get no address; with IPv6 they may half work, so that it looks like something else.",
			mends, blocked(host.WayDHCP, host.WayOffer),
		},
		{
			"dns-blocked", Fault, "Another program's firewall stops guests' DNS", "Guests reach addresses and no names.",
			mends, blocked(host.WayDNS, host.WayDNSStream, host.WayName),
		},
		{
			"ipv6-setup-blocked", Fault, "Another program's firewall stops guests' IPv6 configuration", "Guests get no IPv6 address or no IPv6 router.",
			mends, blocked(host.WaySolicit, host.WayLook, host.WayFound, host.WayAdvert, host.WayAsk, host.WayTell),
		},
		{
			"forwards-blocked", Fault, "Another program's firewall stops forwards", "Nobody outside reaches a guest by its forward.",
			mends, blocked(host.WayDoors),
		},
		{
			"bridge-filtered", Fault, "Frames between guests are filtered as if they were routed", "br_netfilter shows bridged frames to iptables, and a rule there drops them: guests of one network do not reach each other or the LAN.",
			mends + " Where nobody needs br_netfilter, turn it off: sysctl net.bridge.bridge-nf-call-iptables=0.", blocked(host.WayWithin),
		},
		{
			"rules-unknown", Remark, "Some firewall rules cannot be evaluated", "Whether guests pass them is not known; doctor does not guess.",
			"Read the rule that is named; if it is about guests, make an exception there.", findUnknown,
		},
		{
			"legacy-iptables", Warning, "Rules of iptables-legacy are beside those of nftables", "Both are asked, and only nftables' can be seen by most programs, this one included.",
			"Move them: iptables-legacy-save | iptables-restore, then iptables-legacy -F; Debian: update-alternatives --set iptables /usr/sbin/iptables-nft.", findLegacy,
		},
	}
}

// findObstacles makes one finding for each network and chain that stops it.
func findObstacles(f *Facts, ways []host.Way) []Finding {
	var found []Finding
	done := map[string]bool{}
	for _, o := range f.obstacles() {
		stops := o.Verdict.Kind == Dropped || o.Verdict.Kind == Rejected
		where := string(o.Network) + " " + o.Verdict.Where()
		if !stops || !slices.Contains(ways, o.Way) || done[where] {
			continue
		}
		done[where] = true
		x := Finding{
			About: Subject{Network: o.Network}, Seen: fmt.Sprintf("%s of %s is %s by %s (%s)", wayWords[o.Way], o.Bridge, o.Verdict.Kind, o.Verdict.Where(), o.Verdict.Owner),
			Fix: f.opening(o, ways),
		}
		if o.Ignored {
			x.Seen += "; that rule stands before the exception that drawbridge has there"
			x.Fix = Fix{Advice: "somebody wants it so, or the order is by mistake: move the rule behind the one whose comment begins with " + strings.TrimSpace(Mark)}
		}
		found = append(found, x)
	}
	return found
}

var wayWords = map[host.Way]string{
	host.WayOut: "what guests send out", host.WayBack: "an answer to a guest", host.WayDoors: "what comes by a forward to a guest", host.WayWithin: "a frame between ports",
	host.WayDHCP: "a guest's DHCP question", host.WayOffer: "the answer to a guest's DHCP question", host.WayDNS: "a guest's DNS question",
	host.WayDNSStream: "a guest's DNS question over TCP", host.WayName: "the answer to a guest's DNS question",
	host.WaySolicit: "a guest's router solicitation", host.WayLook: "a guest's neighbour solicitation", host.WayFound: "a guest's neighbour advertisement",
	host.WayAdvert: "a router advertisement", host.WayAsk: "a neighbour solicitation of the host", host.WayTell: "a neighbour advertisement of the host",
}

// opening is the fix for all obstacles of one chain and network that have one of
// the ways.
func (f *Facts) opening(first Obstacle, ways []host.Way) Fix {
	if dockersOwn(first.Verdict.Chain) {
		return Fix{Advice: dockerSetting(first.Verdict.Rule, first.Packet.In)}
	}
	if keepsInTunnel(first.Way, first.Verdict.Chain) {
		return Fix{Advice: tunnelAdvice(first)}
	}
	if first.Opens == nil {
		return Fix{Advice: fmt.Sprintf("only %s may change its table: %s", first.Verdict.Owner, cmp.Or(commandFor(first), "make an exception there"))}
	}
	if _, zone := first.Opens.(host.InZone); zone && !f.FirewalldZone {
		return Fix{Command: "firewall-cmd --reload", Advice: "firewalld lets nobody else change its rules, and has not read the zone that comes with drawbridge (/usr/lib/firewalld/zones/drawbridge.xml)"}
	}
	fix := Fix{Command: "drawbridge doctor --fix"}
	for _, o := range f.obstacles() {
		stops := o.Verdict.Kind == Dropped || o.Verdict.Kind == Rejected
		if !stops || o.Ignored || o.Network != first.Network || o.Verdict.Chain != first.Verdict.Chain || !slices.Contains(ways, o.Way) {
			continue
		}
		turn := Turn{After: o.Opens}
		if !slices.Contains(fix.Turns, turn) {
			fix.Turns = append(fix.Turns, turn)
		}
	}
	if cmd := commandFor(first); cmd != "" {
		fix.Advice = "by hand: " + cmd
	}
	return fix
}

// commandFor is what an operator of the other program would type.
func commandFor(o Obstacle) string {
	ports := map[host.Way]string{host.WayDHCP: "67 proto udp", host.WayDNS: "53", host.WayDNSStream: "53"}
	switch owner := o.Verdict.Owner; {
	case owner == ruleset.UFW && o.Way == host.WayOut:
		return fmt.Sprintf("ufw route allow in on %s from %s", o.Bridge, o.Subnet)
	case owner == ruleset.UFW && ports[o.Way] != "":
		return fmt.Sprintf("ufw allow in on %s to any port %s", o.Bridge, ports[o.Way])
	case owner == ruleset.Firewalld:
		return fmt.Sprintf("firewall-cmd --zone=trusted --add-interface=%s (which opens the host to guests)", o.Bridge)
	case owner == ruleset.Docker && o.Way == host.WayOut:
		return fmt.Sprintf("iptables -I DOCKER-USER -i %s -s %s -j ACCEPT", o.Bridge, o.Subnet)
	case owner == ruleset.Docker && o.Way == host.WayBack:
		return fmt.Sprintf("iptables -I DOCKER-USER -o %s -d %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", o.Bridge, o.Subnet)
	}
	return ""
}

func findUnknown(f *Facts) []Finding {
	var found []Finding
	done := map[string]bool{}
	for _, o := range f.obstacles() {
		text := fmt.Sprintf("%s of %s: %s", wayWords[o.Way], o.Bridge, o.Verdict)
		if o.Verdict.Kind != Unknown || done[cmp.Or(o.Verdict.Where(), text)] {
			continue
		}
		done[cmp.Or(o.Verdict.Where(), text)] = true
		found = append(found, Finding{About: Subject{Network: o.Network}, Seen: text, Fix: Fix{Advice: "drawbridge cannot say more; try from a guest"}})
	}
	return found
}

func findLegacy(f *Facts) []Finding {
	if f.Rules == nil || len(f.Rules.Legacy) == 0 {
		return nil
	}
	return []Finding{{
		Seen: "rules or a policy of drop in " + strings.Join(f.Rules.Legacy, ", ") + " of iptables-legacy",
		Fix:  Fix{Advice: "look at them with: iptables-legacy -S; ip6tables-legacy -S"},
	}}
}
