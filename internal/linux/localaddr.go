package linux

import (
	"context"
	"fmt"
	"net/netip"

	"drawbridge/internal/host"
)

// LocalAddrs is the set of addresses that links of this host have; beside these
// all of 127.0.0.0/8 is local. It costs a question about addresses, and nothing
// for rules, however many there are.
func (h *Host) LocalAddrs(ctx context.Context) (map[netip.Addr]bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	local := map[netip.Addr]bool{}
	err := h.rtnl.addresses(0, func(a host.Address, _ int) { local[a.Addr.Addr()] = true })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return local, nil
}
