package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// ForwardRequest asks for a forward, in the words of a person: what is left
// open is found out.
type ForwardRequest struct {
	// Network of the guest; "" finds it by the guest.
	Network spec.NetworkName
	// Protos are the protocols; each becomes a forward of its own.
	Protos []spec.Proto
	// Listen is invalid for every address of the host.
	Listen      netip.Addr
	First, Last uint16
	// Guest is a name, a hardware address or an address; Port 0 is First.
	Guest   string
	Port    uint16
	From    []netip.Prefix
	Until   int64
	Comment string
	// Force goes on although something else answers on the port, or swallows
	// what comes to it; ListenAnyway although the address is not the host's.
	Force, ListenAnyway bool
}

// Forward is the forward of one of the protocols, not yet settled.
func (r ForwardRequest) Forward(proto spec.Proto) spec.Forward {
	return spec.Forward{
		Proto: proto, Listen: r.Listen, First: r.First, Last: r.Last, Target: r.Guest, TargetPort: r.Port,
		From: r.From, Until: r.Until, Comment: r.Comment,
	}
}

// AddForward opens doors.
type AddForward struct {
	Network  spec.NetworkName
	Forwards []spec.Forward
}

// Title names the doors and the guest.
func (c AddForward) Title() string {
	return fmt.Sprintf("forward %s to %s", keysOfForwards(c.Forwards), c.Forwards[0].Target)
}

// Edit adds the forwards; ErrExists if one is there already.
func (c AddForward) Edit(d spec.Document) (spec.Document, error) {
	n, err := d.Network(c.Network)
	if err != nil {
		return d, err
	}
	for _, f := range c.Forwards {
		if old, there := n.Forwards.Find(f); there {
			return d, fmt.Errorf("forward %s goes to %s: %w; remove it first with: drawbridge forward rm %s", f.Key(), old.Target, spec.ErrExists, f.Key())
		}
		n = n.WithForward(n.SettleForward(f))
	}
	return d.With(n), nil
}

// RemoveForward closes doors.
type RemoveForward struct{ Selector spec.Selector }

// Title names what was asked for.
func (c RemoveForward) Title() string { return "remove forward " + c.Selector.String() }

// Edit takes out every forward that the selector names; see spec.Document.Select.
func (c RemoveForward) Edit(d spec.Document) (spec.Document, error) {
	chosen, err := d.Select(c.Selector)
	if err != nil {
		return d, err
	}
	for name, list := range chosen {
		n := d.Networks[name]
		for _, f := range list {
			n = n.WithoutForward(f)
		}
		d = d.With(n)
	}
	return d, nil
}

func keysOfForwards(list []spec.Forward) string {
	var keys []string
	for _, f := range list {
		keys = append(keys, f.Key())
	}
	return strings.Join(keys, " and ")
}

// ForwardView is a forward and how it really is.
type ForwardView struct {
	Network spec.NetworkName
	spec.Forward
	// Guest is the guest's name, where it is known; else what the forward says.
	Guest string
	// Address is where it leads just now; invalid while it waits.
	Address netip.Addr
	// Waiting says why it leads nowhere; "" if it leads somewhere.
	Waiting string
	// Counts since the forward was made.
	Counts
	// Reached says from where it can be used; nil if that was not looked at.
	Reached []ReachedFrom
}

// AddForward finds out what the request left open, looks for what stands in
// the way, and opens the doors.
func (e *Engine) AddForward(ctx context.Context, r ForwardRequest, o Options) (Result, error) {
	if len(r.Protos) == 0 {
		r.Protos = []spec.Proto{spec.TCP}
	}
	doc := e.Store.Document()
	network, note, err := e.networkOfGuest(ctx, doc, r)
	if err == nil && render.Open(network) {
		err = e.reachedDirectly(ctx, network, r.Guest)
	}
	if err != nil {
		return Result{}, fmt.Errorf("forward to %s: %w", r.Guest, err)
	}
	c := AddForward{Network: network.Name}
	for _, proto := range r.Protos {
		c.Forwards = append(c.Forwards, network.SettleForward(r.Forward(proto)))
	}
	notes, risky, err := e.inTheWay(ctx, network, c.Forwards, r, o.PID)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", c.Title(), err)
	}
	if note != "" {
		notes = append(notes, note)
	}
	o.risky = risky
	res, err := e.Do(ctx, c, o)
	res.Notes = append(notes, res.Notes...)
	return res, err
}

// networkOfGuest finds the network that a forward to the guest belongs to. A
// guest that nobody knows yet is taken to come to the only network that can
// have forwards, or to the one called default.
func (e *Engine) networkOfGuest(ctx context.Context, doc spec.Document, r ForwardRequest) (spec.Network, string, error) {
	if r.Network != "" {
		n, err := doc.Network(r.Network)
		return n, "", err
	}
	if a, err := netip.ParseAddr(r.Guest); err == nil {
		for _, name := range doc.Names() {
			for _, s := range doc.Networks[name].Subnets {
				if s.Prefix.Contains(a) {
					return doc.Networks[name], "", nil
				}
			}
		}
		if n, ok := e.openNetworkOf(ctx, doc, r.Guest); ok {
			return n, "", nil
		}
		return spec.Network{}, "", &spec.InvalidError{Field: "guest", Reason: fmt.Sprintf("%s is in no subnet of a network", a)}
	}
	e.mu.Lock()
	who := e.guests(ctx, doc)
	homes, known := who.homes(r.Guest), who.known()
	e.mu.Unlock()
	switch len(homes) {
	case 1:
		return doc.Networks[homes[0]], "", nil
	case 0:
		n, note, err := guessNetwork(doc, r.Guest)
		return n, note + spec.Meant(r.Guest, known), err
	}
	var names []string
	for _, h := range homes {
		names = append(names, string(h))
	}
	return spec.Network{}, "", &spec.InvalidError{Field: "network", Reason: fmt.Sprintf("%s is on %s; say which with --network", r.Guest, strings.Join(names, " and "))}
}

// openNetworkOf finds the network on which a guest was heard to use an address that
// others gave it.
func (e *Engine) openNetworkOf(ctx context.Context, doc spec.Document, addr string) (spec.Network, bool) {
	v, err := e.View(ctx)
	if err != nil {
		return spec.Network{}, false
	}
	for _, p := range v.Ports {
		if n, there := doc.Networks[p.Network]; there && render.Open(n) && slices.Contains(p.Addresses, addr) {
			return n, true
		}
	}
	return spec.Network{}, false
}

// reachedDirectly refuses a forward to a guest that has an address of the LAN: nothing
// stands before it that a forward would lead through.
func (e *Engine) reachedDirectly(ctx context.Context, n spec.Network, guest string) error {
	where := "with an address of the LAN, which drawbridge port ls shows once it has one"
	if v, err := e.View(ctx); err == nil {
		for _, p := range v.Ports {
			if p.Network == n.Name && (p.Guest == guest || p.MAC == guest || slices.Contains(p.Addresses, guest)) && len(p.Addresses) > 0 {
				where = "as " + p.Addresses[0]
			}
		}
	}
	return &spec.InvalidError{Field: "guest", Reason: fmt.Sprintf(
		"guests of network %q (mode %s) are on the LAN themselves: others reach this one %s, on every port, and need no forward; "+
			"for a forward give it a second NIC on a NAT network", n.Name, n.Mode, where)}
}

// defaultNetwork is the network that a fresh host has.
const defaultNetwork = spec.NetworkName("default")

func guessNetwork(doc spec.Document, guest string) (spec.Network, string, error) {
	var can []spec.NetworkName
	for _, name := range doc.Names() {
		if render.CanForward(doc.Networks[name]) {
			can = append(can, name)
		}
	}
	switch {
	case len(can) == 0:
		return spec.Network{}, "", &spec.InvalidError{Field: "network", Reason: "there is no NAT network to forward into; make one with: drawbridge network create default"}
	case len(can) > 1 && !slices.Contains(can, defaultNetwork):
		return spec.Network{}, "", &spec.InvalidError{Field: "network", Reason: fmt.Sprintf("nobody knows a guest %s yet, and there are several networks; say which with --network", guest)}
	case slices.Contains(can, defaultNetwork):
		can = []spec.NetworkName{defaultNetwork}
	}
	return doc.Networks[can[0]], fmt.Sprintf("no guest %s is known yet: the forward waits for it on network %s", guest, can[0]), nil
}

// Forwards lists all forwards, and where they lead just now.
func (e *Engine) Forwards(ctx context.Context) ([]ForwardView, error) {
	doc := e.Store.Document()
	var all []ForwardView
	var keys []string
	e.mu.Lock()
	who := e.guests(ctx, doc)
	targets := map[render.Target]netip.Addr{}
	now := e.Now().Unix()
	for _, name := range doc.Names() {
		n := doc.Networks[name]
		who.targets(targets, n, n.Forwards.All())
		facts := render.Facts{Targets: targets}
		for f := range n.Forwards.All() {
			v := ForwardView{Network: name, Forward: f}
			v.Address, _ = facts.GuestAddr(name, f)
			switch {
			case f.Until != 0 && f.Until <= now:
				v.Waiting, v.Address = "its time is over", netip.Addr{}
			case !e.runs(n):
				v.Waiting, v.Address = fmt.Sprintf("network %s is not running", name), netip.Addr{}
			case !v.Address.IsValid():
				v.Waiting = fmt.Sprintf("no guest %s has an address on network %s yet", f.Target, name)
			}
			all, keys = append(all, v), append(keys, f.Key())
		}
	}
	e.mu.Unlock()
	if e.Tally == nil || len(all) == 0 {
		return all, nil
	}
	counts, err := e.Tally.Totals(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("count what went through forwards: %w", err)
	}
	for i, key := range keys {
		all[i].Counts = counts[key]
	}
	return all, nil
}
