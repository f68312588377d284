package hostconf

import (
	"encoding/xml"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// LibvirtNetwork is a network that libvirt defines, as its files say.
type LibvirtNetwork struct {
	Name, Bridge, Mode string
	Subnets            []netip.Prefix
	// Active: libvirt has started it. Autostart: it will with the next boot.
	Active, Autostart bool
}

// The folders of libvirt's network driver, and of those that it has started.
const (
	libvirtNetworks = "/etc/libvirt/qemu/networks"
	libvirtStarted  = "/run/libvirt/network"
)

type libvirtXML struct {
	Name    string `xml:"name"`
	Forward *struct {
		Mode string `xml:"mode,attr"`
	} `xml:"forward"`
	Bridge struct {
		Name string `xml:"name,attr"`
	} `xml:"bridge"`
	IP []struct {
		Family  string `xml:"family,attr"`
		Address string `xml:"address,attr"`
		Netmask string `xml:"netmask,attr"`
		Prefix  int    `xml:"prefix,attr"`
	} `xml:"ip"`
}

// LibvirtNetworks reads what libvirt's network driver has on this host, without
// asking it: it may not run. Files that are not libvirt's are passed over.
func LibvirtNetworks() []LibvirtNetwork { return libvirtIn(tree{}) }

func libvirtIn(t tree) []LibvirtNetwork {
	byName := map[string]int{}
	var all []LibvirtNetwork
	for _, file := range t.glob(libvirtNetworks + "/*.xml") {
		n, ok := parseLibvirt([]byte(t.text(file)))
		if !ok {
			continue
		}
		n.Autostart = t.exists(libvirtNetworks + "/autostart/" + path.Base(file))
		byName[n.Name] = len(all)
		all = append(all, n)
	}
	for _, file := range t.glob(libvirtStarted + "/*.xml") {
		// <networkstatus> has the network as it is, beside other things.
		_, rest, _ := strings.Cut(t.text(file), "<network>")
		n, ok := parseLibvirt([]byte("<network>" + rest))
		if !ok {
			continue
		}
		// One that was killed leaves its file: its bridge tells.
		n.Active = n.Bridge == "" || t.isLink(n.Bridge)
		if i, known := byName[n.Name]; known {
			n.Autostart = all[i].Autostart
			all[i] = n
			continue
		}
		all = append(all, n)
	}
	return all
}

func parseLibvirt(b []byte) (LibvirtNetwork, bool) {
	var x libvirtXML
	if xml.NewDecoder(strings.NewReader(string(b))).Decode(&x) != nil || x.Name == "" {
		return LibvirtNetwork{}, false
	}
	n := LibvirtNetwork{Name: x.Name, Bridge: x.Bridge.Name, Mode: "isolated"}
	if x.Forward != nil {
		if n.Mode = x.Forward.Mode; n.Mode == "" {
			n.Mode = "nat" // network_conf.c: a forward without a mode
		}
	}
	for _, ip := range x.IP {
		a, err := netip.ParseAddr(ip.Address)
		if err != nil {
			continue
		}
		bits := ip.Prefix
		if m, err := netip.ParseAddr(ip.Netmask); err == nil && bits == 0 {
			bits = maskBits(m)
		}
		if bits == 0 {
			bits = 24
			if a.Is6() {
				bits = 64
			}
		}
		if p := netip.PrefixFrom(a, bits); p.IsValid() {
			n.Subnets = append(n.Subnets, p)
		}
	}
	return n, true
}

func maskBits(mask netip.Addr) int {
	bits := 0
	for _, b := range mask.AsSlice() {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
	}
	return bits
}

// NameServers are those of /etc/resolv.conf (resolv.conf(5)); nil if it cannot be
// read.
func NameServers() []netip.Addr { return nameServersIn(tree{}) }

func nameServersIn(t tree) []netip.Addr {
	text, err := t.read("/etc/resolv.conf")
	if err != nil || text == nil {
		return nil
	}
	servers := []netip.Addr{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			servers = append(servers, a.WithZone(""))
		}
	}
	return servers
}

// Taker is a manager of the host's network that would take links of ours.
type Taker struct {
	Manager string
	// Links are names, with * as in a shell.
	Links []string
	Why   string
	// Fix tells the manager of all of them before it reads its files anew: for one
	// alone it would take the others.
	Fix string
}

// Takers says which of the given links systemd-networkd would make its own with
// its next reload: those that one of its files matches, while none that comes first
// says that they are nobody's. (NetworkManager leaves links alone that it did not make.)
func Takers(links []string) []Taker { return takersIn(tree{}, links) }

func takersIn(t tree, links []string) []Taker {
	if !t.running("systemd-network") {
		return nil
	}
	var free []string
	for _, dir := range []string{"/etc/systemd/network", "/run/systemd/network"} {
		for _, file := range t.glob(dir + "/0*.network") { // as early as ours, 06-
			free = append(free, unmanagedBy(t.text(file))...)
		}
	}
	one := Taker{Manager: "systemd-networkd", Why: "one of its .network files matches them"}
	for _, link := range links {
		told := slices.ContainsFunc(free, func(pattern string) bool { ok, _ := path.Match(pattern, link); return ok || pattern == link })
		if !told && networkdMayTake(t, link, t.mac(link)) {
			one.Links = append(one.Links, link)
		}
	}
	if len(one.Links) == 0 {
		return nil
	}
	one.Fix = "printf '[Match]\\nName=" + strings.Join(one.Links, " ") + "\\n[Link]\\nUnmanaged=yes\\n' > /etc/systemd/network/05-guests.network && networkctl reload"
	return []Taker{one}
}

// unmanagedBy reads from a .network file which links it says are nobody's.
func unmanagedBy(text string) (names []string) {
	free := false
	settings(parseSections(text), func(section, key, value string) {
		switch {
		case section == "Match" && key == "Name":
			names = strings.Fields(value)
		case section == "Link" && key == "Unmanaged":
			free = value == "yes" || value == "true"
		}
	})
	if !free {
		return nil
	}
	return names
}
