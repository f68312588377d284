package hostconf

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"

	"drawbridge/internal/host"
)

// none is a host where no program that is known here has the link: somebody gave
// it its addresses by hand, or by a script of his own. Nobody has to be told; for
// the next boots there is a unit of systemd's that makes the bridge and puts on it
// what the link had when the change was made.
type none struct{}

func (none) name() string { return None }

func (none) describe(ctx context.Context, t tree, d *Description) (bool, error) {
	if !t.exists("/run/systemd/system") {
		return false, nil
	}
	d.Evidence = append(d.Evidence, "no network manager that is known here has it")
	d.note("a unit of systemd's will make the bridge at boot; if a script of yours gives %s its addresses, it must not do so any more", d.Link)
	out, err := ipTool(ctx, "-j", "addr", "show", "dev", d.Link)
	if err != nil {
		return false, err
	}
	if err := readAddresses(d, out); err != nil {
		return false, err
	}
	for _, family := range []string{"-4", "-6"} {
		if out, err = ipTool(ctx, family, "-o", "route", "show", "table", "all", "dev", d.Link); err != nil {
			return false, err
		}
		readRoutes(d, family, string(out))
		if out, err = ipTool(ctx, family, "-o", "rule", "show"); err != nil {
			return false, err
		}
		for line := range strings.Lines(string(out)) {
			if words := " " + strings.TrimSpace(line) + " "; strings.Contains(words, " iif "+d.Link+" ") || strings.Contains(words, " oif "+d.Link+" ") {
				d.cannot("a policy rule names it (%s)", strings.TrimSpace(line))
			}
		}
	}
	return true, nil
}

func ipTool(ctx context.Context, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "ip", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("ip %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// readAddresses takes over the addresses that last. What the kernel forms by itself,
// of its own or from a router's word, it forms on the bridge too.
func readAddresses(d *Description, out []byte) error {
	var links []struct {
		AddrInfo []struct {
			Family, Local, Address, Broadcast, Scope string
			Prefixlen, Metric                        int
			Noprefixroute, Dynamic                   bool
			Protocol                                 string
			Valid                                    uint32 `json:"valid_life_time"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return fmt.Errorf("read what ip says about %s: %w", d.Link, err)
	}
	for _, l := range links {
		for _, a := range l.AddrInfo {
			text := fmt.Sprintf("%s/%d", a.Local, a.Prefixlen)
			switch {
			case a.Family == "inet6" && a.Scope == "link":
				continue
			case a.Dynamic || a.Valid != 1<<32-1:
				if a.Family == "inet6" {
					d.IPv6.RA = true
					continue
				}
				d.cannot("it has %s for a while only, and no program that is known here renews that", text)
				continue
			case a.Address != "":
				text = fmt.Sprintf("%s peer %s/%d", a.Local, a.Address, a.Prefixlen)
			}
			d.addAddress(strings.ReplaceAll(text, " peer ", ""))
			if a.Broadcast != "" {
				text += " broadcast " + a.Broadcast
			}
			if a.Metric != 0 {
				text += fmt.Sprintf(" metric %d", a.Metric)
			}
			if a.Noprefixroute {
				text += " noprefixroute"
			}
			d.Lines = append(d.Lines, "addr replace "+text+" scope "+a.Scope)
		}
	}
	return nil
}

// readRoutes takes over the routes that somebody set, and those of the kernel's that
// go with an address, as it makes none for one that is "noprefixroute". Routes over
// gateways come last: the kernel wants to know the way to those.
func readRoutes(d *Description, family, out string) {
	var over []string
	defer func() { d.Lines = append(d.Lines, over...) }()
	for line := range strings.Lines(out) {
		words := " " + strings.TrimSpace(line) + " "
		switch {
		case strings.TrimSpace(line) == "", strings.Contains(words, " proto ra "), strings.Contains(words, " expires "), strings.Contains(words, " table local "),
			strings.HasPrefix(words, " fe80::/64 "), strings.HasPrefix(words, " ff00::/8 "):
			continue
		case strings.Contains(words, `\`), strings.Contains(words, " nhid "):
			d.cannot("a route over it has several ways (%s)", strings.TrimSpace(line))
			continue
		}
		var kept []string
		list := &d.Lines
		fields := strings.Fields(words)
		for i := 0; i < len(fields); i++ {
			switch fields[i] {
			case "linkdown", "dead":
			case "expires", "pref":
				i++
			case "via":
				list = &over
				if i+1 < len(fields) {
					d.addGateway(fields[i+1])
				}
				kept = append(kept, fields[i])
			default:
				kept = append(kept, fields[i])
			}
		}
		*list = append(*list, family+" route replace "+strings.Join(kept, " "))
	}
}

func (none) runtime(tree, host.Profile, Description) ([]file, error) { return nil, nil }

func (none) permanent(_ tree, p host.Profile, d Description) ([]file, error) {
	unit := "drawbridge-bridge-" + unitEscape(p.Bridge) + ".service"
	const dir = "/etc/systemd/system/"
	// Not by network.target: where nobody else makes a network, nobody asks for that.
	return []file{
		{Path: dir + unit, After: bootUnit(p, d)},
		{Path: dir + "multi-user.target.d/50-" + strings.TrimSuffix(unit, ".service") + ".conf",
			After: []byte("# Drawbridge: \"drawbridge network rm\" removes this.\n[Unit]\nWants=" + unit + "\n")},
	}, nil
}

// bootUnit makes the bridge before anybody is told that the network is there. What
// fails does not keep the rest from being done.
func bootUnit(p host.Profile, d Description) []byte {
	stp := 0
	if p.STP {
		stp = 1
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Drawbridge made this: the bridge that %s is in. \"drawbridge network rm\" removes it.\n", p.Uplinks)
	fmt.Fprintf(&b, "[Unit]\nDescription=Bridge %s of %s\nDefaultDependencies=no\nAfter=network-pre.target systemd-sysctl.service systemd-modules-load.service\nBefore=network.target\nWants=network.target\n\n", p.Bridge, p.Uplinks)
	b.WriteString("[Service]\nType=oneshot\nRemainAfterExit=yes\n")
	do := func(format string, args ...any) { fmt.Fprintf(&b, "ExecStart=-/usr/bin/env ip "+format+"\n", args...) }
	for _, nic := range strings.Fields(p.Uplinks) {
		// Its driver may need a while. What systemd would unescape is doubled.
		fmt.Fprintf(&b, "ExecStart=-/bin/sh -c 'for i in $$(seq 300); do [ -e /sys/class/net/%s ] && break; sleep 0.1; done'\n", nic)
	}
	do("link add name %s address %s mtu %d type bridge stp_state %d forward_delay 0", p.Bridge, p.MAC, p.MTU, stp)
	do("link set dev %s up", p.Bridge)
	for _, nic := range strings.Fields(p.Uplinks) {
		do("link set dev %s mtu %d master %s up", nic, p.MTU, p.Bridge)
	}
	for _, line := range d.Lines {
		do("%s dev %s", line, p.Bridge)
	}
	return []byte(b.String())
}

func (none) release(context.Context, tree, host.Profile, Description) error  { return nil }
func (none) hold(context.Context, tree, host.Profile, Description) error     { return nil }
func (none) takeOver(context.Context, tree, host.Profile, Description) error { return nil }
func (none) verify(context.Context, tree, host.Profile, Description) error   { return nil }

// Systemd need not read its units again: the next boot does.
func (none) saved(context.Context, tree, host.Profile, Description) error    { return nil }
func (none) giveBack(context.Context, tree, host.Profile, Description) error { return nil }
