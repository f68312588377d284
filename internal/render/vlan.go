package render

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Members are the VLANs of a guest's port, as host.Link.VLANs has them: of a trunk
// those that were named and no others, so that what has no tag is dropped unless a
// VLAN was named for it.
func Members(t spec.Tags) string {
	if t.IsZero() {
		return ""
	}
	set := host.VLANSet{}
	for _, id := range t.Trunk.IDs() {
		set[id] = 0
	}
	if t.VLAN != 0 {
		set[t.VLAN] = host.PVID | host.Untagged
	}
	return set.Text(host.DefaultVLAN)
}

// TagsOf reads the VLANs of a guest's port back; zero if they are those of every
// new port.
func TagsOf(l host.Link) spec.Tags {
	set, err := host.ParseVLANs(l.VLANs, host.DefaultVLAN)
	if l.VLANs == "" || err != nil {
		return spec.Tags{}
	}
	var t spec.Tags
	var trunk []string
	for _, id := range slices.Sorted(maps.Keys(set)) {
		if set[id]&host.PVID != 0 {
			t.VLAN = id
			continue
		}
		trunk = append(trunk, strconv.Itoa(id))
	}
	t.Trunk, _ = spec.ParseVLANs("", strings.Join(trunk, ","))
	return t
}

// TakesVLANs says why a guest's port on the network cannot be in a VLAN; nil if it can.
func TakesVLANs(n spec.Network) error {
	if n.Mode != (bridged{}).Name() {
		return &spec.InvalidError{Field: "vlan", Reason: fmt.Sprintf("VLANs are the LAN's, and network %q of mode %s is not on it; a network of mode bridged is", n.Name, n.Mode)}
	}
	return nil
}

// tagged are all tags that are in use on a network: its own, and those of ports.
func (f Facts) tagged(n spec.Network) []spec.Tags {
	tags := slices.Clone(f.PortTags[n.Name])
	if !n.Tags.IsZero() {
		tags = append(tags, n.Tags)
	}
	return tags
}

// tellApart has the bridge of a network tell VLANs apart, if it has to, with the
// uplinks as trunks: they carry the VLANs of guests with tags, and what has none as
// before, which is the host's own. What others put in there stays. links are the
// bridge and the uplinks as they shall be otherwise; they are changed.
func (f Facts) tellApart(n spec.Network, links host.State) ([]Note, error) {
	had, existed := f.Had.Networks[n.Name]
	asked := f.Moving[n.Name] || existed && (had.Tags != n.Tags || !had.Started)
	tags := f.tagged(n)
	br := links[host.LinkKey(n.Bridge)].(host.Link)
	_, can := f.Seen[host.FeatureKey(host.BridgeVLANs)]
	switch {
	case len(tags) == 0 && existed && !had.Tags.IsZero() && !n.Adopt:
		for k, r := range links {
			l := r.(host.Link)
			l.Filter, l.VLANs = false, ""
			links[k] = l
		}
		return nil, nil
	case len(tags) == 0:
		return nil, nil
	case !can && asked:
		return nil, &spec.InvalidError{Field: "vlan", Reason: "the bridges of this kernel cannot tell VLANs apart (it was built without CONFIG_BRIDGE_VLAN_FILTERING); another way is a VLAN interface of the host's as --uplink, one for each network"}
	case n.Adopt && !br.Filter && asked:
		return nil, &spec.InvalidError{Field: "vlan", Reason: fmt.Sprintf("bridge %s does not tell VLANs apart, and an adopted bridge is used as it is; turn it on where it is made (ip link set %s type bridge vlan_filtering 1)", n.Bridge, n.Bridge)}
	case !can || n.Adopt:
		return nil, nil // Trouble says so
	}
	var ids []int
	for _, t := range tags {
		ids = append(ids, t.IDs()...)
	}
	for _, u := range n.Uplinks {
		if by := f.takenBy(u, ids); by != "" && asked {
			return nil, &spec.InvalidError{Field: "vlan", Reason: by}
		}
	}
	own := f.standing(n.Bridge)
	gone := slices.DeleteFunc(had.Tags.IDs(), func(id int) bool { return slices.Contains(ids, id) || slices.Contains(own, id) })
	var notes []Note
	if asked {
		notes = append(notes, Note(fmt.Sprintf("what %s leads to must carry VLAN %s with tags; the host's own frames stay without", strings.Join(n.Uplinks, ", "), listed(ids))))
	}
	if seen, there := f.Seen[br.Key()].(host.Link); there && !seen.Filter {
		notes = append(notes, Note("bridge "+n.Bridge+" begins to tell VLANs apart: tagged frames of guests that are in no VLAN pass no more"))
	}
	br.Filter, br.VLANs = true, widened(br.VLANs, own, nil)
	links[br.Key()] = br
	for _, u := range n.Uplinks {
		if l, ok := links[host.LinkKey(u)].(host.Link); ok {
			l.VLANs = widened(l.VLANs, slices.Concat(ids, own), gone)
			links[l.Key()] = l
		}
	}
	return notes, nil
}

// standing lists the VLANs of the host's own links that stand on a bridge.
func (f Facts) standing(bridge string) []int {
	var ids []int
	for _, r := range f.Seen {
		if l, ok := r.(host.Link); ok && l.Type == host.TypeVLAN && l.Lower == bridge {
			ids = append(ids, l.VID)
		}
	}
	return ids
}

// takenBy says which VLAN interface on an uplink keeps guests from a VLAN: it takes
// its frames before the bridge could (vlan_do_receive in net/8021q/vlan_core.c).
func (f Facts) takenBy(uplink string, ids []int) string {
	for _, k := range f.Seen.Keys() {
		l, ok := f.Seen[k].(host.Link)
		if ok && l.Type == host.TypeVLAN && l.Lower == uplink && slices.Contains(ids, l.VID) {
			return fmt.Sprintf("%s takes the frames of VLAN %d before they come to a bridge; name it as the --uplink of a network of its own, or delete it", l.Name, l.VID)
		}
	}
	return ""
}

// widened adds VLANs with tags to those that a link is in, however it is in them,
// and takes away such of gone as have tags.
func widened(text string, ids, gone []int) string {
	set, err := host.ParseVLANs(text, host.DefaultVLAN)
	if err != nil {
		return text
	}
	for _, id := range gone {
		if set[id] == 0 {
			delete(set, id)
		}
	}
	for _, id := range ids {
		if _, in := set[id]; !in {
			set[id] = 0
		}
	}
	return set.Text(host.DefaultVLAN)
}

func listed(ids []int) string {
	var words []string
	for _, id := range ids {
		words = append(words, strconv.Itoa(id))
	}
	list, err := spec.ParseVLANs("", strings.Join(words, ","))
	if err != nil {
		return strings.Join(words, ",")
	}
	return string(list)
}

// Trunk is what the bridge and the uplinks of a running network have to be for the
// ports in f.PortTags; an error if the kernel or the bridge cannot.
func Trunk(n spec.Network, f Facts) (host.State, error) {
	links := linksOf(n, f.Seen)
	if _, there := links[host.LinkKey(n.Bridge)]; !there {
		return nil, &spec.InvalidError{Field: "vlan", Reason: "bridge " + n.Bridge + " is not there"}
	}
	f.Had, f.Moving = spec.Document{}, map[spec.NetworkName]bool{n.Name: true}
	if _, err := f.tellApart(n, links); err != nil {
		return nil, err
	}
	return links, nil
}

// linksOf are the bridge and those uplinks that are plugged into it.
func linksOf(n spec.Network, seen host.State) host.State {
	links := host.State{}
	if br, there := seen[host.LinkKey(n.Bridge)].(host.Link); there && br.Type == host.TypeBridge {
		links.Add(br)
	}
	for _, u := range n.Uplinks {
		if l, there := seen[host.LinkKey(u)].(host.Link); there && l.Master == n.Bridge {
			links.Add(l)
		}
	}
	return links
}
