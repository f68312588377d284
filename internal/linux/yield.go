package linux

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// yieldRoutes deletes the routes over a link that is about to go where others lead
// to the same destinations. While it still stands without its port, those would be
// used that have the better metric: a DHCP client gives the subnet's route another
// one when it takes up an address that has been moved (systemd-networkd makes it 0).
func (h *Host) yieldRoutes(going string) error {
	type place struct {
		dst, from  netip.Prefix
		table, tos int
	}
	seen := host.State{}
	names, err := h.allLinks(host.State{})
	if err != nil {
		return err
	}
	if err := h.allRoutes(seen, names); err != nil {
		return err
	}
	others := map[place]bool{}
	var over []host.Route
	for _, r := range seen {
		r := r.(host.Route)
		at := place{r.Dst, r.From, r.Table, r.TOS}
		switch {
		case r.Type != unix.RTN_UNICAST || r.Dst.Addr().IsLinkLocalUnicast():
		case r.Link == going:
			over = append(over, r)
		default:
			others[at] = true
		}
	}
	for _, r := range over {
		if !others[place{r.Dst, r.From, r.Table, r.TOS}] {
			continue
		}
		if err := h.deleteRoute(r); err != nil {
			return fmt.Errorf("delete %s: %w", r.Key(), err)
		}
	}
	return nil
}
