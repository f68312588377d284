package hostconf

import (
	"fmt"
	"slices"
	"strings"
)

// section is one part of a file as systemd reads it (systemd.syntax(7)). Lines are
// kept as they are, comments too; a line that ends in a backslash goes on.
type section struct {
	name  string
	lines []string
}

// parseSections splits a file; what stands before the first header is dropped,
// as systemd does.
func parseSections(text string) []section {
	var out []section
	goesOn := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimSpace(line)
		comment := strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, ";")
		if !goesOn && strings.HasPrefix(trimmed, "[") && strings.HasSuffix(trimmed, "]") {
			out = append(out, section{name: trimmed[1 : len(trimmed)-1]})
			continue
		}
		if len(out) == 0 {
			goesOn = false
			continue
		}
		last := &out[len(out)-1]
		switch {
		case goesOn && comment:
			// A comment between continued lines is not part of the value.
		case goesOn:
			last.lines[len(last.lines)-1] += "\n" + line
			goesOn = strings.HasSuffix(line, "\\")
		case trimmed != "":
			last.lines = append(last.lines, line)
			goesOn = !comment && strings.HasSuffix(line, "\\")
		}
	}
	return out
}

// setting splits a line into key and value; ok is false for comments.
func setting(line string) (key, value string, ok bool) {
	trimmed := strings.TrimSpace(line)
	if strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, ";") {
		return "", "", false
	}
	key, value, ok = strings.Cut(strings.ReplaceAll(line, "\\\n", " "), "=")
	return strings.TrimSpace(key), strings.TrimSpace(value), ok
}

// settings calls f for every setting of the sections.
func settings(sections []section, f func(section, key, value string)) {
	for _, s := range sections {
		for _, line := range s.lines {
			if key, value, ok := setting(line); ok {
				f(s.name, key, value)
			}
		}
	}
}

// The sections of a .network file that are about the network layer, which moves to
// the bridge; what remains is about the NIC (queueing disciplines, SR-IOV) and
// stays with it (systemd.network(5)).
var movingSections = []string{
	"Network", "Address", "Neighbor", "IPv6AddressLabel", "RoutingPolicyRule", "NextHop", "Route",
	"DHCP", "DHCPv4", "DHCPv6", "DHCPPrefixDelegation", "DHCPv6PrefixDelegation", "IPv6PrefixDelegation",
	"IPv6AcceptRA", "IPv6SendRA", "IPv6Prefix", "IPv6RoutePrefix", "IPv6PREF64Prefix", "DHCPServer", "DHCPServerStaticLease", "LLDP",
}

// What [Network] may say that a bridge's configuration cannot: the NIC is at the
// same time a part of something else.
var stackedKeys = []string{"VLAN", "MACVLAN", "MACVTAP", "IPVLAN", "IPVTAP", "VXLAN", "Bond", "Bridge", "VRF", "IPoIB", "BatmanAdvanced", "Tunnel", "Xfrm", "BindCarrier"}

// networkFile writes a .network file for name from those that networkd reads for
// the link: match says which sections go in, extra is appended.
func networkFile(title, name string, sections []section, moves func(section string) bool, drop []string, extra []section) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n[Match]\nName=%s\n", title, name)
	for _, s := range sections {
		if s.name == "Match" || !moves(s.name) {
			continue
		}
		var kept []string
		for _, line := range s.lines {
			key, _, ok := setting(line)
			if ok && slices.Contains(drop, s.name+"."+key) {
				continue
			}
			kept = append(kept, line)
		}
		if len(kept) > 0 {
			fmt.Fprintf(&b, "\n[%s]\n%s\n", s.name, strings.Join(kept, "\n"))
		}
	}
	for _, s := range extra {
		fmt.Fprintf(&b, "\n[%s]\n%s\n", s.name, strings.Join(s.lines, "\n"))
	}
	return []byte(b.String())
}
