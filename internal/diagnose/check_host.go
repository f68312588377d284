package diagnose

import (
	"fmt"
	"strings"
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
			"kernel-lacks", Warning, "The kernel lacks something", "What needs it does not work.",
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

func findLacks(f *Facts) []Finding {
	if len(f.Lacks) == 0 {
		return nil
	}
	return []Finding{{Seen: strings.Join(f.Lacks, "; "), Fix: Fix{Advice: "Debian and Ubuntu: apt install linux-image-amd64 (or linux-image-generic), and boot it"}}}
}

func findOffline(f *Facts) []Finding {
	if !f.Offline || len(f.Document.Networks) == 0 {
		return nil
	}
	return []Finding{{Seen: "nobody answers on the daemon's socket", Fix: Fix{Command: "systemctl start drawbridge", Undo: "systemctl stop drawbridge"}}}
}
