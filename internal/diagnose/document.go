package diagnose

import (
	"fmt"
	"strings"
)

// Recorded are the checks whose faults no machine of tests can make, and where the
// facts are from on which they are tested instead. All others are tested on the fault
// itself (TestEveryFaultIsMade in test/scripts).
var Recorded = map[Code]string{}

// Document is the list of all checks for people, in Markdown.
func Document() string {
	var b strings.Builder
	b.WriteString("# What can be wrong\n\n" +
		"`drawbridge doctor` looks for all of this, and `drawbridge doctor GUEST` for what concerns one guest. Each finding has the code of its section here, what was\n" +
		"seen, and how to mend it; `doctor --fix=CODE` does what can be done by itself, and names the command that takes it back.\n\n" +
		"The exit code is 0 if nothing is wrong, with notes or without; 1 if there is a fault or a warning, or if doctor could not look; 2 for a command line that makes\n" +
		"no sense; 3 if no daemon answers and you are not root. For monitoring, `doctor -o json` has `healthy` and a list of `findings`, each with its `code` and `severity`\n" +
		"(`fault`, `warning`, `note`); codes keep their meaning. Where doctor could not look there is no document on the standard output.\n\n" +
		"Every fault below is made for real by the tests, found, and mended, but for those that are marked. This page is written from the checks themselves.\n\n")
	families := []struct {
		title  string
		checks []Check
	}{
		{"Other programs' firewalls", firewallChecks()}, {"Networks", networkChecks()}, {"Guests", guestChecks()},
		{"DHCP, DNS and router advertisements", serviceChecks()}, {"The host, and drawbridge itself", hostChecks()},
	}
	for _, f := range families {
		fmt.Fprintf(&b, "## %s\n\n", f.title)
		for _, c := range f.checks {
			fmt.Fprintf(&b, "### %s\n\n%s (%s). %s\n\n**Mend it:** %s\n\n", c.Code, c.Title, c.Severity, c.Means, c.Mends)
			if source, recorded := Recorded[c.Code]; recorded {
				fmt.Fprintf(&b, "*Tested on recorded facts: %s*\n\n", source)
			}
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
