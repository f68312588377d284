package hostconf

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"drawbridge/internal/host"
)

// networkd is systemd-networkd.
//
// Measured with version 252, 1000 pings a second: a .network file for the bridge
// with KeepConfiguration=yes and the NIC's IAID makes networkd ask for the lease
// that the NIC had (one REQUEST, no RELEASE) and loses nothing. Without
// KeepConfiguration it takes the addresses off first and loses 10 to 20 pings, and
// so it does whenever that setting goes again. Until the next boot or reload it
// stays therefore; meanwhile the address that DHCP gave has no lifetime in the
// kernel, while networkd goes on renewing it. A NIC without a file that says
// Bridge= or KeepMaster= would be taken out of the bridge, and Bridge= needs a
// .netdev, so it is KeepMaster= until the next boot.
type networkd struct{}

func (networkd) name() string { return Networkd }

func (networkd) describe(_ context.Context, t tree, d *Description) (bool, error) {
	if !t.running("systemd-network") {
		return false, nil
	}
	source := linkState(t, d.Link, "NETWORK_FILE")
	state := linkState(t, d.Link, "ADMIN_STATE")
	if source == "" || state == "" || state == "unmanaged" {
		return false, nil
	}
	source = copiedFrom(t, source)
	if _, ok := netplanID(source); ok {
		return false, nil
	}
	d.Evidence = append(d.Evidence, fmt.Sprintf("systemd-networkd has configured it (%s) with %s", state, source))
	return true, describeNetworkd(t, d, source)
}

// describeNetworkd reads what a .network file and its drop-ins say.
func describeNetworkd(t tree, d *Description, source string) error {
	sections, files, err := networkdSections(t, source)
	if err != nil {
		return err
	}
	d.Files = files
	readNetwork(d, sections)
	if id := lease(t, d.Link, "CLIENTID"); id != "" {
		d.ClientID = id
	}
	if d.DUID = linkState(t, d.Link, "DHCP6_CLIENT_DUID"); d.IAID == "" {
		d.IAID = strings.TrimPrefix(linkState(t, d.Link, "DHCP6_CLIENT_IAID"), "0x")
	}
	if d.IAID == "" && len(d.ClientID) >= 10 && strings.HasPrefix(d.ClientID, "ff") {
		d.IAID = d.ClientID[2:10]
	}
	d.addDNS(linkState(t, d.Link, "DNS"))
	d.addDomains(linkState(t, d.Link, "DOMAINS"))
	return nil
}

// networkdFolders are where it finds its files, below systemd/network; the later
// one hides the earlier.
var networkdFolders = []string{"/usr/lib", "/lib", "/usr/local/lib", "/run", "/etc"}

// networkdSections reads a .network file and its drop-ins, in the order in which
// networkd does: by name, whatever folder they are in; /etc hides /run hides /usr.
func networkdSections(t tree, source string) ([]section, []string, error) {
	files := []string{source}
	byName := map[string]string{}
	for _, top := range networkdFolders {
		for _, f := range t.glob(top + "/systemd/network/" + path.Base(source) + ".d/*.conf") {
			if path.Base(f) != keepFile {
				byName[path.Base(f)] = f
			}
		}
	}
	var names []string
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		files = append(files, byName[name])
	}
	var all []section
	for _, f := range files {
		b, err := t.read(f)
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", f, err)
		}
		all = append(all, parseSections(string(b))...)
	}
	return all, files, nil
}

// readNetwork fills in what the sections of a .network file say.
func readNetwork(d *Description, sections []section) {
	d.IPv6.RA = true // the default of IPv6AcceptRA= on a host that does not forward
	settings(sections, func(sec, key, value string) {
		switch sec + "." + key {
		case "Network.DHCP":
			switch strings.ToLower(value) {
			case "yes", "both", "true", "on", "1":
				d.IPv4.DHCP, d.IPv6.DHCP = true, true
			case "ipv4", "v4":
				d.IPv4.DHCP, d.IPv6.DHCP = true, false
			case "ipv6", "v6":
				d.IPv4.DHCP, d.IPv6.DHCP = false, true
			default:
				d.IPv4.DHCP, d.IPv6.DHCP = false, false
			}
		case "Network.Address", "Address.Address":
			d.addAddress(value)
		case "Network.Gateway", "Route.Gateway":
			d.addGateway(value)
		case "Network.DNS":
			d.addDNS(value)
		case "Network.Domains":
			d.addDomains(value)
		case "Network.IPv6AcceptRA", "Network.IPv6AcceptRouterAdvertisements":
			d.IPv6.RA = yes(value)
		case "Network.LinkLocalAddressing":
			if value == "ipv4" || value == "no" || value == "false" {
				d.IPv6.RA = false
			}
		case "Network.Bridge":
			d.Bridge = value
		case "Link.MTUBytes":
			d.MTU, _ = strconv.Atoi(value)
		case "DHCPv4.IAID", "DHCP.IAID":
			if n, err := strconv.ParseUint(value, 0, 32); err == nil {
				d.IAID = fmt.Sprintf("%08x", n)
			}
		case "Match.SSID", "Match.WLANInterfaceType", "Match.BSSID":
			d.cannot("%s is a Wi-Fi station (%s=%s), which cannot be a port of a bridge", d.Link, key, value)
		}
		if sec == "Network" && slices.Contains(stackedKeys, key) && value != "" {
			d.cannot("its configuration says %s=%s: something else already stands on %s", key, value, d.Link)
		}
	})
}

func yes(value string) bool {
	switch strings.ToLower(value) {
	case "yes", "true", "on", "1", "y", "t":
		return true
	}
	return false
}

// ours is the name of a file of networkd's that is read before source: the first
// that matches a link, by name, is taken.
func ours(source, name, suffix string) (string, error) {
	for _, prefix := range []string{"05-drawbridge-", "00-drawbridge-", "0-drawbridge-", "-drawbridge-", "--drawbridge-"} {
		if file := prefix + name + suffix; file < path.Base(source) {
			return file, nil
		}
	}
	return "", fmt.Errorf("no file can be read before %s", source)
}

// oursUntilBoot is the name of such a file below /run that is read before the one
// below /etc. If that took its place with the next reload, after the change was
// confirmed, networkd would take the link up anew, addresses off first.
func oursUntilBoot(source, name string) (string, error) {
	forGood, err := ours(source, name, ".network")
	if err != nil {
		return "", err
	}
	return ours(forGood, name, ".network")
}

func (networkd) runtime(t tree, p host.Profile, d Description) ([]file, error) {
	source := d.Files[0]
	sections, _, err := networkdSections(t, source)
	if err != nil {
		return nil, err
	}
	bridge, err := oursUntilBoot(source, p.Bridge)
	if err != nil {
		return nil, err
	}
	const dir = "/run/systemd/network/"
	extra := append([]section{{"Network", []string{"KeepConfiguration=yes"}}}, identity(d)...)
	files := []file{{Path: dir + bridge, After: bridgeNetwork(p, sections, extra)}}
	for _, nic := range strings.Fields(p.Uplinks) {
		name, err := oursUntilBoot(source, nic)
		if err != nil {
			return nil, err
		}
		files = append(files, file{Path: dir + name, After: portNetwork(p, nic, d, sections, []string{"KeepMaster=yes"})})
	}
	return files, nil
}

func (networkd) permanent(t tree, p host.Profile, d Description) ([]file, error) {
	source := d.Files[0]
	sections, _, err := networkdSections(t, source)
	if err != nil {
		return nil, err
	}
	const dir = "/etc/systemd/network/"
	netdev, err := ours(source, p.Bridge, ".netdev")
	if err != nil {
		return nil, err
	}
	bridge, err := ours(source, p.Bridge, ".network")
	if err != nil {
		return nil, err
	}
	files := []file{
		{Path: dir + netdev, After: bridgeNetdev(p)},
		{Path: dir + bridge, After: bridgeNetwork(p, sections, identity(d))},
	}
	for _, nic := range strings.Fields(p.Uplinks) {
		name, err := ours(source, nic, ".network")
		if err != nil {
			return nil, err
		}
		files = append(files, file{Path: dir + name, After: portNetwork(p, nic, d, sections, []string{"Bridge=" + p.Bridge})})
	}
	return files, nil
}

const networkdTitle = "Drawbridge made this: %s. Changes here hold; \"drawbridge network rm\" removes the file."

// identity makes the DHCP clients on the bridge say the same as they did on the
// link: networkd derives the IAID from the link's name.
func identity(d Description) []section {
	n, err := strconv.ParseUint(d.IAID, 16, 32)
	if err != nil {
		return nil
	}
	iaid := []string{"IAID=" + strconv.FormatUint(n, 10)}
	return []section{{"DHCPv4", iaid}, {"DHCPv6", iaid}}
}

func bridgeNetdev(p host.Profile) []byte {
	stp := "no"
	if p.STP {
		stp = "yes"
	}
	return fmt.Appendf(nil, "# "+networkdTitle+"\n[NetDev]\nName=%s\nKind=bridge\nMACAddress=%s\nMTUBytes=%d\n\n[Bridge]\nSTP=%s\nForwardDelaySec=0\n",
		"the bridge that "+p.Uplinks+" is in", p.Bridge, p.MAC, p.MTU, stp)
}

func bridgeNetwork(p host.Profile, sections []section, extra []section) []byte {
	// What decides whether boot waits for the link goes along.
	moves := func(s string) bool { return s == "Link" || slices.Contains(movingSections, s) }
	drop := []string{"Link.MACAddress", "Link.Unmanaged", "Network.KeepMaster", "Network.KeepConfiguration", "Network.ConfigureWithoutCarrier"}
	if !slices.ContainsFunc(extra, func(s section) bool { return s.name == "Network" }) {
		drop = slices.DeleteFunc(drop, func(s string) bool { return s == "Network.KeepConfiguration" })
	}
	return networkFile(fmt.Sprintf(networkdTitle, "what "+firstUplink(p)+" had, now for the bridge that it is in"), p.Bridge, sections, moves, drop, extra)
}

func portNetwork(p host.Profile, nic string, d Description, sections []section, master []string) []byte {
	if nic != d.Link {
		sections = nil // only the first uplink's configuration is known
	}
	moves := func(s string) bool { return !slices.Contains(movingSections, s) }
	// Without addresses of its own boot would wait for them for ever.
	var kept []section
	for _, s := range sections {
		if s.name == "Link" {
			s.lines = slices.DeleteFunc(slices.Clone(s.lines), func(line string) bool {
				key, _, ok := setting(line)
				return ok && strings.HasPrefix(key, "RequiredForOnline") || key == "RequiredFamilyForOnline" || key == "Unmanaged"
			})
		}
		kept = append(kept, s)
	}
	extra := []section{
		{"Network", append(slices.Clone(master), "LinkLocalAddressing=no", "IPv6AcceptRA=no", "LLDP=no")},
		{"Link", []string{"RequiredForOnline=no"}},
	}
	return networkFile(fmt.Sprintf(networkdTitle, nic+" is a port of "+p.Bridge), nic, kept, moves, nil, extra)
}

// letGoFiles are read before those that make the uplinks ports: with them networkd
// leaves a link's master as it is. Otherwise it puts the link into the bridge again
// as soon as that loses it, even while the bridge is being deleted.
func letGoFiles(p host.Profile, d Description) ([]file, error) {
	var files []file
	for _, nic := range strings.Fields(p.Uplinks) {
		port, err := oursUntilBoot(d.Files[0], nic)
		if err != nil {
			return nil, err
		}
		name, err := ours(port, nic, ".network")
		if err != nil {
			return nil, err
		}
		files = append(files, file{Path: "/run/systemd/network/" + name, Mode: 0o644,
			After: portNetwork(p, nic, d, nil, []string{"KeepMaster=yes"})})
	}
	return files, nil
}

func (n networkd) release(ctx context.Context, t tree, p host.Profile, d Description) error {
	files, err := letGoFiles(p, d)
	if err != nil {
		return err
	}
	if err := t.put(files); err != nil {
		return err
	}
	if err := networkdReload(ctx); err != nil {
		return err
	}
	for i, nic := range strings.Fields(p.Uplinks) {
		if err := n.settled(ctx, t, nic, Description{}, files[i].Path); err != nil {
			return err
		}
	}
	return nil
}

func (networkd) hold(ctx context.Context, t tree, p host.Profile, d Description) error {
	files, err := letGoFiles(p, d)
	if err != nil || !slices.ContainsFunc(files, func(f file) bool { return t.exists(f.Path) }) {
		return err
	}
	for _, f := range files {
		if err := t.remove(f.Path); err != nil {
			return err
		}
	}
	return networkdReload(ctx)
}

func (networkd) saved(context.Context, tree, host.Profile, Description) error { return nil }

func (n networkd) takeOver(ctx context.Context, t tree, p host.Profile, _ Description) error {
	return networkdReload(ctx)
}

// keepFile is the drop-in by which networkd is told, until the next boot, not to
// take a link's addresses off before it takes the link up again.
const keepFile = "50-drawbridge-keep.conf"

// giveBack lets networkd take the link up again without taking its addresses off
// first. What says so stays until the next boot, since networkd takes addresses
// off when it goes. Where the file is for other links too, they must not be taken
// up anew: then a copy for this link alone says it.
func (n networkd) giveBack(ctx context.Context, t tree, p host.Profile, d Description) error {
	source := d.Files[0]
	sections, _, err := networkdSections(t, source)
	if err != nil {
		return err
	}
	keep := section{"Network", []string{"KeepConfiguration=yes"}}
	file := "/run/systemd/network/" + path.Base(source) + ".d/" + keepFile
	text := []byte("# Drawbridge: until the next boot.\n[Network]\nKeepConfiguration=yes\n")
	effective := source
	if !aboutOne(sections) {
		name, err := ours(source, d.Link, ".network")
		if err != nil {
			return err
		}
		file = "/run/systemd/network/" + name
		effective = file
		all := func(string) bool { return true }
		text = networkFile("Drawbridge: until the next boot.\n"+fromHeader+source, d.Link, sections, all, []string{"Network.KeepConfiguration"}, []section{keep})
	}
	letGo, err := letGoFiles(p, d)
	if err != nil {
		return err
	}
	for _, f := range letGo {
		if err := t.remove(f.Path); err != nil {
			return err
		}
	}
	if err := t.write(file, text, 0o644, os.Getuid(), os.Getgid()); err != nil {
		return err
	}
	if err := networkdReload(ctx); err != nil {
		return err
	}
	if linkState(t, d.Link, "ADMIN_STATE") == "failed" {
		// It tried to put the link into the bridge again while that was being deleted.
		if err := networkdCall(ctx, "ReconfigureLink", int32(t.index(d.Link))); err != nil {
			return err
		}
	}
	return n.settled(ctx, t, d.Link, d, effective)
}

// fromHeader begins the line in a copy that says what it is a copy of.
const fromHeader = "# From: "

// copiedFrom is the file that source is a copy of; itself if it is none.
func copiedFrom(t tree, source string) string {
	for line := range strings.Lines(t.text(source)) {
		if from, ok := strings.CutPrefix(strings.TrimSpace(line), fromHeader); ok && strings.Contains(source, "-drawbridge-") {
			return from
		}
	}
	return source
}

// aboutOne says whether a file can match one link only.
func aboutOne(sections []section) bool {
	one := false
	settings(sections, func(sec, key, value string) {
		switch {
		case sec != "Match":
		case key == "Name" && !strings.ContainsAny(value, "*?[! "), (key == "MACAddress" || key == "PermanentMACAddress") && !strings.Contains(value, " "):
			one = true
		}
	})
	return one
}

func (n networkd) verify(ctx context.Context, t tree, p host.Profile, d Description) error {
	now, err := oursUntilBoot(d.Files[0], p.Bridge)
	if err != nil {
		return err
	}
	forGood, err := ours(d.Files[0], p.Bridge, ".network")
	if err != nil {
		return err
	}
	// Since a reboot, our file for good or netplan's own has taken the place of ours.
	return n.settled(ctx, t, p.Bridge, d, now, forGood, generated(p.Bridge))
}
