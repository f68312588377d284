package nettest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// The addresses of the LAN that every end-to-end test and the demo live on.
const (
	LANPrefix4 = "192.168.99.0/24"
	LANPrefix6 = "fd00:99::/64"
	HostA4     = "192.168.99.66"
	HostA6     = "fd00:99::66"
	Router4    = "192.168.99.1"
	Router6    = "fd00:99::1"
	Machine4   = "192.168.99.10"
	Machine6   = "fd00:99::10"
	Beyond4    = "203.0.113.1" // an internet address (RFC 5737); the router answers for it
	Beyond6    = "2001:db8:203::1"
	HostANIC   = "enp6s18"
)

// LAN is a segment with three machines: host A, on which the program under test runs, its router,
// which is also the rest of the internet, and another machine. Router and machine have a web server
// on port 80 that says which address a request came from; the router answers DNS, see Upstream.
type LAN struct {
	Switch  *Node // only the bridge that is the cable
	HostA   *Node
	Router  *Node
	Machine *Node
	DNS     *Upstream

	services []interface{ Close() error }
	log      *slog.Logger
}

// NewLAN makes the segment. It needs root and touches nothing of the machine below. Several can
// stand side by side. Close it.
func NewLAN(ctx context.Context, log *slog.Logger) (*LAN, error) {
	lan := &LAN{log: log}
	if err := lan.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build the LAN: %w", err), lan.Close())
	}
	return lan, nil
}

func (lan *LAN) build(ctx context.Context) error {
	const resolv = "nameserver " + Router4 + "\n"
	for _, made := range []struct {
		name string
		node **Node
	}{{"switch", &lan.Switch}, {"router", &lan.Router}, {"host-a", &lan.HostA}, {"machine", &lan.Machine}} {
		node, err := NewNode(ctx, made.name, resolv)
		if err != nil {
			return err
		}
		*made.node = node
	}
	cable := []string{"link add lan0 type bridge forward_delay 0", "link set lan0 up"}
	for _, end := range []struct {
		port, nic string
		node      *Node
	}{{"p-router", "eth0", lan.Router}, {"p-host-a", HostANIC, lan.HostA}, {"p-machine", "eth0", lan.Machine}} {
		cable = append(cable,
			fmt.Sprintf("link add %s type veth peer name %s netns %d", end.port, end.nic, end.node.PID()),
			fmt.Sprintf("link set %s master lan0 up", end.port))
	}
	if err := lan.Switch.IP(ctx, cable...); err != nil {
		return err
	}
	if err := configure(ctx, lan.Router, "eth0", Router4, Router6, false); err != nil {
		return err
	}
	if err := lan.Router.IP(ctx, "addr add "+Beyond4+"/32 dev lo", "addr add "+Beyond6+"/128 dev lo"); err != nil {
		return err
	}
	if err := configure(ctx, lan.HostA, HostANIC, HostA4, HostA6, true); err != nil {
		return err
	}
	if err := configure(ctx, lan.Machine, "eth0", Machine4, Machine6, true); err != nil {
		return err
	}
	return lan.serve()
}

// configure gives a node's NIC its addresses. Without duplicate address detection an address can
// be used at once, not after a second.
func configure(ctx context.Context, n *Node, nic, v4, v6 string, defaults bool) error {
	lines := []string{
		"link set " + nic + " up",
		"addr add " + v4 + "/24 broadcast + dev " + nic,
		"addr add " + v6 + "/64 dev " + nic + " nodad",
	}
	if defaults {
		lines = append(lines,
			"route add default via "+Router4+" dev "+nic,
			"route add ::/0 via "+Router6+" dev "+nic)
	}
	return n.IP(ctx, lines...)
}

// serve starts what answers on the router and on the machine.
func (lan *LAN) serve() error {
	for _, n := range []*Node{lan.Router, lan.Machine} {
		web, err := serveWho(n)
		if err != nil {
			return err
		}
		lan.services = append(lan.services, web)
	}
	dns, err := serveDNS(lan.Router)
	if err != nil {
		return err
	}
	lan.DNS = dns
	lan.services = append(lan.services, dns)
	return nil
}

// Close ends everything that runs on the LAN and takes it away.
func (lan *LAN) Close() error {
	var errs []error
	for _, s := range lan.services {
		errs = append(errs, s.Close())
	}
	for _, n := range []*Node{lan.HostA, lan.Machine, lan.Router, lan.Switch} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}
