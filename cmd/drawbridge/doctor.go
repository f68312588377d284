package main

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/hostconf"
	"drawbridge/internal/linux"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/txn"
)

// doctor gathers what package diagnose looks at.
type doctor struct {
	*engine.Engine
	linux *linux.Host
	// profiles know the host's own network manager; nil where that is not ours to ask.
	profiles *hostconf.Profiles
	// zones are firewalld's.
	zones *hostconf.Firewalld
	// blocked are guest services without their port; nil if nobody can say.
	blocked func() map[host.Key]string
	// problems are what guest services say of themselves.
	problems func() []string
	offline  bool
	// looked is called with the sysctls that it looks at; nil if nobody wants to know.
	looked func(paths []string)
	// openTables: the kernel cannot keep others out of our nftables tables.
	openTables bool
}

// Facts looks at the host once. What cannot be read is missing.
func (d doctor) Facts(ctx context.Context) (*diagnose.Facts, error) {
	f := &diagnose.Facts{Offline: d.offline, OpenTables: d.openTables, Now: time.Now().Unix()}
	var reading sync.WaitGroup
	reading.Go(func() { f.Rules, _ = d.linux.Rules(ctx) })
	reading.Go(func() { f.Machine, _ = d.linux.Machine(ctx) })
	reading.Go(func() { f.NameServers, f.Libvirt = hostconf.NameServers(), libvirtNetworks() })
	x, err := d.settled(ctx)
	reading.Wait()
	if err != nil {
		return nil, err
	}
	d.told(f, x)
	for try := 0; try < agreeTries && !d.offline && !f.Observe && len(x.Missing) == 0 && f.Opening(); try++ {
		if x, err = d.settled(ctx); err != nil {
			return nil, err
		}
		f.Rules, _ = d.linux.Rules(ctx)
		d.told(f, x)
	}
	if x.Silent != nil && !d.offline {
		f.Silent = x.Silent.Error()
	}
	d.live(f, x)
	for _, s := range x.Missing {
		f.Drift = append(f.Drift, diagnose.Drift{Key: s.Key(), What: engine.Differs(s)})
	}
	for _, t := range x.Changes {
		f.Changes = append(f.Changes, diagnose.Change{ID: t.ID, Title: t.Title, Phase: string(t.Phase), Problem: t.Problem})
	}
	f.FirewalldZone = f.Opening() && d.zones.Available(ctx)
	d.services(f)
	f.Conntrack, f.ConntrackMax = number("/proc/sys/net/netfilter/nf_conntrack_count"), number("/proc/sys/net/netfilter/nf_conntrack_max")
	f.Grabbers = grabbers(f)
	f.Recorded = d.recorded()
	return f, d.more(ctx, f)
}

// A daemon that runs puts back within milliseconds what it finds missing, such as
// the rule of a port that was plugged in just now. That is no fault yet.
const settleTime, settlePause = 3 * time.Second, 100 * time.Millisecond

// agreeTries is how often rules and engine are asked once more if they disagree:
// rules that were read after the engine looked may have a drop that it is about to
// make an exception for, and those read before that have not the exception yet.
const agreeTries = 3

// settled examines until nothing is missing, or a daemon had its time. Nothing comes
// by waiting while the guest services do not answer.
func (d doctor) settled(ctx context.Context) (engine.Examination, error) {
	for began := time.Now(); ; {
		x, err := d.Examine(ctx)
		if err != nil || d.offline || len(x.Missing) == 0 || x.Silent != nil || time.Since(began) > settleTime {
			return x, err
		}
		select {
		case <-ctx.Done():
			return x, ctx.Err()
		case <-time.After(settlePause):
		}
	}
}

// recorded is when the newest entry of the record was written, 0 if nobody can say.
func (d doctor) recorded() (at int64) {
	_ = d.History(func(e txn.Entry) bool { at = e.Ended.Unix(); return false }) // a record that cannot be read is told by status
	return at
}

// told fills in what the engine says, and what depends on it.
func (d doctor) told(f *diagnose.Facts, x engine.Examination) {
	f.Document, f.State, f.Held, f.Quarrel, f.Observe, f.Learned = x.Document, maps.Clone(x.State), x.Held, x.Quarrel, x.Observe, x.Learned
	paths := parameters(f)
	f.Sysctls = sysctls(paths...)
	if d.looked != nil {
		d.looked(paths)
	}
	f.Anew()
}

// live fills in ports, leases and neighbours.
func (d doctor) live(f *diagnose.Facts, x engine.Examination) {
	ours := map[string]host.Port{}
	for _, p := range x.Live {
		ours[p.Tap] = p
	}
	for _, p := range x.Ports {
		one := diagnose.Port{
			Network: p.Network, Bridge: p.Bridge, Tap: p.Tap, Guest: p.Guest, MAC: p.MAC, Addresses: p.Addresses, PID: p.PID, Since: p.Since, Tagged: !p.Tags.IsZero(),
		}
		if live, ok := ours[p.Tap]; ok {
			// Where it belongs, not where it is.
			one.Ours, one.Bridge = true, live.Bridge
		}
		f.Ports = append(f.Ports, one)
	}
	for _, l := range x.Leases {
		if a, err := netip.ParseAddr(l.Address); err == nil {
			f.Leases = append(f.Leases, diagnose.Lease{Network: l.Network, MAC: l.MAC, Addr: a, Expires: l.Expires, Hostname: l.Hostname})
		}
	}
	for _, n := range x.Neighbours {
		f.Neighbours = append(f.Neighbours, diagnose.Neighbour{Link: n.Link, MAC: n.MAC, Addr: n.Addr})
	}
}

func (d doctor) services(f *diagnose.Facts) {
	if d.blocked != nil {
		for k, why := range d.blocked() {
			service := map[host.Kind]string{host.KindPool: "dhcp", host.KindZone: "dns", host.KindRouter: "ra"}[k.Kind]
			f.Services = append(f.Services, diagnose.Blocked{Bridge: k.Name, Service: service, Why: why, Holder: "the program named"})
		}
	}
	if d.problems != nil {
		for _, why := range d.problems() {
			f.Services = append(f.Services, diagnose.Blocked{Why: why})
		}
	}
}

// more looks at the uplinks of bridged networks, and at what running networks need
// of the kernel.
func (d doctor) more(ctx context.Context, f *diagnose.Facts) error {
	var keys []host.Key
	for _, n := range f.Document.Networks {
		for _, u := range n.Uplinks {
			keys = append(keys, host.NICKey(u))
		}
	}
	for _, name := range f.Features() {
		seen, err := d.linux.Observe(ctx, host.FeatureKey(name))
		if err == nil && len(seen) == 0 { // else it is not known
			f.Lacks = append(f.Lacks, name)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	seen, err := d.linux.Observe(ctx, keys...)
	for _, r := range seen {
		f.State.Add(r)
	}
	return err
}

// libvirtNetworks are libvirt's, as far as they are of this network namespace.
func libvirtNetworks() []diagnose.LibvirtNetwork {
	var all []diagnose.LibvirtNetwork
	for _, n := range hostconf.LibvirtNetworks() {
		all = append(all, diagnose.LibvirtNetwork{Name: n.Name, Bridge: n.Bridge, Subnets: n.Subnets, Mode: n.Mode, Active: n.Active, Autostart: n.Autostart && ownsNetwork()})
	}
	return all
}

// grabbers asks only where the host's managers see our links.
func grabbers(f *diagnose.Facts) []diagnose.Grabber {
	if !ownsNetwork() {
		return nil
	}
	var bridges []string
	for _, n := range f.Document.Networks {
		if n.Started && !n.Adopt && len(n.Uplinks) == 0 {
			bridges = append(bridges, n.Bridge)
		}
	}
	var all []diagnose.Grabber
	for _, t := range hostconf.Takers(append(bridges, render.PortNames)) {
		all = append(all, diagnose.Grabber{Manager: t.Manager, Links: t.Links, Why: t.Why, Fix: t.Fix})
	}
	return all
}

// parameters are the sysctls that checks look at.
func parameters(f *diagnose.Facts) []string {
	paths := append([]string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter", "net/netfilter/nf_conntrack_max",
	}, bridgeFilters...)
	for _, r := range f.State {
		if route, ok := r.(host.Route); ok && route.Dst.Bits() == 0 && route.Link != "" {
			paths = append(paths, "net/ipv4/conf/"+route.Link+"/rp_filter", "net/ipv6/conf/"+route.Link+"/accept_ra")
		}
	}
	return paths
}

// parameterPause is how often the sysctls are read that checks look at: the kernel tells of
// few of them, and ten take it a tenth of a millisecond.
const parameterPause = 2 * time.Second

// followParameters calls changed when one of them is another.
func (d *running) followParameters(ctx context.Context, changed func()) {
	tick := time.NewTicker(parameterPause)
	defer tick.Stop()
	var had map[string]string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		paths := d.parameters.Load()
		if paths == nil {
			continue // nobody looked yet
		}
		now := sysctls(*paths...)
		if had != nil && !maps.Equal(had, now) {
			changed()
		}
		had = now
	}
}

func sysctls(paths ...string) map[string]string {
	values := map[string]string{}
	for _, p := range paths {
		if b, err := os.ReadFile(filepath.Join("/proc/sys", p)); err == nil {
			values[p] = strings.TrimSpace(string(b))
		}
	}
	return values
}

func number(file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// Fix carries out what a finding says, where it can be.
func (d doctor) Fix(ctx context.Context, title string, fix diagnose.Fix, o engine.Options) (engine.Result, error) {
	switch e := fix.Edit; {
	case e.Start != "":
		return d.Do(ctx, engine.StartNetwork{Name: e.Start}, o)
	case e.Reload:
		return d.Reload(ctx, o)
	case e.Unreserve.MAC != "":
		return d.Do(ctx, engine.Unreserve{Name: e.Unreserve.Network, MAC: e.Unreserve.MAC}, o)
	}
	var turns []plan.Step
	for _, t := range fix.Turns {
		turns = append(turns, plan.Step{Before: t.Before, After: t.After})
	}
	return d.Mend(ctx, title, turns, o)
}

// doctor is that of a daemon that runs.
func (d *running) doctor() doctor {
	return doctor{Engine: d.engine, linux: d.linux, profiles: d.profiles, zones: d.zones, openTables: d.openTables, blocked: d.adapter.Blocked, problems: func() []string {
		report, err := d.adapter.Report()
		if err != nil {
			return nil // it does not answer, which is found too
		}
		return report.Problems
	}, looked: func(paths []string) { d.parameters.Store(&paths) }}
}
