package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/dhcp"
	"drawbridge/internal/engine"
	"drawbridge/internal/linux"
	"drawbridge/internal/render"
	"drawbridge/internal/services"
	"drawbridge/internal/spec"
)

// taps lets the engine see linux's taps in its own words.
type taps struct{ *linux.Host }

func (t taps) OpenVhost(queues int) []*os.File {
	files, err := linux.OpenVhost(queues)
	if err != nil {
		return nil // vhost is an acceleration; guests work without
	}
	return files
}

func (t taps) TapUsers(ctx context.Context) (map[string]engine.TapUser, error) {
	users, err := t.Host.TapUsers(ctx)
	if err != nil {
		return nil, err
	}
	directly, err := t.Host.MacvtapUsers(ctx)
	if err != nil {
		return nil, err
	}
	maps.Copy(users, directly)
	out := make(map[string]engine.TapUser, len(users))
	for tap, p := range users {
		out[tap] = engine.TapUser{PID: p.PID, Process: p.Comm, Guest: p.Guest}
	}
	return out, nil
}

func (t taps) Descends(pid, from int) bool { return linux.Descends(pid, from) }

func (t taps) Neighbours(ctx context.Context) ([]engine.Neighbour, error) {
	seen, err := t.Host.Neighbours(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []engine.Neighbour
	for _, n := range seen {
		out = append(out, engine.Neighbour{Link: n.Link, MAC: n.MAC, Addr: n.Addr})
	}
	return out, nil
}

func (t taps) Counters(context.Context) (map[string]engine.Counters, error) {
	all, err := t.Host.Counters()
	if err != nil {
		return nil, err
	}
	out := make(map[string]engine.Counters, len(all))
	for name, c := range all {
		out[name] = engine.Counters{
			RxBytes: c.RxBytes, TxBytes: c.TxBytes, RxPackets: c.RxPackets, TxPackets: c.TxPackets,
			Index: c.Index, NoCarrier: !c.Carrier, SpeedMbit: c.SpeedMbit,
		}
	}
	return out, nil
}

// guests lets the engine see the guest services in its own words.
type guests struct{ *services.Adapter }

func (g guests) Leases(context.Context) ([]engine.Lease, error) {
	all, err := g.Adapter.Leases()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // no process was ever needed
	}
	if err != nil {
		return nil, err
	}
	var out []engine.Lease
	now := time.Now()
	for _, l := range all {
		if l.Live(now) {
			out = append(out, leaseView(l))
		}
	}
	return out, nil
}

func (g guests) KeepLeases(_ context.Context, networks []spec.NetworkName) error {
	var names []string
	for _, n := range networks {
		names = append(names, string(n))
	}
	return g.Adapter.KeepLeases(names)
}

func (g guests) Heard(context.Context) ([]engine.Heard, error) {
	all, err := g.Adapter.Heard()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // no process was ever needed
	}
	var out []engine.Heard
	for _, h := range all {
		out = append(out, engine.Heard(h))
	}
	return out, err
}

func leaseView(l dhcp.Lease) engine.Lease {
	return engine.Lease{Network: spec.NetworkName(l.Network), MAC: l.MAC, Address: l.Addr.String(), Hostname: l.Hostname, Expires: l.Expires}
}

func leaseEvent(l dhcp.Lease) engine.Event {
	verb := "leased to"
	if l.State != dhcp.Bound {
		verb = string(l.State) + " by"
	}
	return engine.Event{Kind: engine.LeaseEvent, Action: string(l.State), Network: spec.NetworkName(l.Network), Object: l.Addr.String(), Who: "dhcp", Text: fmt.Sprintf("%s %s %s on network %s", l.Addr, verb, l.MAC, l.Network)}
}

func (g guests) Problems() []string {
	var problems []string
	for k, why := range g.Blocked() {
		problems = append(problems, fmt.Sprintf("%s cannot be served: %s", k, why))
	}
	slices.Sort(problems)
	if report, err := g.Report(); err == nil {
		problems = append(problems, report.Problems...)
	}
	return problems
}

// opener lets the guest services have sockets opened.
type opener struct{ *linux.Host }

func (o opener) OpenDHCP(bridge string) (udp, frames *os.File, err error) {
	return linux.OpenDHCP(bridge)
}

func (o opener) OpenDNS(bridge string, addr netip.Addr) (udp, tcp *os.File, err error) {
	return linux.OpenDNS(bridge, addr)
}

func (o opener) OpenRA(bridge string) (*os.File, error) { return linux.OpenRA(bridge) }

func (o opener) OpenSnoop(tap string) (*os.File, error) { return linux.OpenSnoop(tap) }

func (o opener) Index(link string) int { return o.Host.Index(link) }

func (o opener) InUse(err error) bool {
	var busy *linux.InUseError
	return errors.As(err, &busy)
}

// modes lists what a network can be, for help and completion.
func modes() []api.Mode {
	var list []api.Mode
	for _, m := range render.Modes {
		list = append(list, api.Mode{Name: string(m.Name()), Summary: m.Summary(), Forwards: render.HasForwards(m.Name())})
	}
	return list
}

func (d *running) servicesPID() int {
	report, err := d.adapter.Report()
	if err != nil {
		return 0
	}
	return report.PID
}

// neighbourPause bounds how often the neighbour table is read.
const neighbourPause = time.Second

// followNeighbours tells DNS which IPv6 addresses guests use, and the engine
// who is behind ports that do not say.
func (d *running) followNeighbours(ctx context.Context) {
	ticker := time.NewTicker(neighbourPause)
	defer ticker.Stop()
	last := map[string][]services.Neighbour{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if d.engine.Unlearnt() {
			d.learn(ctx)
		}
		for _, n := range d.store.Document().Networks {
			if _, six := n.Subnet6(); !six || !n.Started {
				continue
			}
			list, err := d.neighbours(ctx, n.Bridge)
			if err != nil || slices.Equal(list, last[n.Bridge]) {
				continue
			}
			if err := d.adapter.SetNeighbours(n.Bridge, list); err == nil {
				last[n.Bridge] = list
			}
		}
	}
}

// learn tells the engine which hardware addresses are behind ports that were
// made without one.
func (d *running) learn(ctx context.Context) {
	learned, err := d.linux.Learned(ctx)
	if err == nil {
		err = d.engine.Learn(ctx, learned)
	}
	if err != nil {
		d.log.Debug("who is behind ports", "err", err)
	}
}

func (d *running) neighbours(ctx context.Context, bridge string) ([]services.Neighbour, error) {
	seen, err := d.linux.Neighbours(ctx, bridge)
	if err != nil {
		return nil, err
	}
	var list []services.Neighbour
	for _, n := range seen {
		if n.Addr.Is6() && n.Addr.IsGlobalUnicast() && n.MAC != "" {
			list = append(list, services.Neighbour{MAC: n.MAC, Addr: n.Addr})
		}
	}
	slices.SortFunc(list, func(a, b services.Neighbour) int { return a.Addr.Compare(b.Addr) })
	return list, nil
}
