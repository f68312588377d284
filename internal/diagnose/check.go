package diagnose

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Code names a fault in words. It never changes its meaning: monitoring, scripts
// and docs/troubleshooting.md refer to it.
type Code string

// Severity says how bad a finding is.
type Severity string

// The severities, from worst to least. Notes are worth knowing and nothing is
// wrong; they do not count in the exit code.
const (
	Fault   Severity = "fault"
	Warning Severity = "warning"
	Remark  Severity = "note"
)

var severities = map[Severity]int{Fault: 0, Warning: 1, Remark: 2}

// Check is one thing that can be wrong, and how it is found out.
type Check struct {
	Code Code
	// Severity is the worst that its findings have.
	Severity Severity
	// Title says in a few words what is wrong, Means what follows from it for
	// guests, Mends what is to be done; these are what the documentation says.
	Title, Means, Mends string
	// Find looks at the facts; what it needs and does not know is no finding.
	Find func(*Facts) []Finding
}

// Subject is what a finding is about; empty fields do not matter.
type Subject struct {
	Network spec.NetworkName
	Guest   string
	// Link is a tap, a bridge or a NIC.
	Link string
}

// Finding is a fault that is there, with its evidence.
type Finding struct {
	Code     Code
	Severity Severity
	About    Subject
	// Seen is the evidence: names, numbers, rules.
	Seen string
	// Means is what follows from it, Check.Means where the finding does not say.
	Means string
	Fix   Fix
}

// Fix is how a finding is mended.
type Fix struct {
	// Command is what a person types, "" if there is no one command; Advice says in
	// words what it cannot.
	Command, Advice string
	// Undo is the command that takes it back; "" where that is drawbridge undo.
	Undo string
	// Turns and Edit are what doctor --fix does; both empty: a person has to.
	Turns []Turn
	Edit  Edit
}

// Turn is one thing of the host as it is and as it shall be; nil is not there.
// Turned round it is the way back.
type Turn struct{ Before, After host.Resource }

// Edit is a command of drawbridge itself; at most one field is set.
type Edit struct {
	// Start is a network that shall run.
	Start spec.NetworkName
	// Reload has the host looked at, and what differs put back.
	Reload bool
	// Unreserve takes away the reservation of MAC on Network.
	Unreserve struct {
		Network spec.NetworkName
		MAC     string
	}
}

// Automatic says whether doctor --fix can do it.
func (f Fix) Automatic() bool { return len(f.Turns) > 0 || f.Edit != Edit{} }

// Checks are all that doctor looks for, the most frequent first.
func Checks() []Check {
	return slices.Concat(firewallChecks(), networkChecks(), guestChecks(), serviceChecks(), hostChecks())
}

// Examine runs the checks. Findings come worst first, and else in the order of
// the checks.
func Examine(f *Facts) []Finding {
	var all []Finding
	for _, c := range Checks() {
		for _, x := range c.Find(f) {
			x.Code = c.Code
			x.Severity = cmp.Or(x.Severity, c.Severity)
			x.Means = cmp.Or(x.Means, c.Means)
			all = append(all, x)
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return severities[a.Severity] - severities[b.Severity] })
	return all
}

// Concerning keeps the findings that are about a guest or network of that name,
// or about the whole host.
func Concerning(all []Finding, name string, f *Facts) []Finding {
	networks := map[spec.NetworkName]bool{spec.NetworkName(name): true}
	links := map[string]bool{}
	for _, p := range f.Ports {
		if p.Guest == name || p.Tap == name {
			networks[p.Network] = true
			links[p.Tap] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(x Finding) bool {
		switch a := x.About; {
		case a == Subject{}:
			return false
		case a.Guest != "":
			return a.Guest != name && string(a.Network) != name
		case a.Network != "":
			return !networks[a.Network]
		}
		return !links[x.About.Link] && !networksHave(f, networks, x.About.Link)
	})
}

func networksHave(f *Facts, networks map[spec.NetworkName]bool, link string) bool {
	for name := range networks {
		n, ok := f.Document.Networks[name]
		if ok && (n.Bridge == link || slices.Contains(n.Uplinks, link)) {
			return true
		}
	}
	return false
}

// Names are all guests, ports and networks that findings can be about.
func (f *Facts) Names() []string {
	var names []string
	for name := range f.Document.Networks {
		names = append(names, string(name))
	}
	for _, p := range f.Ports {
		names = append(names, p.Guest, p.Tap)
	}
	return names
}

// set is the turn of one parameter of the kernel from what it is.
func (f *Facts) set(path, value string) Turn {
	var t Turn
	link := ""
	if parts := strings.Split(path, "/"); len(parts) == 5 && parts[2] == "conf" && parts[3] != "all" && parts[3] != "default" {
		link = parts[3]
	}
	if old, ok := f.Sysctls[path]; ok {
		t.Before = host.Sysctl{Path: path, Value: old, Link: link}
	}
	t.After = host.Sysctl{Path: path, Value: value, Link: link}
	return t
}

// sysctlFix sets one parameter, with the words of sysctl(8).
func (f *Facts) sysctlFix(path, value string) Fix {
	return Fix{
		Command: fmt.Sprintf("sysctl -w %s=%s", path, value), Undo: fmt.Sprintf("sysctl -w %s=%s", path, f.Sysctls[path]),
		Turns: []Turn{f.set(path, value)},
	}
}

// running lists the networks that shall run, by name.
func (f *Facts) running() []spec.Network {
	var list []spec.Network
	for _, name := range f.Document.Names() {
		if n := f.Document.Networks[name]; n.Started {
			list = append(list, n)
		}
	}
	return list
}

// routed lists those of them that the host routes for.
func (f *Facts) routed() []spec.Network {
	return slices.DeleteFunc(f.running(), func(n spec.Network) bool { return n.Mode != "nat" || len(n.Subnets) == 0 })
}

func (f *Facts) link(name string) (host.Link, bool) {
	l, ok := f.State[host.LinkKey(name)].(host.Link)
	return l, ok
}
