package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// changeFlags are those of every command that changes something.
type changeFlags struct {
	api.Options
	noWait bool
}

func (f *changeFlags) dryRun(c *cobra.Command) {
	c.Flags().BoolVar(&f.DryRun, "dry-run", false, "show the steps and what they would cost, and change nothing")
	f.pictured(c)
}

// pictured adds --picture: a dry run that draws.
func (f *changeFlags) pictured(c *cobra.Command) {
	picture := c.Flags().Bool("picture", false, "draw what would come (+) and go (-), and change nothing")
	c.PreRun = func(c *cobra.Command, _ []string) {
		if !*picture {
			return
		}
		f.DryRun = true
		f.Picture = paper(c.OutOrStdout(), false)
		if format, err := c.Flags().GetString("output"); err == nil && format != "table" {
			f.Picture = &api.View{}
		}
	}
}

func (f *changeFlags) cutGuests(c *cobra.Command) {
	c.Flags().BoolVar(&f.CutGuests, "cut-guests", false, "go on even if guests lose their network by it")
}

func (a *app) networkCommand() *cobra.Command {
	group := &cobra.Command{
		Use: "network", Aliases: []string{"net"}, Short: "Make, change, start and stop networks",
		Example: "  drawbridge network ls\n  drawbridge network create lab --mode isolated\n  drawbridge network set lab mtu=1400\n  drawbridge network rm lab",
	}
	group.AddCommand(
		a.networkCreate(), a.networkList(), a.networkShow(), a.networkSet(),
		a.networkVerb("start", "Make a network run", false, (*api.Client).StartNetwork),
		a.networkVerb("stop", "Take a network's switch, rules and services away; it stays defined", true, (*api.Client).StopNetwork),
		a.networkVerb("rm", "Stop and forget a network", true, (*api.Client).RemoveNetwork),
	)
	return group
}

func (a *app) networkCreate() *cobra.Command {
	var n api.DocumentNetwork
	var flags changeFlags
	var subnets []string
	var dhcpRange, adopt string
	var noStart bool
	c := &cobra.Command{
		Use: "create NAME", Short: "Define a network and start it", Args: cobra.ExactArgs(1),
		Long: `Define a network and start it. What is left open is chosen once and kept: a subnet that
overlaps with no route of this host (192.168.122.0/24 first), a bridge name, hardware addresses,
and a DNS domain. The modes:

  nat       guests have a subnet of their own and reach out with the host's address
  isolated  guests reach each other and the host, and nobody else
  bridged   guests are machines of the LAN; the NIC moves into a bridge, on trial until confirmed
  direct    guests share a NIC that is not touched; they and the host cannot talk to each other

"drawbridge advise" says which suits this host.`,
		Example: `  drawbridge network create default
  drawbridge network create lab --mode isolated --subnet 10.9.0.0/24 --ipv6 off
  drawbridge network create lan --mode bridged --uplink enp6s18
  drawbridge network create dmz --mode bridged --uplink enp6s19 --vlan 30
  drawbridge network create shared --mode direct --uplink enp6s20
  drawbridge network create web --subnet 192.168.130.1/24 --dhcp-range 192.168.130.100-192.168.130.199`,
		RunE: func(c *cobra.Command, args []string) error {
			n.Name = args[0]
			for _, s := range subnets {
				n.Subnets = append(n.Subnets, api.Subnet{CIDR: s})
			}
			if err := putRange(&n, dhcpRange); err != nil {
				return err
			}
			if adopt != "" {
				if n.Bridge != "" && n.Bridge != adopt {
					return usage("--adopt %s and --bridge %s name two bridges", adopt, n.Bridge)
				}
				n.Bridge, n.Adopt = adopt, true
			}
			if noStart {
				stopped := false
				n.Started, n.Autostart = &stopped, &stopped
			}
			return a.mayMove(c.Context(), "create network "+n.Name, &flags, func(o api.Options) (api.Change, error) {
				return a.client.CreateNetwork(c.Context(), n, o)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&n.Mode, "mode", "", "`MODE` as above (default nat)")
	f.StringArrayVar(&subnets, "subnet", nil, "`CIDR`; host bits name the host's own address; may be given once for IPv4 and once for IPv6")
	f.StringVar(&n.IPv6, "ipv6", "", "`auto|off|CIDR`; auto: a unique local /64 if the host has IPv6")
	f.StringVar(&n.Bridge, "bridge", "", "`NAME` of the bridge (default: the first free of virbr0, virbr1, …; br0, br1, … in mode bridged)")
	f.StringArrayVar(&n.Uplinks, "uplink", nil, "`NIC` that leads to the LAN (mode bridged, where it may be given more than once, or direct)")
	f.StringVar(&adopt, "adopt", "", "`BRIDGE` of the host's own to use as it is (mode bridged)")
	f.BoolVar(&n.STP, "stp", false, "let the bridge speak the spanning tree protocol (mode bridged)")
	f.IntVar(&n.VLAN, "vlan", 0, "VLAN `ID` that guests are in without knowing of it (mode bridged)")
	f.StringVar(&n.VLANTrunk, "vlan-trunk", "", "`VLANS` that guests get with their tags, such as 30,40-49 (mode bridged)")
	f.StringVar(&dhcpRange, "dhcp-range", "", "`A-B`, the addresses to give away, or off for reserved ones only")
	f.StringVar(&n.Domain, "domain", "", "DNS `DOMAIN` of the guests (default NAME.internal)")
	f.IntVar(&n.MTU, "mtu", 0, "size of the largest packet in `BYTES` (default 1500, or the uplink's)")
	f.StringSliceVar(&n.AllowUsers, "allow-users", nil, "`USERS` that may plug in guests of their own, by comma")
	f.BoolVar(&noStart, "no-start", false, "define it only; it is not started at boot either")
	flags.dryRun(c)
	flags.deciding(c)
	_ = c.RegisterFlagCompletionFunc("mode", a.complete(modeNames))
	_ = c.RegisterFlagCompletionFunc("ipv6", fixed("auto", "off"))
	return c
}

// putRange puts the range into the IPv4 subnet.
func putRange(n *api.DocumentNetwork, r string) error {
	if r == "" {
		return nil
	}
	for i := range n.Subnets {
		if !strings.Contains(n.Subnets[i].CIDR, ":") {
			n.Subnets[i].DHCPRange = r
			return nil
		}
	}
	return usage("--dhcp-range %s needs an IPv4 --subnet that it lies in", r)
}

func (a *app) networkList() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List networks", Args: cobra.NoArgs, Example: "  drawbridge network ls",
		RunE: func(c *cobra.Command, _ []string) error {
			nets, err := a.client.Networks(c.Context())
			if err != nil {
				return err
			}
			return a.show(nets, func(w *writer) { networkTable(w, nets) })
		},
	}
}

func (a *app) networkShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show all there is to know about a network", Args: cobra.ExactArgs(1),
		Example: "  drawbridge network show default", ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			n, err := a.client.Network(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(n, func(w *writer) { networkText(w, n) })
		},
	}
}

func networkText(w *writer, n api.Network) {
	field := func(name, value string) {
		if value != "" {
			w.linef("%-13s %s", name, strings.TrimSpace(value))
		}
	}
	field("network", n.Name)
	field("mode", n.Mode)
	field("state", n.State)
	if n.Bridge != "" {
		field("bridge", n.Bridge+"  "+n.MAC)
	}
	field("mtu", fmt.Sprint(n.MTU))
	if n.Adopt {
		field("adopted", "yes; the bridge is the host's own")
	}
	field("uplinks", strings.Join(n.Uplinks, ", "))
	if n.STP {
		field("stp", "on")
	}
	if n.VLAN != 0 {
		field("vlan", fmt.Sprint(n.VLAN))
	}
	field("vlan-trunk", n.VLANTrunk)
	for _, s := range n.Subnets {
		field("subnet", s.CIDR+"  host "+s.Gateway)
		if s.DHCPRange != "" {
			field("dhcp-range", fmt.Sprintf("%s  lease-time %s s", s.DHCPRange, s.LeaseTime))
		}
	}
	field("ipv6", n.IPv6)
	field("domain", n.Domain)
	field("allow-users", strings.Join(n.AllowUsers, ","))
	field("autostart", fmt.Sprint(n.Autostart))
	field("guests", fmt.Sprint(n.Guests))
	field("leases", leases(n))
	field("uuid", n.UUID)
	for _, r := range n.Reservations {
		field("reservation", r.MAC+"  "+r.IP+"  "+r.Hostname)
	}
	for _, r := range n.Remarks {
		field("remark", r)
	}
	for _, p := range n.Problems {
		w.painted(bad, "problem       "+p)
	}
}

func (a *app) networkSet() *cobra.Command {
	var flags changeFlags
	c := &cobra.Command{
		Use: "set NAME key=value…", Short: "Change a network, running or not; guests stay plugged in", Args: cobra.MinimumNArgs(2),
		Long: `Change a network, running or not. Nothing is torn down that need not change.

  mtu=BYTES  domain=DOMAIN  dhcp-range=A-B|off  lease-time=TIME  subnet=CIDR  ipv6=auto|off|CIDR
  autostart=true|false  allow-users=A,B  mode=MODE  bridge=NAME (only while it is stopped)
  vlan=ID|none  vlan-trunk=30,40-49|none`,
		Example: `  drawbridge network set default mtu=1400 domain=lab.internal
  drawbridge network set default allow-users=alice,bob`,
		ValidArgsFunction: a.completeSettings,
		RunE: func(c *cobra.Command, args []string) error {
			settings := map[string]string{}
			for _, pair := range args[1:] {
				key, value, ok := strings.Cut(pair, "=")
				if !ok || key == "" {
					return usage("%q is not of the form key=value", pair)
				}
				if _, twice := settings[key]; twice {
					return usage("%s is given twice", key)
				}
				settings[key] = value
			}
			return a.mayMove(c.Context(), "set network "+args[0], &flags, func(o api.Options) (api.Change, error) {
				return a.client.SetNetwork(c.Context(), args[0], settings, o)
			})
		},
	}
	flags.dryRun(c)
	flags.cutGuests(c)
	flags.deciding(c)
	return c
}

type verb func(*api.Client, ctx, string, api.Options) (api.Change, error)

// networkVerb is a change that needs the name and nothing else.
func (a *app) networkVerb(name, short string, cuts bool, call verb) *cobra.Command {
	var flags changeFlags
	c := &cobra.Command{
		Use: name + " NAME", Short: short, Args: cobra.ExactArgs(1), Example: "  drawbridge network " + name + " default",
		ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			return a.mayMove(c.Context(), name+" network "+args[0], &flags, func(o api.Options) (api.Change, error) {
				return call(a.client, c.Context(), args[0], o)
			})
		},
	}
	flags.dryRun(c)
	flags.deciding(c)
	if cuts {
		flags.cutGuests(c)
	}
	return c
}

func (a *app) upCommand() *cobra.Command {
	var flags changeFlags
	c := &cobra.Command{
		Use: "up", Short: "Start all networks in one change", Args: cobra.NoArgs, Example: "  drawbridge up",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.mayMove(c.Context(), "start all networks", &flags, func(o api.Options) (api.Change, error) { return a.client.Up(c.Context(), o) })
		},
	}
	flags.dryRun(c)
	flags.deciding(c)
	return c
}

func (a *app) downCommand() *cobra.Command {
	var flags changeFlags
	c := &cobra.Command{
		Use: "down", Short: "Stop all networks in one change", Args: cobra.NoArgs, Example: "  drawbridge down --dry-run",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.mayMove(c.Context(), "stop all networks", &flags, func(o api.Options) (api.Change, error) { return a.client.Down(c.Context(), o) })
		},
	}
	flags.dryRun(c)
	flags.deciding(c)
	flags.cutGuests(c)
	return c
}
