package host

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// VLANFlags say what a port does with the frames of a VLAN; the bits are those of
// linux/if_bridge.h (BRIDGE_VLAN_INFO_*).
type VLANFlags uint16

// A port has at most one PVID: the VLAN of what comes in without a tag. What leaves
// by the port in a VLAN that is Untagged leaves without one.
const (
	PVID     VLANFlags = 1 << 1
	Untagged VLANFlags = 1 << 2
)

// VLANSet is the VLANs (IEEE 802.1Q, 1 to 4094) that a port of a bridge, or the
// bridge itself, is in. As text, for Link.VLANs, it is "1 pvid untagged, 30, 40-49".
type VLANSet map[int]VLANFlags

// NoVLANs is the text of a port that no frame passes.
const NoVLANs = "none"

// DefaultVLAN is the VLAN that a bridge puts new ports and itself into (its
// default_pvid) unless it is told otherwise.
const DefaultVLAN = 1

// alone is the set of a port that nobody has put into any VLAN.
func alone(pvid int) VLANSet {
	if pvid == 0 {
		return VLANSet{}
	}
	return VLANSet{pvid: PVID | Untagged}
}

// Text writes the set; "" if it is what the bridge gives to every new port, given
// its default PVID (0 for none).
func (s VLANSet) Text(defaultPVID int) string {
	if maps.Equal(s, alone(defaultPVID)) {
		return ""
	}
	if len(s) == 0 {
		return NoVLANs
	}
	var parts []string
	for _, r := range s.Runs() {
		text := strconv.Itoa(r.First)
		if r.Last != r.First {
			text += "-" + strconv.Itoa(r.Last)
		}
		if r.Flags&PVID != 0 {
			text += " pvid"
		}
		if r.Flags&Untagged != 0 {
			text += " untagged"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// VLANRun is neighbouring VLANs with the same flags; one that has a PVID is one VLAN.
type VLANRun struct {
	First, Last int
	Flags       VLANFlags
}

// Runs lists the set in order, in as few runs as there can be.
func (s VLANSet) Runs() []VLANRun {
	var runs []VLANRun
	for _, id := range slices.Sorted(maps.Keys(s)) {
		if n := len(runs); n > 0 && runs[n-1].Last == id-1 && runs[n-1].Flags == s[id] && s[id]&PVID == 0 {
			runs[n-1].Last = id
			continue
		}
		runs = append(runs, VLANRun{id, id, s[id]})
	}
	return runs
}

// ParseVLANs reads what Text wrote.
func ParseVLANs(text string, defaultPVID int) (VLANSet, error) {
	switch text {
	case "":
		return alone(defaultPVID), nil
	case NoVLANs:
		return VLANSet{}, nil
	}
	s := VLANSet{}
	for part := range strings.SplitSeq(text, ", ") {
		words := strings.Split(part, " ")
		var flags VLANFlags
		for _, w := range words[1:] {
			switch w {
			case "pvid":
				flags |= PVID
			case "untagged":
				flags |= Untagged
			default:
				return nil, fmt.Errorf("VLANs %q: %q is neither pvid nor untagged", text, w)
			}
		}
		from, to, isRange := strings.Cut(words[0], "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || first < 1 || last > 4094 || last < first {
			return nil, fmt.Errorf("VLANs %q: %q is no VLAN", text, words[0])
		}
		for id := first; id <= last; id++ {
			s[id] = flags
		}
	}
	return s, nil
}
