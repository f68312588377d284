package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// hostChecks are about the host as a whole and about drawbridge itself.
func hostChecks() []Check {
	return []Check{
		{
			"change-stuck", Fault, "A change could neither be made nor taken back", "The host is half-way; what is left to do is named.",
			"Carry out the commands that change show names, then cancel it.", changesIn("stuck"),
		},
		{
			"change-waits", Warning, "A change waits for somebody to confirm it", "It is taken back when its time is over; until then other changes are refused.",
			"Confirm or cancel it.", changesIn("waiting", "applying", "verifying", "rolling-back"),
		},
		{
			"change-unfinished", Warning, "A confirmed change could not write all of the host's files", "The host works, and after a reboot may not be as it is now.",
			"Do what the message says; the daemon tries again.", changesIn("confirmed"),
		},
		{
			"conntrack-full", Warning, "The table of connections is nearly full", "When it is full the kernel drops new connections, of guests and of the host, and says so only in its log.",
			"Make it larger.", findConntrack,
		},
		{
			"kernel-lacks", Warning, "The kernel lacks something that a network rests on", "What needs it does not work.",
			"Use the distribution's kernel, or load the module.", findLacks,
		},
		{
			"daemon-down", Warning, "The daemon does not run", "Networks go on as they are; nothing is repaired, and nobody can change them.",
			"Start it.", findOffline,
		},
	}
}

func changesIn(phases ...string) func(*Facts) []Finding {
	return func(f *Facts) []Finding {
		var found []Finding
		for _, c := range f.Changes {
			for _, phase := range phases {
				if c.Phase != phase {
					continue
				}
				seen := fmt.Sprintf("change %s (%s) is %s", c.ID, c.Title, c.Phase)
				if c.Problem != "" {
					seen += ": " + c.Problem
				}
				fix := Fix{Command: "drawbridge change show " + c.ID}
				if phase == "waiting" {
					fix = Fix{Command: "drawbridge change confirm " + c.ID, Undo: "drawbridge change cancel " + c.ID}
				}
				found = append(found, Finding{Seen: seen, Fix: fix})
			}
		}
		return found
	}
}

func findConntrack(f *Facts) []Finding {
	if f.ConntrackMax == 0 || f.Conntrack*10 < f.ConntrackMax*9 {
		return nil
	}
	return []Finding{{
		Seen: fmt.Sprintf("%d of %d connections", f.Conntrack, f.ConntrackMax),
		Fix:  f.sysctlFix("net/netfilter/nf_conntrack_max", fmt.Sprint(4*f.ConntrackMax)),
	}}
}

// need is a feature of the kernel that networks may rest on.
type need struct {
	feature string
	// words are what it is called, means what follows from its lack, and mends what brings it.
	words, means, mends string
	by                  func(*Facts, spec.Network) bool
}

var needed = []need{
	{
		host.Taps, "taps (/dev/net/tun)", "No guest can be plugged in.", "modprobe tun; a container has to be given /dev/net/tun",
		func(_ *Facts, n spec.Network) bool { return n.Mode != "direct" },
	},
	{
		host.Macvtaps, "macvtaps (CONFIG_MACVTAP)", "No guest can be plugged into the network.", "modprobe macvtap",
		func(_ *Facts, n spec.Network) bool { return n.Mode == "direct" },
	},
	{
		host.BridgeVLANs, "VLANs on bridges (CONFIG_BRIDGE_VLAN_FILTERING)", "Guests in VLANs are not plugged in until the kernel can keep them apart.",
		"use a kernel that has it, or a VLAN interface of the host's as the uplink of a network of its own",
		func(f *Facts, n spec.Network) bool {
			return !n.Tags.IsZero() || slices.ContainsFunc(f.Ports, func(p Port) bool { return p.Network == n.Name && p.Tagged })
		},
	},
	{
		host.ConnectionLists, "lists of connections (CONFIG_NF_CT_NETLINK)", "Forwards are not counted, and old connections go on when one is changed or removed.", "modprobe nf_conntrack_netlink",
		func(_ *Facts, n spec.Network) bool { return n.Forwards.Len() > 0 },
	},
	{
		host.ConnectionEvents, "news of connections (CONFIG_NF_CONNTRACK_EVENTS)", "Connections of forwards are not counted when they end.", "use a kernel that has it",
		func(_ *Facts, n spec.Network) bool { return n.Forwards.Len() > 0 },
	},
}

// Features are those of the kernel that running networks rest on.
func (f *Facts) Features() []string {
	var list []string
	for _, x := range needed {
		if slices.ContainsFunc(f.running(), func(n spec.Network) bool { return x.by(f, n) }) {
			list = append(list, x.feature)
		}
	}
	return list
}

func findLacks(f *Facts) []Finding {
	var found []Finding
	for _, x := range needed {
		if !slices.Contains(f.Lacks, x.feature) {
			continue
		}
		var who []string
		for _, n := range f.running() {
			if x.by(f, n) {
				who = append(who, string(n.Name))
			}
		}
		if len(who) == 0 {
			continue
		}
		about := Subject{}
		if len(who) == 1 {
			about.Network = spec.NetworkName(who[0])
		}
		found = append(found, Finding{About: about, Seen: fmt.Sprintf("this kernel has no %s, and %s rests on it", x.words, strings.Join(who, ", ")), Means: x.means, Fix: Fix{Advice: x.mends}})
	}
	if f.OpenTables && len(f.routed()) > 0 {
		found = append(found, Finding{
			Severity: Remark, Seen: "this kernel cannot keep other programs out of drawbridge's nftables tables (before Linux 6.9)",
			Means: "Who flushes all rules (nft flush ruleset) interrupts guests for the milliseconds until the daemon puts ours back.", Fix: Fix{Advice: "nothing is wrong; a later kernel closes the gap"},
		})
	}
	return found
}

func findOffline(f *Facts) []Finding {
	if !f.Offline || len(f.Document.Networks) == 0 {
		return nil
	}
	return []Finding{{Seen: "nobody answers on the daemon's socket", Fix: Fix{Command: "systemctl start drawbridge", Undo: "systemctl stop drawbridge"}}}
}
