package topology

import (
	"strconv"
	"strings"

	"drawbridge/internal/host"
)

// vlans says in a port's or NIC's own words which VLANs it is in: the one of a VLAN
// interface, and those of a port whose bridge tells VLANs apart.
func (b *builder) vlans(l host.Link) []string {
	if l.VID != 0 {
		return []string{strconv.Itoa(l.VID)}
	}
	if l.VLANs == "" || !b.links[l.Master].Filter {
		return nil
	}
	set, err := host.ParseVLANs(l.VLANs, host.DefaultVLAN)
	if err != nil {
		return nil
	}
	var plain, tagged []string
	for _, r := range set.Runs() {
		text := strconv.Itoa(r.First)
		if r.Last != r.First {
			text += "-" + strconv.Itoa(r.Last)
		}
		if r.Flags&host.Untagged != 0 {
			plain = append(plain, text)
		} else {
			tagged = append(tagged, text)
		}
	}
	switch {
	case len(tagged) > 0:
		return append(plain, strings.Join(tagged, ",")+" tagged")
	case len(plain) == 0:
		return []string{"no VLAN"}
	}
	return plain
}
