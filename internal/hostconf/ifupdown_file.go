package hostconf

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// interfacesLine is one logical line of a file of interfaces(5): lines that end in
// a backslash go on in the next.
type interfacesLine struct {
	raw    string // with all line ends
	fields []string
	// stanza is the interface whose iface stanza the line is in, "" if none; head is
	// set on the line that begins it.
	stanza string
	head   bool
}

// parseInterfaces splits a file. Comments and empty lines have no fields and belong
// to the stanza that they are in.
func parseInterfaces(text string) []interfacesLine {
	var out []interfacesLine
	stanza := ""
	raw := ""
	for _, line := range lines([]byte(text)) {
		raw += line
		body := strings.TrimRight(line, "\r\n")
		comment := strings.HasPrefix(strings.TrimSpace(raw), "#")
		if strings.HasSuffix(body, "\\") && !comment && strings.HasSuffix(line, "\n") {
			continue
		}
		l := interfacesLine{raw: raw}
		if !comment {
			l.fields = strings.Fields(strings.ReplaceAll(strings.ReplaceAll(raw, "\\\n", " "), "\\\r\n", " "))
		}
		if len(l.fields) > 0 {
			switch word := l.fields[0]; {
			case word == "iface" && len(l.fields) > 1:
				stanza, l.head = l.fields[1], true
			case word == "auto", strings.HasPrefix(word, "allow-"), word == "mapping", word == "source", word == "source-directory",
				word == "template", word == "no-auto-down", word == "no-scripts", word == "iface", word == "rename":
				stanza = ""
			}
		}
		l.stanza = stanza
		out = append(out, l)
		raw = ""
	}
	if raw != "" {
		out = append(out, interfacesLine{raw: raw, stanza: stanza})
	}
	return out
}

// interfacesFiles lists the files that ifup reads, in order: the first and what it
// sources.
func interfacesFiles(t tree) ([]string, error) {
	var files []string
	var visit func(name string) error
	visit = func(name string) error {
		if slices.Contains(files, name) || len(files) > 200 {
			return nil
		}
		b, err := t.read(name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if b == nil {
			return nil
		}
		files = append(files, name)
		for _, l := range parseInterfaces(string(b)) {
			if len(l.fields) < 2 {
				continue
			}
			var found []string
			pattern := l.fields[1]
			if !path.IsAbs(pattern) {
				pattern = path.Join(path.Dir(name), pattern)
			}
			switch l.fields[0] {
			case "source":
				found = t.glob(pattern)
			case "source-directory":
				// Only names that run-parts(8) would take.
				for _, f := range t.glob(pattern + "/*") {
					if sourceName.MatchString(path.Base(f)) {
						found = append(found, f)
					}
				}
			}
			for _, f := range found {
				if err := visit(f); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return files, visit("/etc/network/interfaces")
}

var sourceName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// What an option of a stanza is about: the NIC itself, which keeps it, what makes a
// bond or a VLAN, which keeps it too, or something that a bridge of ours cannot have.
var (
	nicOptions     = []string{"ethernet-", "hardware-", "link-speed", "link-duplex", "link-autoneg", "offload-", "ethtool-"}
	stackedOptions = []string{"bond-", "slaves", "vlan-"}
	cannotOptions  = map[string]string{
		"bond-master": "it is a part of a bond", "wpa": "it uses 802.1X or Wi-Fi (wpa_supplicant)",
		"wireless": "it is a Wi-Fi station", "bridge": "it is a bridge or a port of one",
	}
	hooks = []string{"pre-up", "up", "post-up", "down", "pre-down", "post-down"}
)

// cannotOption says why a stanza's option cannot be moved, "" if it can.
func cannotOption(key string) string {
	key = strings.ReplaceAll(key, "_", "-")
	word, _, _ := strings.Cut(key, "-")
	return cmp.Or(cannotOptions[key], cannotOptions[word])
}

func isNICOption(key string) bool { return hasPrefix(key, nicOptions) || isStackedOption(key) }

func isStackedOption(key string) bool {
	return hasPrefix(strings.ReplaceAll(key, "_", "-"), stackedOptions)
}

func hasPrefix(key string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

// madeByStanza says whether ifup makes the link itself: a bond, or a VLAN, which
// may have no more than a name (interfaces(5), and the package vlan).
func madeByStanza(nic string, all []interfacesLine) bool {
	return vlanName.MatchString(nic) || slices.ContainsFunc(all, func(l interfacesLine) bool {
		return l.stanza == nic && !l.head && len(l.fields) > 0 && isStackedOption(l.fields[0])
	})
}

var vlanName = regexp.MustCompile(`\.[0-9]+$|^vlan[0-9]+$`)

// rewriting is the state of one rewrite of all files of interfaces(5).
type rewriting struct {
	p   host.Profile
	nic string
	// stacked is set where ifup makes the link itself, and must do so before the bridge.
	stacked bool
	// making says which lines make the bridge.
	making func(*rewriting) []string
	// made is set when the lines that make the bridge are written: they stand in the
	// first stanza, since ifup runs the pre-up lines of each stanza in turn.
	made bool
	// kept are options that stay with the NIC.
	kept []string
}

// rewrite turns one file into what it shall be: what was said of the NIC is said of
// the bridge. Lines that are not about the NIC are not touched.
func (r *rewriting) rewrite(text string) string {
	var b strings.Builder
	parsed := parseInterfaces(text)
	indent := "    "
	for _, l := range parsed {
		if l.stanza == r.nic && !l.head && len(l.fields) > 0 {
			indent = l.raw[:len(l.raw)-len(strings.TrimLeft(l.raw, " \t"))]
			break
		}
	}
	for _, l := range parsed {
		switch {
		case len(l.fields) == 0:
			b.WriteString(l.raw)
		case (l.fields[0] == "auto" || strings.HasPrefix(l.fields[0], "allow-")) && slices.Contains(l.fields[1:], r.nic):
			b.WriteString(r.autoLine(l))
		case l.stanza == r.nic && l.head:
			b.WriteString(replaceWord(l.raw, r.nic, r.p.Bridge))
			if !strings.HasSuffix(l.raw, "\n") {
				b.WriteString("\n")
			}
			if !r.made {
				r.made = true
				for _, line := range r.making(r) {
					b.WriteString(indent + line + "\n")
				}
			}
		case l.stanza == r.nic && isNICOption(l.fields[0]):
			r.kept = append(r.kept, strings.Join(l.fields, " "))
		case l.stanza == r.nic && slices.Contains(hooks, l.fields[0]):
			b.WriteString(r.hook(l.raw))
		default:
			b.WriteString(l.raw)
		}
	}
	return b.String()
}

// autoLine brings up the bridge where the NIC was brought up. A bridge does not
// appear by itself, so that no hotplug event would bring it up. What ifup makes itself
// comes before it: ifup goes by the order of these lines.
func (r *rewriting) autoLine(l interfacesLine) string {
	names := r.p.Bridge
	if r.stacked {
		names = r.nic + " " + names
	}
	if l.fields[0] == "auto" {
		return replaceWord(l.raw, r.nic, names)
	}
	line := "auto " + names + "\n"
	if len(l.fields) > 2 {
		rest := slices.DeleteFunc(slices.Clone(l.fields), func(w string) bool { return w == r.nic })
		line = strings.Join(rest, " ") + "\n" + line
	}
	return line
}

// byHooks is the lines that make the bridge for ifupdown. They need no package beside iproute2,
// and do no harm where the bridge is there.
func (r *rewriting) byHooks() []string {
	stp := 0
	if r.p.STP {
		stp = 1
	}
	out := []string{fmt.Sprintf("pre-up ip link show dev %[1]s >/dev/null 2>&1 || ip link add name %[1]s address %s mtu %d type bridge stp_state %d forward_delay 0",
		r.p.Bridge, r.p.MAC, r.p.MTU, stp)}
	for i, nic := range strings.Fields(r.p.Uplinks) {
		mtu := ""
		if r.p.MTU != 1500 {
			mtu = fmt.Sprintf(" mtu %d", r.p.MTU)
		}
		line := fmt.Sprintf("pre-up ip link set dev %s%s master %s up", nic, mtu, r.p.Bridge)
		if i > 0 {
			line += " || true" // one uplink that is not there must not cost the others
		}
		out = append(out, line)
	}
	return out
}

// aboutIP are commands that are about addresses and routes, which move.
var aboutIP = regexp.MustCompile(`\b(ip(\s+-\S+)*\s+(addr|address|a|route|r|rule|ro|neigh|neighbour)|route|ifconfig|resolvconf|sysctl|arping|arp)\b|/proc/sys/net`)

// hook rewrites a command of a stanza: what is about addresses and routes names the
// bridge, what is about the hardware the NIC.
func (r *rewriting) hook(raw string) string {
	if aboutIP.MatchString(raw) {
		return replaceWord(raw, r.nic, r.p.Bridge)
	}
	return strings.NewReplacer("${IFACE}", r.nic, "$IFACE", r.nic).Replace(raw)
}

// replaceWord replaces a name where it stands alone; eth0 is not a part of eth0.5.
func replaceWord(text, from, to string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		j := strings.Index(text[i:], from)
		if j < 0 {
			b.WriteString(text[i:])
			break
		}
		start, end := i+j, i+j+len(from)
		b.WriteString(text[i:start])
		if (start == 0 || !nameByte(text[start-1])) && (end == len(text) || !nameByte(text[end]) || text[end] == '.' && (end+1 == len(text) || !nameByte(text[end+1]))) {
			b.WriteString(to)
		} else {
			b.WriteString(from)
		}
		i = end
	}
	return b.String()
}

func nameByte(c byte) bool {
	return c == '.' || c == '-' || c == '_' || c == ':' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// port is the stanza of an uplink that has become a port: others, such as
// NetworkManager, go by it that the NIC is taken.
func (r *rewriting) port() string {
	var b strings.Builder
	for i, nic := range strings.Fields(r.p.Uplinks) {
		b.WriteString("\n")
		if i == 0 && len(r.kept) > 0 && !r.stacked {
			b.WriteString("auto " + nic + "\n")
		}
		fmt.Fprintf(&b, "# Drawbridge: a port of %s.\niface %s inet manual\n", r.p.Bridge, nic)
		if i == 0 {
			for _, option := range r.kept {
				b.WriteString("    " + option + "\n")
			}
		}
	}
	return b.String()
}
