package hostconf

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"drawbridge/internal/host"
)

// readKeyfile fills in what a connection says (nm-settings-keyfile(5)).
func readKeyfile(d *Description, sections []section) {
	settings(sections, func(sec, key, value string) {
		switch sec {
		case "connection":
			switch {
			case key == "type" && value != "ethernet" && value != "802-3-ethernet":
				d.cannot("its connection is of type %s", value)
			case key == "master" || key == "controller":
				d.cannot("its connection says that it is a port of %s already", value)
			case key == "secondaries":
				d.cannot("its connection brings up others (secondaries=%s)", value)
			}
		case "802-1x":
			d.cannot("its connection uses 802.1X, which lets one machine in for each port of the switch")
		case "ethernet", "802-3-ethernet":
			if key == "mtu" {
				d.MTU, _ = strconv.Atoi(value)
			}
		case "ipv4":
			readKeyfileIP(d, &d.IPv4, sec, key, value)
		case "ipv6":
			readKeyfileIP(d, &d.IPv6, sec, key, value)
			if key == "addr-gen-mode" && value != "eui64" && value != "0" {
				d.note("an IPv6 address that %s forms by itself depends on the interface's name (RFC 7217): the bridge keeps the one that it has now, and after a reboot has another", d.Link)
			}
		}
	})
}

func readKeyfileIP(d *Description, to *Method, sec, key, value string) {
	switch {
	case key == "method":
		switch value {
		case "auto":
			to.DHCP, to.RA = sec == "ipv4", sec == "ipv6"
		case "dhcp":
			to.DHCP = true
		case "shared":
			d.cannot("its connection shares the network with others (%s.method=shared)", sec)
		}
	case strings.HasPrefix(key, "address"):
		address, gateway, _ := strings.Cut(value, ",")
		d.addAddress(address)
		d.addGateway(gateway)
	case key == "gateway":
		d.addGateway(value)
	case key == "dns":
		d.addDNS(value)
	case key == "dns-search":
		d.addDomains(value)
	}
}

// Sections of a connection that are about the network layer, and go to the bridge;
// the others are about the NIC. [connection] is split.
var bridgeSections = []string{"ipv4", "ipv6", "proxy", "user", "hostname"}

const nmTitle = "# Drawbridge: %s. \"drawbridge network rm\" puts things back.\n"

func bridgeKeyfile(p host.Profile, d Description, sections []section) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, nmTitle, "what "+d.Link+" had, now for the bridge that it is in")
	drop := []string{"type", "interface-name", "autoconnect-slaves", "autoconnect-ports"}
	writeKeyfile(&b, "connection", sections, drop, "type=bridge", "interface-name="+p.Bridge)
	bridge := []string{"mac-address=" + strings.ToUpper(p.MAC), "stp=false", "forward-delay=0"}
	if p.STP {
		bridge = []string{"mac-address=" + strings.ToUpper(p.MAC), "stp=true", "forward-delay=2"}
	}
	writeKeyfile(&b, "bridge", nil, nil, bridge...)
	if p.MTU != 1500 {
		writeKeyfile(&b, "ethernet", nil, nil, "mtu="+strconv.Itoa(p.MTU))
	}
	for _, s := range bridgeSections {
		var more []string
		if (s == "ipv4" || s == "ipv6") && d.RouteMetric != 0 && !has(sections, s, "route-metric") {
			// Its default for a bridge is 425: routes would be another's.
			more = []string{"route-metric=" + strconv.Itoa(d.RouteMetric)}
		}
		if len(more) > 0 || slices.ContainsFunc(sections, func(x section) bool { return x.name == s }) {
			writeKeyfile(&b, s, sections, nil, more...)
		}
	}
	return []byte(b.String())
}

func portKeyfile(p host.Profile, nic string, d Description, sections []section) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, nmTitle, nic+" is a port of "+p.Bridge)
	lines := []string{"id=" + p.Bridge + " port " + nic, "uuid=" + portUUID(d, p.Bridge, nic), "type=ethernet",
		"interface-name=" + nic, "master=" + p.Bridge, "slave-type=bridge"}
	for _, s := range sections {
		for _, line := range s.lines {
			if key, _, _ := setting(line); s.name == "connection" && strings.HasPrefix(key, "autoconnect") && key != "autoconnect-slaves" && key != "autoconnect-ports" {
				lines = append(lines, line)
			}
		}
	}
	writeKeyfile(&b, "connection", nil, nil, lines...)
	done := map[string]bool{"connection": true}
	for _, s := range sections {
		if !done[s.name] && !slices.Contains(bridgeSections, s.name) {
			writeKeyfile(&b, s.name, sections, nil)
		}
		done[s.name] = true
	}
	return []byte(b.String())
}

// writeKeyfile writes a section: what sections have under that name, without the
// dropped keys, then more.
func writeKeyfile(b *strings.Builder, name string, sections []section, drop []string, more ...string) {
	fmt.Fprintf(b, "\n[%s]\n", name)
	for _, s := range sections {
		if s.name != name {
			continue
		}
		for _, line := range s.lines {
			if key, _, ok := setting(line); !ok || !slices.Contains(drop, key) {
				b.WriteString(line + "\n")
			}
		}
	}
	for _, line := range more {
		b.WriteString(line + "\n")
	}
}

func has(sections []section, name, key string) bool {
	found := false
	settings(sections, func(s, k, _ string) { found = found || s == name && k == key })
	return found
}

// portUUID is the UUID of a port's connection: always the same for the same
// connection, bridge and NIC (RFC 9562 section 5.8).
func portUUID(d Description, bridge, nic string) string {
	h := sha256.Sum256([]byte("drawbridge port\x00" + d.Connection + "\x00" + bridge + "\x00" + nic))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
