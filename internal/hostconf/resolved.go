package hostconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Names on the bus, org.freedesktop.resolve1(5).
const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = dbus.ObjectPath("/org/freedesktop/resolve1")
	resolvedManager = "org.freedesktop.resolve1.Manager."
	resolvedLink    = "org.freedesktop.resolve1.Link"
	noSuchLink      = "org.freedesktop.resolve1.NoSuchLink"
	linkBusy        = "org.freedesktop.resolve1.LinkBusy"
)

// Resolved makes systemd-resolved ask a network's own DNS service for the
// network's domain: the kind host.Resolver. It implements txn.Host.
//
// What is set for the link is its server, its domain and reverse zones, and that
// it is asked for nothing else. The domain is a search domain, not routing-only
// ("~domain"): a search domain also routes, and so "ping guest" works without the
// domain. The reverse zones are routing-only; resolved routes addresses of a
// link's subnets there by itself, but only since version 248 and while the link
// has a carrier. The link is not a default route for names, so the host's other names are never
// asked of us, and no circle can arise; for that, package dns also passes over
// resolved's stub and our own addresses, in case resolved lists them as its own.
// LLMNR and multicast DNS are off: the host shall not talk to guests' answers to
// names that we own. DNSSEC and DNS over TLS are off: our zones are unsigned, and
// the way to them does not leave the host.
type Resolved struct {
	systemBus
	link func(name string) (index int, err error)
	name func(index int) (name string, err error)
}

// NewResolved returns the adapter. address is the bus ("unix:path=…"); "" is the
// system bus. Nothing is connected until it is needed.
func NewResolved(address string) *Resolved {
	return &Resolved{
		systemBus: systemBus{address: address},
		link: func(name string) (int, error) {
			i, err := net.InterfaceByName(name)
			if err != nil {
				return 0, err
			}
			return i.Index, nil
		},
		name: func(index int) (string, error) {
			i, err := net.InterfaceByIndex(index)
			if err != nil {
				return "", err
			}
			return i.Name, nil
		},
	}
}

// Available says whether systemd-resolved can be used just now; see Absence.
func (r *Resolved) Available(ctx context.Context) bool { return r.Absence(ctx) == nil }

// Why systemd-resolved cannot be used.
var (
	errNotRunning = errors.New("systemd-resolved does not run")
	errElsewhere  = errors.New("the systemd-resolved on the system bus is not seen to run in this network namespace: " +
		"its links are others than ours, and it is left alone")
)

// Absence says why systemd-resolved cannot be used just now, nil if it can. A
// daemon in a network namespace of its own can reach the host's bus, and the
// same index is another link there: what cannot be told to be ours is not used.
// It does not start resolved.
func (r *Resolved) Absence(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := r.bus()
	if err != nil {
		return err
	}
	var pid uint32
	err = conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, resolvedName).Store(&pid)
	switch {
	case isError(err, "org.freedesktop.DBus.Error.NameHasNoOwner"):
		return errNotRunning
	case err != nil:
		return fmt.Errorf("look for systemd-resolved: %w", err)
	case !sharesNetwork(pid, "systemd-resolved"):
		return errElsewhere
	}
	return nil
}

// Observe reads the entries of links. An entry that is not in all points as
// Apply makes it has an invalid Server, so that it differs from what is wanted.
// Where resolved does not run there are none.
func (r *Resolved) Observe(ctx context.Context, keys ...host.Key) (host.State, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	seen := host.State{}
	if !r.Available(ctx) {
		return seen, nil
	}
	conn, err := r.bus()
	if err != nil {
		return nil, err
	}
	var links []string
	for _, k := range keys {
		if k.Kind == host.KindResolver {
			links = append(links, k.Name)
		}
	}
	if len(keys) == 0 {
		if links, err = r.list(ctx, conn); err != nil {
			return nil, err
		}
	}
	for _, name := range links {
		entry, ok, err := r.observe(ctx, conn, name)
		if err != nil {
			return nil, fmt.Errorf("read resolver entry of %s: %w", name, err)
		}
		if ok {
			seen.Add(entry)
		}
	}
	return seen, nil
}

// list names the links that have servers.
func (r *Resolved) list(ctx context.Context, conn *dbus.Conn) ([]string, error) {
	var v dbus.Variant
	err := conn.Object(resolvedName, resolvedPath).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get",
		dbus.FlagNoAutoStart, "org.freedesktop.resolve1.Manager", "DNS").Store(&v)
	var servers []struct {
		Link   int32
		Family int32
		Addr   []byte
	}
	if err == nil {
		err = v.Store(&servers)
	}
	if err != nil {
		return nil, fmt.Errorf("list resolver entries: %w", err)
	}
	var names []string
	done := map[int32]bool{0: true} // 0 is what is set for the whole host
	for _, s := range servers {
		if done[s.Link] {
			continue
		}
		done[s.Link] = true
		if name, err := r.name(int(s.Link)); err == nil { // else it went meanwhile
			names = append(names, name)
		}
	}
	return names, nil
}

// linkServer and linkDomain are as on the bus.
type linkServer struct {
	Family int32
	Addr   []byte
}

type linkDomain struct {
	Domain  string
	Routing bool
}

func (r *Resolved) observe(ctx context.Context, conn *dbus.Conn, name string) (host.Resolver, bool, error) {
	entry := host.Resolver{Link: name}
	index, err := r.link(name)
	if err != nil {
		return entry, false, nil // resolved forgets a link that goes
	}
	var path dbus.ObjectPath
	err = conn.Object(resolvedName, resolvedPath).CallWithContext(ctx, resolvedManager+"GetLink", dbus.FlagNoAutoStart, int32(index)).Store(&path)
	if isError(err, noSuchLink) {
		return entry, false, nil
	}
	props := map[string]dbus.Variant{}
	if err == nil {
		err = conn.Object(resolvedName, path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll",
			dbus.FlagNoAutoStart, resolvedLink).Store(&props)
	}
	if isError(err, "org.freedesktop.DBus.Error.UnknownObject") {
		return entry, false, nil
	}
	if err != nil {
		return entry, false, err
	}
	var servers []linkServer
	var domains []linkDomain
	if err := props["DNS"].Store(&servers); err != nil {
		return entry, false, fmt.Errorf("property DNS: %w", err)
	}
	if err := props["Domains"].Store(&domains); err != nil {
		return entry, false, fmt.Errorf("property Domains: %w", err)
	}
	if len(servers) == 0 && len(domains) == 0 {
		return entry, false, nil
	}
	var search, reverse []string
	for _, d := range domains {
		if d.Routing {
			reverse = append(reverse, d.Domain)
		} else {
			search = append(search, d.Domain)
		}
	}
	slices.Sort(reverse)
	entry.Reverse = strings.Join(reverse, " ")
	if len(search) > 0 {
		entry.Domain = search[0]
	}
	if len(servers) == 1 && len(search) == 1 && aloof(props) {
		entry.Server, _ = netip.AddrFromSlice(servers[0].Addr)
	}
	return entry, true, nil
}

// aloof says whether the link is asked for nothing but its domain, and plainly.
func aloof(props map[string]dbus.Variant) bool {
	def, ok := props["DefaultRoute"].Value().(bool)
	for _, name := range []string{"LLMNR", "MulticastDNS", "DNSSEC", "DNSOverTLS"} {
		// A resolved that was built without one has no such property, or says no.
		if v := props[name].Value(); v != nil && v != "no" {
			return false
		}
	}
	return ok && !def
}

// Apply sets and reverts entries. A step of another kind is an error, and so is
// setting an entry where resolved does not run; reverting is done there already.
func (r *Resolved) Apply(ctx context.Context, steps []plan.Step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, s := range steps {
		if err := r.apply(ctx, s); err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return nil
}

func (r *Resolved) apply(ctx context.Context, s plan.Step) error {
	if s.Key().Kind != host.KindResolver {
		return errors.New("not a matter of systemd-resolved")
	}
	if err := r.Absence(ctx); err != nil {
		if s.After == nil {
			return nil
		}
		return err
	}
	conn, err := r.bus()
	if err != nil {
		return err
	}
	index, err := r.link(s.Key().Name)
	if err != nil {
		if s.After == nil {
			return nil
		}
		return fmt.Errorf("find link: %w", err)
	}
	manager := conn.Object(resolvedName, resolvedPath)
	if s.After == nil {
		err := manager.CallWithContext(ctx, resolvedManager+"RevertLink", dbus.FlagNoAutoStart, int32(index)).Err
		if isError(err, noSuchLink) {
			return nil
		}
		return err
	}
	want := s.After.(host.Resolver)
	domains := []linkDomain{{want.Domain, false}}
	for zone := range strings.FieldsSeq(want.Reverse) {
		domains = append(domains, linkDomain{zone, true})
	}
	family := int32(2) // AF_INET
	if want.Server.Is6() {
		family = 10 // AF_INET6
	}
	for _, call := range []struct {
		method string
		value  any
	}{
		// What keeps other names away comes first: at no time are they asked of us.
		{"SetLinkDefaultRoute", false},
		{"SetLinkLLMNR", "no"},
		{"SetLinkMulticastDNS", "no"},
		{"SetLinkDNSSEC", "no"},
		{"SetLinkDNSOverTLS", "no"},
		{"SetLinkDomains", domains},
		{"SetLinkDNS", []linkServer{{family, want.Server.AsSlice()}}},
	} {
		if err := set(ctx, manager, call.method, index, call.value); err != nil {
			return fmt.Errorf("%s: %w", call.method, err)
		}
	}
	return nil
}

// linkPatience is how long resolved may take to notice a new link. It hears of
// it from the kernel as we do, and is asked by us right after we made it.
const linkPatience = 3 * time.Second

// set makes one call, again while resolved does not know the link yet.
func set(ctx context.Context, manager dbus.BusObject, method string, index int, value any) error {
	ctx, cancel := context.WithTimeout(ctx, linkPatience)
	defer cancel()
	for {
		err := manager.CallWithContext(ctx, resolvedManager+method, dbus.FlagNoAutoStart, int32(index), value).Err
		switch {
		case isError(err, linkBusy):
			return fmt.Errorf("systemd-networkd manages the link; set Unmanaged=yes for it (systemd.network(5)): %w", err)
		case !isError(err, noSuchLink):
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func isError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// busPatience is how long to wait before asking again for a bus that is not
// there or went away.
const busPatience = 10 * time.Second

// Restarts tells when systemd-resolved has started, each time, until ctx ends;
// then the channel is closed. A restarted resolved remembers what was set only as
// long as its notes below /run are left to it. A value may stand for several starts, or for none when the bus was away.
func (r *Resolved) Restarts(ctx context.Context) <-chan struct{} {
	restarts := make(chan struct{}, 1)
	go func() {
		defer close(restarts)
		for again := false; ctx.Err() == nil; again = true {
			_ = r.follow(ctx, restarts, again) // no bus is no fault: there is no resolved then
			select {
			case <-ctx.Done():
			case <-time.After(busPatience):
			}
		}
	}()
	return restarts
}

// follow reports starts over a connection of its own until that is lost.
func (r *Resolved) follow(ctx context.Context, restarts chan<- struct{}, again bool) error {
	conn, err := r.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, resolvedName))
	if err != nil {
		return fmt.Errorf("watch the system bus: %w", err)
	}
	tell := func() {
		select {
		case restarts <- struct{}{}:
		default: // one is waiting already
		}
	}
	if again {
		tell() // it may have started while we were not listening
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, ok := <-signals:
			if !ok {
				return dbus.ErrClosed
			}
			if len(s.Body) == 3 && s.Body[0] == resolvedName && s.Body[2] != "" {
				tell()
			}
		}
	}
}
