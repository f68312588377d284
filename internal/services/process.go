// Package services runs the guest services (DHCP, DNS, router advertisements)
// in an unprivileged process of their own, and feeds that process from the
// daemon.
//
// It owns the process, the words that daemon and process exchange, and the
// handing over of open sockets. It does not know how sockets are opened (that is
// Opener's), nor the protocols (dhcp, dns, ra).
//
// Start reading at Process below for what runs there, and at Adapter in
// adapter.go for the daemon's side; wire.go has the messages.
package services

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/dhcp"
	"drawbridge/internal/dns"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/ra"
	"drawbridge/internal/snoop"
)

// Process is the guest services as they run in their own process. It survives
// restarts of the daemon: it keeps serving what it was told last.
type Process struct {
	log    *slog.Logger
	leases *dhcp.Leases
	dhcp   *dhcp.Server
	dns    *dns.Server
	ra     *ra.Server
	snoop  *snoop.Server
	later  later

	mu      sync.Mutex
	bridges map[string]*bridge
	// bridgeOf finds the bridge of a network, to name leases.
	bridgeOf   map[string]string
	neighbours map[string][]Neighbour
	stop       context.CancelFunc
	// run and told make the version of what is served: this process, and how often it was
	// told to serve something else.
	run  string
	told uint64
}

// bridge holds what runs on one bridge.
type bridge struct {
	index int
	loops map[Role]running
}

// LeaseFile is the name of the lease file in the process's state directory.
const LeaseFile = "leases.db"

// NewProcess opens the lease file in dir.
func NewProcess(dir, hostname string, log *slog.Logger) (*Process, error) {
	leases, err := dhcp.OpenLeases(filepath.Join(dir, LeaseFile), log)
	if err != nil {
		return nil, err
	}
	p := &Process{
		log: log, leases: leases,
		dhcp: dhcp.New(dhcp.Config{Leases: leases, Log: log}),
		dns:  dns.NewServer(dns.Config{Hostname: hostname}),
		ra:   ra.New(ra.Config{Log: log}),

		bridges: map[string]*bridge{}, bridgeOf: map[string]string{}, neighbours: map[string][]Neighbour{},
		run: rand.Text(),
	}
	p.snoop = snoop.New(snoop.Config{Changed: p.seen})
	return p, nil
}

// Run answers the daemon on ln until ctx ends or the daemon says stop.
func (p *Process) Run(ctx context.Context, ln *net.UnixListener) error {
	ctx, p.stop = context.WithCancel(ctx)
	defer p.stop()
	context.AfterFunc(ctx, func() { ln.Close() })
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	go p.dns.FollowUpstream(ctx, ticks.C)
	go p.nameLeases(ctx)
	var conns sync.WaitGroup
	for {
		c, err := ln.AcceptUnix()
		if err != nil {
			break
		}
		if err := authorised(c); err != nil {
			p.log.Warn("refused", "err", err)
			c.Close()
			continue
		}
		context.AfterFunc(ctx, func() { c.Close() })
		conns.Go(func() {
			defer c.Close()
			if err := p.talk(ctx, c); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
				p.log.Debug("conversation ended", "err", err)
			}
		})
	}
	conns.Wait()
	p.endAll()
	return p.leases.Close()
}

// authorised lets root and our own user in, nobody else.
func authorised(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Getuid() {
		return fmt.Errorf("user %d may not talk to the guest services", cred.Uid)
	}
	return nil
}

func (p *Process) talk(ctx context.Context, c *net.UnixConn) error {
	for {
		m, files, err := receive(c)
		if err != nil {
			return err
		}
		if m.Watch {
			return p.watch(ctx, c)
		}
		reply := p.answer(ctx, m, files)
		if err := send(c, reply, nil); err != nil {
			return err
		}
		if m.Stop {
			p.stop()
			return nil
		}
	}
}

func (p *Process) answer(ctx context.Context, m message, files []*os.File) message {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	var reply message
	switch {
	case m.Sockets != nil:
		p.told++
		err = p.take(ctx, *m.Sockets, files)
	case m.Release != nil:
		p.told++
		closeAll(files)
		p.release(m.Release.Bridge, m.Release.Roles)
	case m.Apply != nil:
		p.told++
		closeAll(files)
		err = p.apply(ctx, m.Apply)
	case m.Observe:
		err = p.show(ctx, m, &reply)
	case m.Leases:
		reply.LeaseSet = p.leases.List()
	case m.Neighbours != nil:
		p.setNeighbours(*m.Neighbours)
	case m.Keep != nil:
		err = p.keepLeases(*m.Keep)
	case m.Heard:
		reply.HeardSet = p.snoop.Heard()
	case m.Report:
		reply.Told = p.report()
	case m.Count:
		reply.Counted = &Counts{DHCP: p.dhcp.Stats(), DNS: p.dns.Stats()}
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply
}

// take starts loops on new sockets, in place of those that ran on old ones.
func (p *Process) take(ctx context.Context, set socketSet, files []*os.File) error {
	if len(files) != len(set.Roles) {
		closeAll(files)
		return fmt.Errorf("%d sockets came for %d roles", len(files), len(set.Roles))
	}
	b := p.bridges[set.Bridge]
	if b == nil {
		b = &bridge{loops: map[Role]running{}}
		p.bridges[set.Bridge] = b
	}
	b.index = set.Index
	byRole := map[Role]*os.File{}
	for i, role := range set.Roles {
		byRole[role] = files[i]
	}
	var errs []error
	for role, f := range byRole {
		if role == RoleFrames {
			continue // goes with RoleDHCP
		}
		loop, err := p.loop(role, set.Bridge, f, byRole[RoleFrames])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.release(set.Bridge, []Role{role})
		b.loops[role] = run(ctx, loop, func(err error) {
			p.log.Warn("service ended", "bridge", set.Bridge, "service", role, "err", err)
		})
	}
	return errors.Join(errs...)
}

// loop makes the function that serves one role on an open socket.
func (p *Process) loop(role Role, name string, f, frames *os.File) (func(context.Context) error, error) {
	switch role {
	case RoleDHCP:
		conn, err := dhcp.NewConn(f, frames, p.later.close)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return p.dhcp.Serve(ctx, name, conn) }, nil
	case RoleDNSUDP4, RoleDNSUDP6:
		defer f.Close()
		conn, err := net.FilePacketConn(f)
		if err != nil {
			return nil, fmt.Errorf("use DNS socket: %w", err)
		}
		udp, ok := conn.(*net.UDPConn)
		if !ok {
			conn.Close()
			return nil, fmt.Errorf("use DNS socket: it is a %T", conn)
		}
		return func(ctx context.Context) error { return p.dns.ServeUDP(ctx, name, udp) }, nil
	case RoleDNSTCP4, RoleDNSTCP6:
		defer f.Close()
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("use DNS socket: %w", err)
		}
		return func(ctx context.Context) error { return p.dns.ServeTCP(ctx, name, ln) }, nil
	case RoleRouter:
		conn, err := ra.NewConn(f)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return p.ra.Serve(ctx, name, conn) }, nil
	case RoleSnoop:
		conn, err := snoop.NewConn(f)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return p.snoop.Serve(ctx, name, conn) }, nil
	}
	f.Close()
	return nil, fmt.Errorf("socket of unknown role %q", role)
}

// rolesOf says which loops end when a resource goes.
var rolesOf = map[host.Kind][]Role{
	host.KindPool:   {RoleDHCP},
	host.KindZone:   {RoleDNSUDP4, RoleDNSTCP4, RoleDNSUDP6, RoleDNSTCP6},
	host.KindRouter: {RoleRouter},
	host.KindSnoop:  {RoleSnoop},
}

func (p *Process) apply(ctx context.Context, steps []plan.Step) error {
	var over []running
	defer func() { end(over) }()
	for _, s := range steps {
		loops, err := p.applyOne(ctx, s)
		over = append(over, loops...)
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return nil
}

// applyOne does a step and returns the loops that are to end with it.
func (p *Process) applyOne(ctx context.Context, s plan.Step) ([]running, error) {
	one := []plan.Step{s}
	name := ""
	switch r := firstOf(s.After, s.Before).(type) {
	case host.Pool:
		name = r.Bridge
		if err := p.dhcp.Apply(s); err != nil {
			return nil, err
		}
		delete(p.bridgeOf, r.Network)
		if s.After != nil {
			p.bridgeOf[r.Network] = r.Bridge
		}
		p.renameLeases(r.Network, r.Bridge, s.After != nil)
	case host.Reservation, host.Guest:
		return nil, errors.Join(p.dhcp.Apply(s), p.dns.Apply(ctx, one))
	case host.Zone:
		name = r.Bridge
		if err := p.dns.Apply(ctx, one); err != nil {
			return nil, err
		}
	case host.Router:
		name = r.Bridge
		if err := p.ra.Apply(s); err != nil {
			return nil, err
		}
	case host.Snoop:
		name = r.Tap
		if err := p.snoop.Apply(s); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("not a guest service")
	}
	if s.After != nil {
		return nil, nil
	}
	over := p.takeOut(name, rolesOf[s.Key().Kind])
	if b := p.bridges[name]; b != nil && len(b.loops) == 0 {
		delete(p.bridges, name)
	}
	return over, nil
}

func firstOf(a, b host.Resource) host.Resource {
	if a != nil {
		return a
	}
	return b
}

// release ends loops and waits until their sockets are closed.
func (p *Process) release(name string, roles []Role) { end(p.takeOut(name, roles)) }

// takeOut forgets loops and returns those that ran.
func (p *Process) takeOut(name string, roles []Role) []running {
	var loops []running
	if b := p.bridges[name]; b != nil {
		for _, role := range roles {
			if l, runs := b.loops[role]; runs {
				loops = append(loops, l)
				delete(b.loops, role)
			}
		}
	}
	return loops
}

func (p *Process) endAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var loops []running
	for _, b := range p.bridges {
		loops = slices.AppendSeq(loops, maps.Values(b.loops))
	}
	clear(p.bridges)
	end(loops)
}

// observe returns everything that is served.
func (p *Process) observe(ctx context.Context) (host.State, error) {
	all, err := p.dns.Observe(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range p.dhcp.Observe() {
		all.Add(r)
	}
	for _, r := range p.ra.Observe() {
		all.Add(r)
	}
	for _, r := range p.snoop.Observe() {
		all.Add(r)
	}
	return all, nil
}

// nameLeases keeps DNS in step with DHCP.
func (p *Process) nameLeases(ctx context.Context) {
	changes, cancel := p.leases.Watch()
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return
		case c, ok := <-changes:
			if !ok {
				return
			}
			p.mu.Lock()
			if c.Lost {
				for network, bridge := range p.bridgeOf {
					p.renameLeases(network, bridge, true)
				}
			} else if bridge, known := p.bridgeOf[c.Lease.Network]; known {
				p.nameLease(bridge, c.Lease)
			}
			p.mu.Unlock()
		}
	}
}

func (p *Process) nameLease(bridge string, l dhcp.Lease) {
	if l.MAC == "" {
		return
	}
	if l.Live(time.Now()) {
		p.dns.Names.SetLease(bridge, l.MAC, l.Addr, l.Hostname)
	} else {
		p.dns.Names.RemoveLease(bridge, l.MAC, l.Addr)
	}
}

// renameLeases puts all leases of a network into DNS, or takes them out.
func (p *Process) renameLeases(network, bridge string, in bool) {
	leases := p.leases.Network(network)
	// The first to claim a name keeps it, over a restart too.
	slices.SortFunc(leases, func(a, b dhcp.Lease) int { return cmp.Compare(a.Expires, b.Expires) })
	for _, l := range leases {
		if in {
			p.nameLease(bridge, l)
		} else if l.MAC != "" {
			p.dns.Names.RemoveLease(bridge, l.MAC, l.Addr)
		}
	}
}

func (p *Process) report() *Report {
	servers, from := p.dns.Upstreams()
	r := &Report{PID: os.Getpid(), From: from, Upstreams: texts(servers)}
	if c := p.leases.Corrupt(); c != nil {
		r.Problems = append(r.Problems, c.Error())
	}
	return r
}

func texts(servers []netip.AddrPort) []string {
	list := []string{}
	for _, s := range servers {
		list = append(list, s.String())
	}
	return list
}

// watch sends every change of a lease until the daemon hangs up.
func (p *Process) watch(ctx context.Context, c *net.UnixConn) error {
	changes, cancel := p.leases.Watch()
	defer cancel()
	// Whoever reads all leases after this answer misses none.
	if err := send(c, message{Watch: true}, nil); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = c.Read(make([]byte, 1)) // the daemon says nothing more; this ends when it hangs up
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
			return nil
		case change, ok := <-changes:
			if !ok {
				return nil
			}
			if err := send(c, message{Change: &change}, nil); err != nil {
				return err
			}
		}
	}
}
