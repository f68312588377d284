package diagnose

import (
	"fmt"
	"strings"
)

// Document is the list of all checks for people, in Markdown.
func Document() string {
	var b strings.Builder
	b.WriteString("# What can be wrong\n\n" +
		"`drawbridge doctor` looks for all of this, and `drawbridge doctor GUEST` for what concerns one guest. Each finding has the code of its section here, what was\n" +
		"seen, and how to mend it; `doctor --fix=CODE` does what can be done by itself. The exit code is 1 if there is a fault or a warning; notes are no fault.\n" +
		"This page is written from the checks themselves.\n\n")
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
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
