package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/ruleset"
)

// serviceChecks are about DHCP, DNS and router advertisements for guests.
func serviceChecks() []Check {
	return []Check{
		{
			"dns-port-taken", Warning, "Another program has port 53", "The network works; its guests get no names from drawbridge.",
			"Have the other resolver listen on fewer addresses (dnsmasq: bind-dynamic and except-interface; unbound: interface), then drawbridge takes the port within seconds.", taken("dns"),
		},
		{
			"dhcp-port-taken", Fault, "Another program has port 67", "The network's guests get no addresses from drawbridge.",
			"Stop the other DHCP server, or keep it off the bridge.", taken("dhcp"),
		},
		{
			"services-silent", Fault, "The guest services do not answer", "Guests that renew or ask for names get no answer.",
			"Start them again; the daemon does by itself if their process has ended.", findSilent,
		},
		{
			"services-fail", Fault, "A guest service fails", "Guests of the network may get no addresses or names.",
			"Do what the service's own words say.", findFailing,
		},
		{
			"resolver-loop", Fault, "The host asks drawbridge for names, and drawbridge asks the host", "Names beyond the networks' own domains are not found, by guests or host.",
			"Take drawbridge's address out of /etc/resolv.conf; send it only the networks' domains.", findLoop,
		},
		{
			"no-name-server", Warning, "The host has no name server", "Guests resolve each other and nothing else.",
			"Give the host one.", findNoNames,
		},
		{
			"clock-jumped", Warning, "The wall clock was set back", "Leases look as if they lasted longer than they were given for: addresses come free late.",
			"Keep the clock right by NTP; leases put themselves right when guests renew.", findClock,
		},
	}
}

func taken(service string) func(*Facts) []Finding {
	return func(f *Facts) []Finding {
		var found []Finding
		for _, b := range f.Services {
			if b.Service != service || b.Holder == "" {
				continue
			}
			found = append(found, Finding{
				About: Subject{Network: f.networkOn(b.Bridge)}, Seen: fmt.Sprintf("%s of %s: %s", strings.ToUpper(service), b.Bridge, b.Why),
				Fix: Fix{Advice: fmt.Sprintf("configure %s to leave %s alone, or stop it", b.Holder, b.Bridge)},
			})
		}
		return found
	}
}

func findFailing(f *Facts) []Finding {
	var found []Finding
	for _, b := range f.Services {
		if b.Holder != "" && (b.Service == "dns" || b.Service == "dhcp") {
			continue
		}
		found = append(found, Finding{About: Subject{Network: f.networkOn(b.Bridge)}, Seen: b.Why, Fix: Fix{Advice: "see journalctl -u drawbridge -u drawbridge-guests"}})
	}
	return found
}

func findSilent(f *Facts) []Finding {
	if f.Silent == "" {
		return nil
	}
	return []Finding{{Seen: f.Silent, Fix: Fix{Command: "systemctl restart drawbridge-guests"}}}
}

func findLoop(f *Facts) []Finding {
	var found []Finding
	for _, n := range f.running() {
		for _, s := range n.Subnets {
			if slices.Contains(f.NameServers, s.Gateway) {
				found = append(found, Finding{
					About: Subject{Network: n.Name}, Seen: fmt.Sprintf("/etc/resolv.conf names %s, which is drawbridge on %s", s.Gateway, n.Bridge),
					Fix: Fix{Advice: fmt.Sprintf("name another server there; for guests' names alone, dnsmasq: server=/%s/%s", n.Domain, s.Gateway)},
				})
			}
		}
	}
	return found
}

func findNoNames(f *Facts) []Finding {
	if f.NameServers == nil || len(f.routed()) == 0 || slices.ContainsFunc(f.NameServers, netip.Addr.IsValid) {
		return nil
	}
	return []Finding{{Seen: "/etc/resolv.conf names no server", Fix: Fix{Advice: "add one, or ask the host's network manager why it has none"}}}
}

// slack is how far the record may be ahead of the clock, in seconds: of a clock that
// NTP steps by a little nobody has to hear.
const slack = 300

// findClock goes by the record, into which every change and every guest's NIC is
// written: leases do not say when they were given, and may have been for longer than
// the network gives them now.
func findClock(f *Facts) []Finding {
	ahead := f.Recorded - f.Now
	if ahead <= slack || len(f.running()) == 0 {
		return nil
	}
	return []Finding{{
		Seen: fmt.Sprintf("what was recorded last (drawbridge log) is from %d minutes after now: the clock was set back by at least that", ahead/60),
		Fix:  Fix{Advice: "timedatectl shows whether the clock follows NTP"},
	}}
}

// findRogue reads the counters of chain guard, which drops what servers say out
// of a guest's port.
func findRogue(f *Facts) []Finding {
	if f.Rules == nil {
		return nil
	}
	t := f.Rules.Table(ruleset.Bridge, "drawbridge")
	if t == nil || t.Chain("guard") == nil {
		return nil
	}
	var found []Finding
	for _, r := range t.Chain("guard").Rules {
		for _, e := range r.Counted() {
			if c, ok := e.(ruleset.Counter); ok && c.Packets > 0 {
				found = append(found, Finding{
					Seen: fmt.Sprintf("%d frames dropped by the rule %q", c.Packets, r.Comment),
					Fix:  Fix{Advice: "find out who it is: tcpdump -eni BRIDGE 'udp src port 67 or icmp6[0] == 134'"},
				})
			}
		}
	}
	return found
}
