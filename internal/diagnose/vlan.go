package diagnose

import (
	"fmt"
	"maps"
	"slices"

	"drawbridge/internal/host"
)

// bridgeOf is the bridge that frames enter which the host sends out at a link:
// the link itself, or the one below a VLAN interface; "" if it is neither.
func (c *courier) bridgeOf(link string) string {
	l := c.scene.Host.Links[link]
	if l.Kind == host.TypeVLAN {
		link, l = l.Lower, c.scene.Host.Links[l.Lower]
	}
	if l.Kind != host.TypeBridge {
		return ""
	}
	return link
}

// pvid is the VLAN of frames without a tag; 0 if there is none.
func pvid(set host.VLANSet) int {
	for id, flags := range set {
		if flags&host.PVID != 0 {
			return id
		}
	}
	return 0
}

// vlanOfLink is the VLAN on its bridge of a link of the host: a bridge or a VLAN
// interface on one. 0 where VLANs are not told apart.
func (c *courier) vlanOfLink(link string) int {
	l := c.scene.Host.Links[link]
	switch bridge := c.bridgeOf(link); {
	case bridge == "" || !c.scene.Host.Links[bridge].Filters:
		return 0
	case bridge == link:
		return pvid(l.VLANs)
	}
	return l.VID
}

// upper is the link at which the host sees frames of a VLAN of a bridge; "" if it
// sees none.
func (c *courier) upper(bridge string, vlan int) string {
	if vlan == 0 {
		return bridge
	}
	flags, in := c.scene.Host.Links[bridge].VLANs[vlan]
	if !in {
		return ""
	}
	if flags&host.Untagged != 0 {
		return bridge
	}
	for name, l := range c.scene.Host.Links {
		if l.Kind == host.TypeVLAN && l.Lower == bridge && l.VID == vlan && l.Up {
			return name
		}
	}
	return ""
}

// vlanOf is the VLAN that an end behind a port sends in: what the bridge learnt
// of it, what is known of it, or else that of frames without a tag. sure is
// false where it is a guess.
func (c *courier) vlanOf(e End) (vlan int, sure bool) {
	set := c.scene.Host.Links[e.Port].VLANs
	untagged := pvid(set)
	var seen []int
	for _, p := range c.scene.Places[e.Bridge][e.MAC] {
		if p.Port == e.Port && p.VLAN != 0 && !p.Fixed && !p.Local {
			seen = append(seen, p.VLAN)
		}
	}
	slices.Sort(seen)
	// One who carries tags has the address of the network that the host has there.
	for _, name := range c.linksOn(e.Bridge) {
		if id := c.vlanOfLink(name); e.Addr.IsValid() && len(set) > 1 && set[id]&host.PVID == 0 && c.subnetOn(name, e.Addr).IsValid() {
			if _, in := set[id]; in {
				return id, true
			}
		}
	}
	flags, carries := set[e.VLAN]
	switch {
	case len(seen) == 1:
		return seen[0], true
	case len(seen) > 1 && slices.Contains(seen, untagged):
		return untagged, false
	case len(seen) > 1:
		return seen[0], false
	case carries && flags&host.Untagged != 0 && flags&host.PVID == 0:
		return untagged, true // what it gets without a tag, it sends without one
	case e.VLAN != 0 && (carries || e.Kind == Outside):
		return e.VLAN, true
	}
	// A port that carries tags may have an end that sends with one.
	return untagged, len(set) == 1 && untagged != 0
}

// linksOn are the host's links on a bridge: itself, and VLAN interfaces.
func (c *courier) linksOn(bridge string) (names []string) {
	for name := range c.scene.Host.Links {
		if c.bridgeOf(name) == bridge {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// takenIn is the VLAN into which a bridge takes an end's frames, 0 if it does not
// tell them apart; false if it takes none.
func (c *courier) takenIn(from End) (vlan int, ok bool) {
	bridge, port := c.scene.Host.Links[from.Bridge], c.scene.Host.Links[from.Port]
	where := "port " + from.Port
	if port.Locked && from.MAC != "" && c.scene.Learned[from.Bridge][from.MAC] != from.Port && !c.fixedAt(from) {
		return 0, c.end(Dropped, where, "ip link set "+from.Port+" type bridge_slave locked off", "it is locked, and %s is not known behind it", from.MAC)
	}
	if !bridge.Filters {
		return 0, true
	}
	vlan, _ = c.vlanOf(from)
	if vlan == 0 {
		return 0, c.end(Dropped, where, fmt.Sprintf("bridge vlan add dev %s vid VLAN pvid untagged", from.Port), "it takes no frames without a tag: it has no VLAN for them (no PVID)")
	}
	if _, in := port.VLANs[vlan]; !in {
		return 0, c.end(Dropped, where, c.mendVLAN(from, vlan, false), "different VLANs: %s is in VLAN %d, and the port in %s", nameOf(from), vlan, listVLANs(port.VLANs))
	}
	c.add(where, "its frames are in VLAN %d", vlan)
	return vlan, true
}

// isIn says whether an outside end hears what is sent in a VLAN, where the host has
// the end's network in another.
func (c *courier) isIn(e End, vlan int) bool {
	other, link := 0, ""
	for _, name := range c.linksOn(e.Bridge) {
		if !c.subnetOn(name, e.Addr).IsValid() {
			continue
		}
		if other, link = c.vlanOfLink(name), name; other == vlan {
			return true
		}
	}
	if e.Kind != Outside || other == 0 {
		return true
	}
	seen := false
	for _, p := range c.scene.Places[e.Bridge][c.scene.Neighbours[link][e.Addr].MAC] {
		if p.VLAN == vlan {
			return true
		}
		seen = seen || p.VLAN == other
	}
	if !seen {
		return c.end(Unknown, "bridge "+e.Bridge, "", "the frame is in VLAN %d, and the host has the network of %s in %d: whether that is in %d too is not known", vlan, e.Addr, other, vlan)
	}
	return c.end(Dropped, "bridge "+e.Bridge, "", "different VLANs: the frame is in VLAN %d, and %s is in %d", vlan, e.Addr, other)
}

func (c *courier) fixedAt(e End) bool {
	return slices.ContainsFunc(c.scene.Places[e.Bridge][e.MAC], func(p Place) bool { return p.Fixed && p.Port == e.Port })
}

// hostSends is the VLAN of what the host sends out at a link.
func (c *courier) hostSends(link string) (vlan int, ok bool) {
	bridge := c.bridgeOf(link)
	b := c.scene.Host.Links[bridge]
	if !b.Filters {
		return 0, true
	}
	vlan = c.vlanOfLink(link)
	if vlan == 0 {
		return 0, c.end(Dropped, "bridge "+bridge, fmt.Sprintf("bridge vlan add dev %s vid VLAN pvid untagged self", bridge), "the host is in no VLAN of it for frames without a tag (no PVID)")
	}
	if _, in := b.VLANs[vlan]; !in {
		return 0, c.end(Dropped, "bridge "+bridge, fmt.Sprintf("bridge vlan add dev %s vid %d self", bridge, vlan), "%s is of VLAN %d, and the host is not in that on the bridge", link, vlan)
	}
	return vlan, true
}

// givenOut says whether a frame of a VLAN leaves by an end's port, and so that
// the end takes it.
func (c *courier) givenOut(to End, vlan int, sender string) bool {
	if vlan == 0 {
		return true
	}
	set, where := c.scene.Host.Links[to.Port].VLANs, "port "+to.Port
	flags, in := set[vlan]
	theirs, sure := c.vlanOf(to)
	if !in {
		return c.end(Dropped, where, c.mendVLAN(to, vlan, false), "different VLANs: what %s sends is in VLAN %d, and %s's port in %s", sender, vlan, nameOf(to), listVLANs(set))
	}
	tagged := flags&host.Untagged == 0
	switch {
	case to.Kind == Outside && tagged:
		c.add(where, "goes out with the tag of VLAN %d", vlan)
		return true
	case !tagged:
		return true
	case theirs == vlan && vlan == pvid(set):
		return c.end(Dropped, where, fmt.Sprintf("bridge vlan add dev %s vid %d pvid untagged", to.Port, vlan), "it comes out with the tag of VLAN %d, though %s sends without one", vlan, nameOf(to))
	case theirs == vlan:
		return true
	case sure:
		return c.end(Dropped, where, c.mendVLAN(to, vlan, false), "different VLANs: what %s sends is in VLAN %d, and %s is in %d", sender, vlan, nameOf(to), theirs)
	}
	return c.end(Unknown, where, "", "it comes out with the tag of VLAN %d, and whether %s takes that is not known", vlan, nameOf(to))
}

// mendVLAN puts an end into a VLAN.
func (c *courier) mendVLAN(e End, vlan int, self bool) string {
	if vlan == 0 {
		return ""
	}
	if e.Kind == Guest {
		old := pvid(c.scene.Host.Links[e.Port].VLANs)
		text := fmt.Sprintf("bridge vlan add dev %s vid %d pvid untagged", e.Port, vlan)
		if old != 0 && old != vlan {
			text += fmt.Sprintf("; bridge vlan del dev %s vid %d", e.Port, old)
		}
		return text
	}
	if self {
		return fmt.Sprintf("bridge vlan add dev %s vid %d self", e.Bridge, vlan)
	}
	return fmt.Sprintf("bridge vlan add dev %s vid %d", e.Port, vlan)
}

func listVLANs(set host.VLANSet) string {
	ids := slices.Sorted(maps.Keys(set))
	switch len(ids) {
	case 0:
		return "none"
	case 1:
		return fmt.Sprint(ids[0])
	}
	return host.VLANSet.Text(set, 0)
}

// placed says whether a bridge sends frames for an end to the end's port; own are
// those that the host itself sends, for which it does not ask whether the address is
// its own too (br_dev_xmit).
func (c *courier) placed(bridge string, to End, vlan int, own bool) bool {
	if to.MAC == "" {
		return true
	}
	port := c.scene.Host.Links[to.Port]
	known := false
	for _, p := range c.scene.Places[bridge][to.MAC] {
		if vlan != p.VLAN {
			continue
		}
		del := fmt.Sprintf("bridge fdb del %s dev %s master", to.MAC, p.Port)
		if vlan != 0 {
			del += fmt.Sprintf(" vlan %d", vlan)
		}
		switch {
		case p.Local && own && p.Port == to.Port:
		case p.Local:
			return c.end(Dropped, "bridge "+bridge, del, "it takes frames for %s, which is %s's address, for the host's own", to.MAC, nameOf(to))
		case p.Fixed && p.Port != to.Port:
			return c.end(Dropped, "bridge "+bridge, del, "somebody told it that %s is behind %s; it is %s, behind %s", to.MAC, p.Port, nameOf(to), to.Port)
		}
		known = known || p.Port == to.Port
	}
	if !known && port.NoFlood && port.NoLearning {
		return c.end(Dropped, "port "+to.Port, "ip link set "+to.Port+" type bridge_slave learning on flood on", "the bridge learns no addresses behind it, and sends nothing there for those it does not know")
	}
	return true
}
