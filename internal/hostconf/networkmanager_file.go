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
			case key == "type" && !slices.Contains([]string{"ethernet", "802-3-ethernet", "bond", "vlan"}, value):
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

// connectionType is what a keyfile says that it is.
func connectionType(keyfile string) (kind string) {
	settings(parseSections(keyfile), func(sec, key, value string) {
		if sec == "connection" && key == "type" {
			kind = value
		}
	})
	return kind
}

// stacked says whether the link is one that its connection makes.
func stacked(d Description) bool {
	kind := connectionType(d.Generated)
	return kind == "bond" || kind == "vlan"
}

// aboutStart says whether a setting of [connection] decides when it is brought up,
// which a port's has to say too.
func aboutStart(key string) bool {
	return strings.HasPrefix(key, "autoconnect") && key != "autoconnect-slaves" && key != "autoconnect-ports"
}

func bridgeKeyfile(p host.Profile, d Description, sections []section) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, nmTitle, "what "+d.Link+" had, now for the bridge that it is in")
	drop := []string{"type", "interface-name", "autoconnect-slaves", "autoconnect-ports"}
	own := []string{"type=bridge", "interface-name=" + p.Bridge}
	if stacked(d) {
		drop = append(drop, "id", "uuid", "timestamp")
		own = append(own, "id="+p.Bridge)
	}
	if stacked(d) || !has(sections, "connection", "uuid") {
		own = append(own, "uuid="+bridgeUUID(d, p.Bridge))
	}
	writeKeyfile(&b, "connection", sections, drop, own...)
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
	if stacked(d) && sections != nil {
		more := []string{"master=" + p.Bridge, "slave-type=bridge"}
		if !has(sections, "connection", "uuid") {
			more = append(more, "uuid="+d.Connection)
		}
		writeKeyfile(&b, "connection", sections, nil, more...)
	} else {
		lines := []string{"id=" + p.Bridge + " port " + nic, "uuid=" + portUUID(d, p.Bridge, nic), "type=ethernet",
			"interface-name=" + nic, "master=" + p.Bridge, "slave-type=bridge"}
		for _, s := range sections {
			for _, line := range s.lines {
				if key, _, _ := setting(line); s.name == "connection" && aboutStart(key) {
					lines = append(lines, line)
				}
			}
		}
		writeKeyfile(&b, "connection", nil, nil, lines...)
	}
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

// bridgeUUID is the UUID of the bridge's connection.
func bridgeUUID(d Description, bridge string) string {
	if stacked(d) {
		return derivedUUID(d, "bridge", bridge)
	}
	return d.Connection
}

// portUUID is the UUID of a port's connection.
func portUUID(d Description, bridge, nic string) string {
	if stacked(d) && nic == d.Link {
		return d.Connection
	}
	return derivedUUID(d, "port", bridge, nic)
}

// derivedUUID is always the same for the same connection and words (RFC 9562 section 5.8).
func derivedUUID(d Description, kind string, names ...string) string {
	h := sha256.Sum256([]byte("drawbridge " + kind + "\x00" + d.Connection + "\x00" + strings.Join(names, "\x00")))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
