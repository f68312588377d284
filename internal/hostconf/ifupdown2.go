package hostconf

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// ifupdown2 is the ifup, ifdown and ifreload of NVIDIA (Cumulus) and Proxmox. It reads the
// files of ifupdown and starts the same DHCP client in the same way, but knows
// bridges by itself: "ifreload -a" makes a running bridge what its stanza says. What
// it remembers, /var/tmp/network/ifstatenew, it takes for a hint: it looks at the
// kernel before it does anything.
type ifupdown2 struct{ ifupdown }

func (ifupdown2) name() string { return IfUpDown2 }

const ifupdown2Program = "/usr/share/ifupdown2/__main__.py"

// hasIfUpDown2 says which of the two is installed; they have the same program names.
func hasIfUpDown2(t tree) bool { return t.exists(ifupdown2Program) }

func (ifupdown2) describe(_ context.Context, t tree, d *Description) (bool, error) {
	if !hasIfUpDown2(t) {
		return false, nil
	}
	has, err := describeStanzas(t, d)
	if err != nil || !has || !d.hasMethod() {
		return false, err
	}
	d.Evidence = append(d.Evidence, "ifupdown2 is installed ("+ifupdown2Program+")")
	for _, f := range d.Files {
		if text := "\n" + t.text(f); strings.Contains(text, "<%") || strings.Contains(text, "\n%") {
			d.cannot("%s is a template (mako), which cannot be rewritten safely", f)
		}
	}
	if d.IPv4.DHCP || d.IPv6.DHCP {
		describeClient(t, d)
	}
	return true, nil
}

func (ifupdown2) permanent(t tree, p host.Profile, d Description) ([]file, error) {
	out, _, err := rewriteInterfaces(t, p, d, (*rewriting).byOptions)
	if err != nil {
		return nil, err
	}
	leases, err := permanentLeases(t, p, d)
	return slices.Concat(out, leases), err
}

// release turns IPv6 on again, which ifupdown2 turns off on every port of a bridge and
// on again when it takes one out: what moves back has IPv6 addresses.
func (ifupdown2) release(_ context.Context, t tree, p host.Profile, _ Description) error {
	usual := t.text(conf6 + "default/disable_ipv6")
	if usual == "" {
		return nil // the kernel has no IPv6
	}
	for _, nic := range strings.Fields(p.Uplinks) {
		file := conf6 + nic + "/disable_ipv6"
		if t.text(file) == usual || !t.exists(file) {
			continue
		}
		if err := os.WriteFile(t.path(file), []byte(usual+"\n"), 0o644); err != nil {
			return fmt.Errorf("turn IPv6 of %s on again: %w", nic, err)
		}
	}
	return nil
}

const conf6 = "/proc/sys/net/ipv6/conf/"

// byOptions is the lines that make the bridge for ifupdown2
// (ifupdown-addons-interfaces(5)). Without the regular expression "ifreload" would
// pull guests' ports off the bridge, which no file names.
func (r *rewriting) byOptions() []string {
	stp := "off"
	if r.p.STP {
		stp = "on"
	}
	return []string{
		"bridge-ports " + r.p.Uplinks,
		"bridge-stp " + stp,
		"bridge-fd 0",
		"bridge-ports-condone-regex .*",
		"hwaddress " + r.p.MAC,
	}
}
