package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

func (a *app) reservationCommand() *cobra.Command {
	group := &cobra.Command{
		Use: "reservation", Short: "Addresses that belong to certain guests",
		Example: "  drawbridge reservation add default 52:54:00:12:34:56 192.168.122.57 --hostname web\n  drawbridge reservation ls",
	}
	group.AddCommand(a.reservationAdd(), a.reservationList(), a.reservationRemove())
	return group
}

func (a *app) reservationAdd() *cobra.Command {
	var flags changeFlags
	var r api.Reservation
	c := &cobra.Command{
		Use: "add NETWORK MAC IP", Short: "Give a guest always the same address", Args: cobra.ExactArgs(3),
		Example:           "  drawbridge reservation add default 52:54:00:12:34:56 192.168.122.57 --hostname web",
		ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			r.MAC, r.IP = args[1], args[2]
			return a.change("reserve "+r.IP, func() (api.Change, error) { return a.client.Reserve(c.Context(), args[0], r, flags.Options) })
		},
	}
	c.Flags().StringVar(&r.Hostname, "hostname", "", "`NAME` that DNS answers with (default: what the guest calls itself)")
	flags.dryRun(c)
	return c
}

func (a *app) reservationList() *cobra.Command {
	return &cobra.Command{
		Use: "ls [NETWORK]", Aliases: []string{"list"}, Short: "List reservations", Args: cobra.MaximumNArgs(1),
		Example: "  drawbridge reservation ls", ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			rs, err := a.client.Reservations(c.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			return a.show(rs, func(w *writer) {
				var rows [][]cell
				for _, r := range rs {
					rows = append(rows, cells(r.Network, r.MAC, r.IP, r.Hostname))
				}
				w.table([]string{"NETWORK", "MAC", "ADDRESS", "HOSTNAME"}, rows)
			})
		},
	}
}

func (a *app) reservationRemove() *cobra.Command {
	var flags changeFlags
	c := &cobra.Command{
		Use: "rm NETWORK MAC", Short: "Take a reservation back", Args: cobra.ExactArgs(2),
		Example:           "  drawbridge reservation rm default 52:54:00:12:34:56",
		ValidArgsFunction: a.completeReservation,
		RunE: func(c *cobra.Command, args []string) error {
			return a.change("remove reservation", func() (api.Change, error) {
				return a.client.Unreserve(c.Context(), args[0], args[1], flags.Options)
			})
		},
	}
	flags.dryRun(c)
	return c
}

// onNetwork keeps what is on the network that args names, if it names one; it fails if
// there is no such network.
func onNetwork[T any](c *cobra.Command, a *app, args []string, list []T, network func(T) string) ([]T, error) {
	if len(args) == 0 {
		return list, nil
	}
	list = slices.DeleteFunc(list, func(x T) bool { return network(x) != args[0] })
	if len(list) > 0 {
		return list, nil
	}
	_, err := a.client.Network(c.Context(), args[0])
	return list, err
}

func (a *app) leaseCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls [NETWORK]", Aliases: []string{"list"}, Short: "List the addresses given to guests", Args: cobra.MaximumNArgs(1),
		Example: "  drawbridge lease ls\n  drawbridge lease ls default", ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			leases, err := a.client.Leases(c.Context())
			if err != nil {
				return err
			}
			if leases, err = onNetwork(c, a, args, leases, func(l api.Lease) string { return l.Network }); err != nil {
				return err
			}
			return a.show(leases, func(w *writer) {
				var rows [][]cell
				for _, l := range leases {
					rows = append(rows, cells(l.Network, l.Address, l.MAC, l.Guest, l.Hostname, expiry(l.Expires, a.now())))
				}
				w.table([]string{"NETWORK", "ADDRESS", "MAC", "GUEST", "HOSTNAME", "EXPIRES"}, rows)
			})
		},
	}
	group := &cobra.Command{Use: "lease", Short: "Addresses given to guests by DHCP", Example: "  drawbridge lease ls"}
	group.AddCommand(ls)
	return group
}

func expiry(at *time.Time, now time.Time) string {
	switch {
	case at == nil:
		return "never"
	case at.Before(now):
		return "expired"
	}
	return "in " + span(at.Sub(now))
}

func (a *app) guestCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls [GUEST]", Aliases: []string{"list"}, Short: "List guests with their NICs", Args: cobra.MaximumNArgs(1),
		Example: "  drawbridge guest ls\n  drawbridge guest ls web", ValidArgsFunction: a.completeFirst(guestNames),
		RunE: func(c *cobra.Command, args []string) error {
			guests, err := a.client.Guests(c.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 {
				guests = slices.DeleteFunc(guests, func(g api.Guest) bool { return g.Name != args[0] })
			}
			if len(args) > 0 && len(guests) == 0 {
				return fmt.Errorf("there is no guest %q; see drawbridge guest ls", args[0])
			}
			return a.show(guests, func(w *writer) {
				var rows [][]cell
				for _, g := range guests {
					for _, n := range g.NICs {
						rows = append(rows, cells(g.Name, n.Network, strings.Join(n.Addresses, " "), n.MAC, n.Tap))
					}
				}
				w.table([]string{"GUEST", "NETWORK", "ADDRESSES", "MAC", "TAP"}, rows)
			})
		},
	}
	group := &cobra.Command{Use: "guest", Short: "The machines on the networks", Example: "  drawbridge guest ls"}
	group.AddCommand(ls)
	return group
}

func (a *app) portCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls [NETWORK]", Aliases: []string{"list"}, Short: "List guests' NICs, those of other programs included", Args: cobra.MaximumNArgs(1),
		Example: "  drawbridge port ls\n  drawbridge port ls default", ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			ports, err := a.client.Ports(c.Context())
			if err != nil {
				return err
			}
			if ports, err = onNetwork(c, a, args, ports, func(p api.Port) string { return p.Network }); err != nil {
				return err
			}
			return a.show(ports, func(w *writer) { portTable(w, ports) })
		},
	}
	group := &cobra.Command{
		Use: "port", Short: "Guests' NICs on the networks", Example: "  drawbridge port ls\n  drawbridge port attach default --name web --user alice",
		Long: "A port is a guest's NIC on a network. \"drawbridge qemu\" makes one that goes with QEMU, \"attach\" a tap for other\n" +
			"programs; what these plug into a network's bridge by themselves is a port too.",
	}
	group.AddCommand(ls, a.portAttach(), a.portDetach())
	return group
}

func portTable(w *writer, ports []api.Port) {
	var rows [][]cell
	tagged := slices.ContainsFunc(ports, func(p api.Port) bool { return vlans(p) != "" })
	heads := []string{"NETWORK", "BRIDGE", "TAP", "GUEST", "MAC", "ADDRESSES", "RX", "TX", "BY"}
	if tagged {
		heads = append(heads, "VLAN")
	}
	for _, p := range ports {
		by := p.Made
		if p.Process != "" {
			by += fmt.Sprintf(" (%s %d)", p.Process, p.PID)
		}
		row := cells(p.Network, p.Bridge, p.Tap, p.Guest, p.MAC, strings.Join(p.Addresses, " "), size(p.RxBytes), size(p.TxBytes), by)
		if tagged {
			row = append(row, cells(vlans(p))...)
		}
		rows = append(rows, row)
	}
	w.table(heads, rows)
}

// vlans writes a port's VLANs: the one without tags, then those with.
func vlans(p api.Port) string {
	var parts []string
	if p.VLAN != 0 {
		parts = append(parts, strconv.Itoa(p.VLAN))
	}
	if p.VLANTrunk != "" {
		parts = append(parts, "trunk "+p.VLANTrunk)
	}
	return strings.Join(parts, ", ")
}

// size writes bytes with a binary unit and three digits.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1000 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	digits := 2
	if v >= 100 {
		digits = 0
	} else if v >= 10 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %ciB", digits, v, "KMGTPE"[unit])
}

func (a *app) portAttach() *cobra.Command {
	var r api.PortRequest
	c := &cobra.Command{
		Use: "attach NETWORK", Short: "Make a tap that another program opens by name", Args: cobra.ExactArgs(1),
		Long: `Make a persistent tap for a guest whose hypervisor opens it by name. It stays until
"drawbridge port detach" or the next boot. The tap's name is printed.`,
		Example:           "  drawbridge port attach default --name web --user alice",
		ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			r.Network = args[0]
			p, err := a.client.AttachPort(c.Context(), r)
			if err != nil {
				return err
			}
			return a.show(p, func(w *writer) {
				w.linef("%s plugged into %s as %s  %s", orTap(p), p.Bridge, p.Tap, p.MAC)
			})
		},
	}
	c.Flags().StringVar(&r.Guest, "name", "", "`NAME` of the guest, its own on this host (default: the tap's)")
	c.Flags().StringVar(&r.User, "user", "", "`USER` that may open the tap (default: root, or who asks if that is not root)")
	c.Flags().StringVar(&r.MAC, "mac", "", "hardware address `MAC` of the guest's NIC (default: one made of host, network and name)")
	c.Flags().IntVar(&r.Queues, "queues", 0, "`N` queues of a multi-queue NIC, 1 to 256 (default 1)")
	c.Flags().IntVar(&r.VLAN, "vlan", 0, "VLAN `ID` that the guest is in without knowing of it, whatever the network's (mode bridged)")
	c.Flags().StringVar(&r.VLANTrunk, "vlan-trunk", "", "`VLANS` that the guest gets with their tags, such as 30,40-49 (mode bridged)")
	return c
}

func orTap(p api.Port) string {
	if p.Guest != "" {
		return p.Guest
	}
	return p.Tap
}

func (a *app) portDetach() *cobra.Command {
	return &cobra.Command{
		Use: "detach TAP", Short: "Unplug and delete a tap that attach made", Args: cobra.ExactArgs(1),
		Example: "  drawbridge port detach vnet0", ValidArgsFunction: a.completeFirst(tapNames),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.client.DetachPort(c.Context(), args[0]); err != nil {
				return err
			}
			return a.done("port " + args[0] + ": unplugged")
		},
	}
}
