package main

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/hostconf"
	"drawbridge/internal/ruleset"
)

// Ground looks at what decides between bridge and NAT. pid is who asks, 0 if that
// is not known.
func (d doctor) Ground(ctx context.Context, pid int) (diagnose.Ground, error) {
	x, err := d.Examine(ctx)
	if err != nil {
		return diagnose.Ground{}, err
	}
	g := diagnose.Ground{Battery: hostconf.Battery(), Hypervisor: hostconf.Hypervisor(), Networks: map[string][]string{}}
	for _, name := range x.Document.Names() {
		n := x.Document.Networks[name]
		g.Networks[string(n.Mode)] = append(g.Networks[string(n.Mode)], string(name))
	}
	d.findUplink(&g, x)
	if g.Uplink == "" {
		return g, nil
	}
	if err := d.findCard(ctx, &g, x); err != nil {
		return g, err
	}
	d.findLAN(&g, x)
	d.findManager(ctx, &g)
	if pid != 0 {
		list, _ := d.linux.Operator(ctx, pid) // who cannot be found is not named
		for _, c := range list {
			if slices.Contains(addressesOf(x.State, g.Uplink, g.Bridge), c.Local.Addr().Unmap()) {
				g.Operator = c.Remote.Addr().Unmap().String()
			}
		}
	}
	g.Others = d.others(ctx)
	return g, nil
}

// findUplink finds the link of the best default route; of a bridge, its port.
func (d doctor) findUplink(g *diagnose.Ground, x engine.Examination) {
	f := diagnose.Facts{State: x.State}
	g.Uplink = f.DefaultLink()
	l, _ := x.State[host.LinkKey(g.Uplink)].(host.Link)
	if l.Type != host.TypeBridge {
		g.Kind = l.Type
		return
	}
	g.Bridge, g.Uplink = l.Name, ""
	for _, k := range x.State.Keys() {
		if port, ok := x.State[k].(host.Link); ok && port.Master == g.Bridge && port.Type != host.TypeTap {
			g.Uplink, g.Kind = port.Name, port.Type
			return
		}
	}
}

func (d doctor) findCard(ctx context.Context, g *diagnose.Ground, x engine.Examination) error {
	var keys []host.Key
	for k, r := range x.State {
		if l, ok := r.(host.Link); ok && l.Type == "" && l.Name != "lo" && l.Up {
			keys = append(keys, host.NICKey(k.Name))
		}
	}
	if k := host.NICKey(g.Uplink); !slices.Contains(keys, k) {
		keys = append(keys, k)
	}
	seen, err := d.linux.Observe(ctx, keys...)
	if err != nil {
		return err
	}
	g.OnlyNIC = true
	for _, r := range seen {
		nic := r.(host.NIC)
		if nic.Link != g.Uplink {
			g.OnlyNIC = g.OnlyNIC && !nic.Carrier
			continue
		}
		g.Wireless, g.Carrier, g.Cloud, g.Root = nic.Wireless, nic.Carrier, nic.Cloud, nic.Root
	}
	g.SpeedMbit = max(0, number(filepath.Join("/sys/class/net", g.Uplink, "speed")))
	g.Port8021X = hostconf.Port8021X(g.Uplink)
	return nil
}

// findLAN looks at the subnets of the uplink, and who was seen there.
func (d doctor) findLAN(g *diagnose.Ground, x engine.Examination) {
	for _, k := range x.State.Keys() {
		a, ok := x.State[k].(host.Address)
		if !ok || a.Link != g.Uplink && a.Link != g.Bridge || !a.Addr.Addr().IsGlobalUnicast() {
			continue
		}
		switch {
		case a.Addr.Addr().Is4() && !g.LAN.IsValid():
			g.LAN = a.Addr.Masked()
			if g.Method = "static"; a.Dynamic {
				g.Method = "dhcp"
			}
		case a.Addr.Addr().Is6() && !a.Addr.Addr().IsPrivate() && a.Addr.Bits() < 128 && !g.Six.IsValid():
			g.Six = a.Addr.Masked()
		}
	}
	for _, n := range x.Neighbours {
		if (n.Link == g.Uplink || n.Link == g.Bridge) && g.LAN.IsValid() && g.LAN.Contains(n.Addr) {
			g.Seen++
		}
	}
}

func (d doctor) findManager(ctx context.Context, g *diagnose.Ground) {
	if d.profiles == nil || g.Bridge != "" {
		return
	}
	about, err := d.profiles.Describe(ctx, g.Uplink)
	if err != nil {
		return // nobody manages it, or nobody can say
	}
	g.Manager = about.Manager
	if len(about.Cannot) > 0 {
		g.Cannot = about.Cannot[0]
	}
}

func addressesOf(s host.State, links ...string) []netip.Addr {
	var list []netip.Addr
	for _, r := range s {
		if a, ok := r.(host.Address); ok && a.Link != "" && slices.Contains(links, a.Link) {
			list = append(list, a.Addr.Addr())
		}
	}
	return list
}

// others are the programs that have rules on this host.
func (d doctor) others(ctx context.Context) []string {
	rules, err := d.linux.Rules(ctx)
	if err != nil {
		return nil
	}
	var list []string
	for _, t := range rules.Tables {
		for _, c := range t.Chains {
			owner := ruleset.OwnerOfPolicy(c)
			for _, r := range c.Rules {
				if by := ruleset.OwnerOfRule(r); by != ruleset.Iptables && by != ruleset.Unknown {
					owner = by
				}
			}
			if owner != ruleset.Drawbridge && owner != ruleset.Unknown && owner != ruleset.Iptables && !slices.Contains(list, string(owner)) {
				list = append(list, string(owner))
			}
		}
	}
	slices.Sort(list)
	return list
}
