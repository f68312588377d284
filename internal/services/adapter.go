package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"drawbridge/internal/dhcp"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Opener opens the sockets that guest services work on. It needs privileges;
// the process does not.
type Opener interface {
	// OpenDHCP returns a UDP socket on port 67 of the bridge, and one for whole
	// frames.
	OpenDHCP(bridge string) (udp, frames *os.File, err error)
	// OpenDNS returns the sockets of port 53 at an address of the bridge.
	OpenDNS(bridge string, addr netip.Addr) (udp, tcp *os.File, err error)
	// OpenRA returns a raw ICMPv6 socket on the bridge.
	OpenRA(bridge string) (*os.File, error)
	// OpenSnoop returns a packet socket that hears the guest on a tap.
	OpenSnoop(tap string) (*os.File, error)
	// Index is the interface index of a link; 0 if it is not there.
	Index(link string) int
	// InUse says whether err means that another program has the port; who it
	// is stands in the error.
	InUse(err error) bool
}

// Adapter is the guest services as a part of the host: it implements txn.Host
// for pools, reservations, guests, routers, zones and what listens on ports.
type Adapter struct {
	// Socket is the path of the process's control socket.
	Socket string
	// Spawn starts the process; it is called when nobody answers at Socket.
	Spawn  func(ctx context.Context) error
	Opener Opener
	Log    *slog.Logger

	mu   sync.Mutex
	conn *net.UnixConn
	// owed is how many requests on conn have no answer yet.
	owed int
	// deaf is when an answer was last waited for in vain.
	deaf time.Time
	// serving are the bridges that the process had sockets on when it was last
	// asked: a hint, by which sockets that are in the way are found before they
	// are.
	serving map[string]int
	// blocked are sockets that another program has, by bridge and kind.
	blocked map[host.Key]string
	// looked is what the process said when it was last looked at, sight what of that is alive.
	looked message
	sight  *host.Sight
}

// answerTime bounds how long the process may take for one answer.
const answerTime = 10 * time.Second

// deafTime is how long after that it is not asked again: who looks at a host asks
// several times, and would wait for each.
const deafTime = 3 * time.Second

// startTime bounds how long the process may take to come up.
const startTime = 10 * time.Second

// Observe asks the process what it serves. A process that is not there serves
// nothing, and neither does one whose sockets died with an earlier bridge.
func (a *Adapter) Observe(_ context.Context, keys ...host.Key) (host.State, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply, err := a.ask(message{Observe: true, Keys: keys}, nil)
	if err != nil {
		return host.State{}, nil //nolint:nilerr // nobody there is an observation, not a failure
	}
	a.serving = reply.Indexes
	state := a.alive(reply)
	if len(keys) > 0 {
		return state.Only(keys), nil
	}
	return state, nil
}

// Apply hands the process what it shall serve, and the sockets to serve on.
func (a *Adapter) Apply(ctx context.Context, steps []plan.Step) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ensure(ctx, steps); err != nil {
		if errors.Is(err, errNothingToDo) {
			return nil
		}
		return err
	}
	if err := errors.Join(a.tell(steps), a.collect()); err != nil {
		return err
	}
	for _, s := range steps {
		if s.After == nil {
			delete(a.blocked, s.Key())
		}
	}
	return nil
}

// tell sends sockets and steps; what the process says to them is yet to be
// collected.
func (a *Adapter) tell(steps []plan.Step) error {
	for _, bridge := range bridgesIn(steps) {
		if err := a.handOver(bridge, steps); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(steps, 2000) {
		if err := a.post(message{Apply: part}, nil); err != nil {
			return fmt.Errorf("guest services: %w", err)
		}
	}
	return nil
}

var errNothingToDo = errors.New("nothing to do")

// ensure makes sure that a process is there; to take services from a process
// that is not there is nothing to do.
func (a *Adapter) ensure(ctx context.Context, steps []plan.Step) error {
	if a.conn != nil || a.dial() == nil {
		return nil
	}
	if !slices.ContainsFunc(steps, func(s plan.Step) bool { return s.After != nil }) {
		return errNothingToDo
	}
	if err := a.Spawn(ctx); err != nil {
		return fmt.Errorf("start guest services: %w", err)
	}
	// A unit of systemd's is up some time after it was asked for.
	for deadline := time.Now().Add(startTime); ; {
		err := a.dial()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start guest services: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start guest services: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (a *Adapter) dial() error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.Socket, Net: "unix"})
	if err != nil {
		return err
	}
	a.conn = c
	return nil
}

// mostOwed bounds how many requests are sent before an answer is read: while
// both sides write and nobody reads, what the socket holds must be enough.
const mostOwed = 16

// post sends a request, on the one connection that there is, without waiting
// for the answer; after an error the next request begins with a new connection.
func (a *Adapter) post(m message, files []*os.File) error {
	for a.owed >= mostOwed {
		if _, err := a.answer(); err != nil {
			return err
		}
	}
	if time.Since(a.deaf) < deafTime {
		return fmt.Errorf("no answer within %s, and not asked again yet", answerTime)
	}
	if a.conn == nil {
		if err := a.dial(); err != nil {
			return err
		}
	}
	_ = a.conn.SetDeadline(time.Now().Add(answerTime)) // fails only on a closed connection, as send then does
	if err := send(a.conn, m, files); err != nil {
		a.hangUp()
		return err
	}
	a.owed++
	return nil
}

// answer waits for the answer to the oldest request.
func (a *Adapter) answer() (message, error) {
	_ = a.conn.SetDeadline(time.Now().Add(answerTime)) // as in post
	a.owed--
	reply, _, err := receive(a.conn)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			a.deaf = time.Now()
		}
		a.hangUp()
		return message{}, err
	}
	return reply, errOf(reply)
}

func (a *Adapter) hangUp() {
	a.conn.Close()
	a.conn, a.owed = nil, 0
}

// collect waits for all answers.
func (a *Adapter) collect() error {
	var errs []error
	for a.owed > 0 {
		if _, err := a.answer(); err != nil {
			errs = append(errs, fmt.Errorf("guest services: %w", err))
		}
	}
	return errors.Join(errs...)
}

// ask sends a request and waits for its answer.
func (a *Adapter) ask(m message, files []*os.File) (message, error) {
	if err := a.collect(); err != nil {
		return message{}, err
	}
	if err := a.post(m, files); err != nil {
		return message{}, err
	}
	return a.answer()
}

// handOver opens the sockets that the steps about a bridge need and sends them.
func (a *Adapter) handOver(bridge string, steps []plan.Step) error {
	set := socketSet{Bridge: bridge, Index: a.Opener.Index(bridge)}
	var files []*os.File
	defer func() { closeAll(files) }()
	add := func(role Role, f *os.File) {
		set.Roles = append(set.Roles, role)
		files = append(files, f)
	}
	for _, s := range steps {
		if s.After == nil || bridgeOf(s.After) != bridge {
			continue
		}
		_, held := a.serving[bridge]
		if held {
			if err := a.release(s, bridge); err != nil {
				return err
			}
		}
		before := len(files)
		err := a.open(s, add)
		if a.Opener.InUse(err) && !held {
			closeAll(files[before:])
			files, set.Roles = files[:before], set.Roles[:before]
			if err := a.release(s, bridge); err != nil {
				return err
			}
			err = a.open(s, add)
		}
		if a.Opener.InUse(err) {
			// The network works without; the owner of the port is named in status.
			a.block(s.Key(), err)
			continue
		}
		if err != nil {
			return err
		}
		if needsSockets(s.After) {
			delete(a.blocked, s.Key())
		}
	}
	if len(files) == 0 {
		return nil
	}
	if err := a.post(message{Sockets: &set}, files); err != nil {
		return fmt.Errorf("hand sockets of %s to the guest services: %w", bridge, err)
	}
	return nil
}

// release has the process give up the sockets that a new service needs: those
// of an earlier bridge of that name may still hold the addresses.
func (a *Adapter) release(s plan.Step, bridge string) error {
	roles := rolesOf[s.Key().Kind]
	if s.Before != nil || roles == nil {
		return nil
	}
	if _, err := a.ask(message{Release: &socketSet{Bridge: bridge, Roles: roles}}, nil); err != nil {
		return fmt.Errorf("guest services: %w", err)
	}
	return nil
}

func (a *Adapter) block(k host.Key, err error) {
	if a.blocked == nil {
		a.blocked = map[host.Key]string{}
	}
	if a.blocked[k] != err.Error() {
		a.Log.Warn("port is taken", "service", k.String(), "err", err)
	}
	a.blocked[k] = err.Error()
}

// open opens the sockets that one step needs: those of a new service, and of
// one that moves to another address.
func (a *Adapter) open(s plan.Step, add func(Role, *os.File)) error {
	switch r := s.After.(type) {
	case host.Pool:
		if s.Before != nil {
			return nil
		}
		udp, frames, err := a.Opener.OpenDHCP(r.Bridge)
		if err != nil {
			return err
		}
		add(RoleDHCP, udp)
		add(RoleFrames, frames)
	case host.Router:
		if s.Before != nil {
			return nil
		}
		f, err := a.Opener.OpenRA(r.Bridge)
		if err != nil {
			return err
		}
		add(RoleRouter, f)
	case host.Snoop:
		if s.Before != nil {
			return nil
		}
		f, err := a.Opener.OpenSnoop(r.Tap)
		if err != nil {
			return err
		}
		add(RoleSnoop, f)
	case host.Zone:
		before, _ := s.Before.(host.Zone)
		if r.Addr4.IsValid() && r.Addr4.Addr() != before.Addr4.Addr() {
			if err := a.openDNS(r.Bridge, r.Addr4.Addr(), RoleDNSUDP4, RoleDNSTCP4, add); err != nil {
				return err
			}
		}
		if r.Addr6.IsValid() && r.Addr6.Addr() != before.Addr6.Addr() {
			return a.openDNS(r.Bridge, r.Addr6.Addr(), RoleDNSUDP6, RoleDNSTCP6, add)
		}
	}
	return nil
}

func (a *Adapter) openDNS(bridge string, addr netip.Addr, udpRole, tcpRole Role, add func(Role, *os.File)) error {
	udp, tcp, err := a.Opener.OpenDNS(bridge, addr)
	if err != nil {
		return err
	}
	add(udpRole, udp)
	add(tcpRole, tcp)
	return nil
}

// Blocked lists the services that another program keeps from their port.
func (a *Adapter) Blocked() map[host.Key]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.blocked)
}

// Retry tries again to get the ports that other programs had.
func (a *Adapter) Retry() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.blocked) == 0 {
		return nil
	}
	reply, err := a.ask(message{Observe: true}, nil)
	if err != nil {
		return err
	}
	var steps []plan.Step
	for k := range a.blocked {
		if r, served := reply.State[k]; served {
			steps = append(steps, plan.Step{After: r})
		}
	}
	var errs []error
	for _, bridge := range bridgesIn(steps) {
		errs = append(errs, a.handOver(bridge, steps))
	}
	return errors.Join(append(errs, a.collect())...)
}

// Leases lists all leases that the process knows, ended ones too.
func (a *Adapter) Leases() ([]dhcp.Lease, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply, err := a.ask(message{Leases: true}, nil)
	return reply.LeaseSet, err
}

// Report asks the process about itself.
func (a *Adapter) Report() (Report, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply, err := a.ask(message{Report: true}, nil)
	if err != nil || reply.Told == nil {
		return Report{}, err
	}
	return *reply.Told, nil
}

// Stop ends the process. One that is not there is no error.
func (a *Adapter) Stop() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil && a.dial() != nil {
		return nil
	}
	_, err := a.ask(message{Stop: true}, nil)
	return err
}

// Watch calls each for every change of a lease, until ctx ends or the process
// is gone; then it returns. It calls watching once, in a goroutine of its own,
// as soon as no later change can be missed.
func (a *Adapter) Watch(ctx context.Context, watching func(), each func(dhcp.Change)) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.Socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := send(c, message{Watch: true}, nil); err != nil {
		return err
	}
	for {
		m, _, err := receive(c)
		if err != nil {
			return err
		}
		switch {
		case m.Watch:
			go watching()
		case m.Change != nil:
			each(*m.Change)
		}
	}
}

func bridgesIn(steps []plan.Step) []string {
	var names []string
	for _, s := range steps {
		if s.After != nil && needsSockets(s.After) {
			names = append(names, bridgeOf(s.After))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func needsSockets(r host.Resource) bool {
	switch r := r.(type) {
	case host.Pool, host.Router, host.Snoop:
		return true
	case host.Zone:
		// One without addresses is answered where others listen.
		return r.Addr4.IsValid() || r.Addr6.IsValid()
	}
	return false
}

func bridgeOf(r host.Resource) string {
	switch r := r.(type) {
	case host.Pool:
		return r.Bridge
	case host.Zone:
		return r.Bridge
	case host.Router:
		return r.Bridge
	case host.Reservation:
		return r.Bridge
	case host.Guest:
		return r.Bridge
	case host.Snoop:
		return r.Tap // its socket is there
	}
	return ""
}
