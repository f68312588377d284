package engine

import (
	"context"
	"fmt"
	"os"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// direct refuses what a guest that shares a NIC cannot have.
func direct(p host.Port, r PortRequest) error {
	switch {
	case p.Persistent:
		return &spec.InvalidError{Field: "network", Reason: fmt.Sprintf("a NIC on network %q of mode direct cannot be opened by name; use drawbridge qemu, or let the other program make its own macvtap on %s", p.Network, p.NIC)}
	case r.NoMAC:
		return &spec.InvalidError{Field: "network", Reason: fmt.Sprintf("network %q has no bridge; use drawbridge qemu", p.Network)}
	}
	return nil
}

// openTap makes the port's link: a tap, or a macvtap on the NIC.
func (e *Engine) openTap(p host.Port, queues int) ([]*os.File, error) {
	if p.NIC != "" {
		return e.Taps.OpenDirect(p.Tap, p.NIC, p.MAC, queues)
	}
	return e.Taps.OpenTap(p.Tap, queues, p.Owner, p.Persistent)
}

// directTaps are the macvtaps among the live ports.
func (e *Engine) directTaps() []string {
	var taps []string
	for _, p := range e.live {
		if p.NIC != "" {
			taps = append(taps, p.Tap)
		}
	}
	return taps
}

// released are macvtaps whose guest has ended: the kernel keeps them.
func (e *Engine) released(ctx context.Context) ([]string, error) {
	taps := e.directTaps()
	if len(taps) == 0 {
		return nil, nil
	}
	free, err := e.Taps.Released(ctx, taps)
	if err != nil {
		return nil, fmt.Errorf("look for guests that ended: %w", err)
	}
	return free, nil
}
