package spec

import (
	"slices"
	"strconv"
	"strings"
)

// MaxVLAN is the largest VLAN id (IEEE 802.1Q, 9.6: 4095 is reserved). VLAN 1 is what
// has no tag on the LAN, as on a switch that nobody told otherwise.
const MaxVLAN = 4094

// VLANs is a set of VLAN ids as text, in order and without overlap: "30,40-49".
// ParseVLANs makes one of what people type.
type VLANs string

// Tags says in which VLANs of the LAN a guest's NIC is. The zero value is none: it
// is on the LAN as the host is, without tags.
type Tags struct {
	// VLAN is the one that the guest is in without knowing of it: what it sends and
	// gets has no tag. 0 is none.
	VLAN int `json:",omitempty"`
	// Trunk are the VLANs whose frames the guest sends and gets with their tags.
	Trunk VLANs `json:",omitempty"`
}

// IsZero says whether nothing is said about VLANs.
func (t Tags) IsZero() bool { return t == Tags{} }

// IDs lists all VLANs of the tags that have a tag on the LAN, in order.
func (t Tags) IDs() []int {
	ids := t.Trunk.IDs()
	if t.VLAN != 0 {
		ids = append(ids, t.VLAN)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return slices.DeleteFunc(ids, func(id int) bool { return id == 1 })
}

// IDs lists the set in order.
func (v VLANs) IDs() []int {
	var ids []int
	if v == "" {
		return nil
	}
	for part := range strings.SplitSeq(string(v), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || last > MaxVLAN {
			return ids // none that ParseVLANs made
		}
		for id := first; id <= last; id++ {
			ids = append(ids, id)
		}
	}
	return ids
}

// ParseVLANs reads ids and ranges by comma, in any order; *InvalidError of the
// field if it cannot.
func ParseVLANs(field, text string) (VLANs, error) {
	var in [MaxVLAN + 2]bool
	if text == "" {
		return "", nil
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err1 := ParseVLAN(field, from)
		last, err2 := ParseVLAN(field, to)
		if err1 != nil || err2 != nil || last < first {
			return "", invalid(field, "%q is no list of VLANs such as 30,40-49 (1 to %d)", text, MaxVLAN)
		}
		for id := first; id <= last; id++ {
			in[id] = true
		}
	}
	var parts []string
	for id := 1; id <= MaxVLAN; id++ {
		if !in[id] {
			continue
		}
		first := id
		for in[id+1] {
			id++
		}
		part := strconv.Itoa(first)
		if id > first {
			part += "-" + strconv.Itoa(id)
		}
		parts = append(parts, part)
	}
	return VLANs(strings.Join(parts, ",")), nil
}

// ParseVLAN reads one VLAN id.
func ParseVLAN(field, text string) (int, error) {
	id, err := strconv.Atoi(text)
	if err != nil || id < 1 || id > MaxVLAN || text[0] == '+' {
		return 0, invalid(field, "%q is no VLAN (1 to %d)", text, MaxVLAN)
	}
	return id, nil
}

// ParseTags reads both as people type them; 0 and "" are none.
func ParseTags(vlan int, trunk string) (Tags, error) {
	if vlan < 0 || vlan > MaxVLAN {
		return Tags{}, invalid("vlan", "%d is no VLAN (1 to %d)", vlan, MaxVLAN)
	}
	t, err := ParseVLANs("vlan-trunk", trunk)
	if err == nil && vlan != 0 && slices.Contains(t.IDs(), vlan) {
		err = invalid("vlan-trunk", "VLAN %d is what has no tag for the guest (--vlan); it cannot have one too", vlan)
	}
	return Tags{VLAN: vlan, Trunk: t}, err
}

// Validate checks the tags by themselves.
func (t Tags) Validate() error {
	same, err := ParseTags(t.VLAN, string(t.Trunk))
	if err == nil && same != t {
		err = invalid("vlan-trunk", "%q is not in order; write %q", t.Trunk, same.Trunk)
	}
	return err
}
