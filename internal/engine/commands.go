package engine

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// Command is a wish in the words of the document. Edit is pure; everything that
// makes it true is the engine's.
type Command interface {
	// Title says in a few words what is being done, for the record and for errors.
	Title() string
	Edit(spec.Document) (spec.Document, error)
}

// CreateNetwork adds a network. Bridge, MAC, UUID, Subnets and Domain may be
// left empty; they are settled before anything is done.
type CreateNetwork struct{ Network spec.Network }

// Title names the network.
func (c CreateNetwork) Title() string { return fmt.Sprintf("create network %q", c.Network.Name) }

// Edit adds the network; ErrExists if the name is taken.
func (c CreateNetwork) Edit(d spec.Document) (spec.Document, error) {
	if _, taken := d.Networks[c.Network.Name]; taken {
		return d, fmt.Errorf("network %q: %w", c.Network.Name, spec.ErrExists)
	}
	return d.With(c.Network), nil
}

// StartNetwork makes a network run, StopNetwork makes it stop.
type StartNetwork struct{ Name spec.NetworkName }

// Title names the network.
func (c StartNetwork) Title() string { return fmt.Sprintf("start network %q", c.Name) }

// Edit sets Started.
func (c StartNetwork) Edit(d spec.Document) (spec.Document, error) { return started(d, c.Name, true) }

// StopNetwork takes a network's switch, rules and services away; it stays defined.
type StopNetwork struct{ Name spec.NetworkName }

// Title names the network.
func (c StopNetwork) Title() string { return fmt.Sprintf("stop network %q", c.Name) }

// Edit clears Started.
func (c StopNetwork) Edit(d spec.Document) (spec.Document, error) { return started(d, c.Name, false) }

// StartAll and StopAll are StartNetwork and StopNetwork for every network in
// one change.
type StartAll struct{}

// Title names the change.
func (StartAll) Title() string { return "start all networks" }

// Edit sets Started everywhere.
func (StartAll) Edit(d spec.Document) (spec.Document, error) { return startedAll(d, true) }

// StopAll stops every network in one change.
type StopAll struct{}

// Title names the change.
func (StopAll) Title() string { return "stop all networks" }

// Edit clears Started everywhere.
func (StopAll) Edit(d spec.Document) (spec.Document, error) { return startedAll(d, false) }

func startedAll(d spec.Document, on bool) (spec.Document, error) {
	d = d.Clone()
	for name, n := range d.Networks {
		n.Started = on
		d.Networks[name] = n
	}
	return d, nil
}

func started(d spec.Document, name spec.NetworkName, on bool) (spec.Document, error) {
	n, err := d.Network(name)
	if err != nil {
		return d, err
	}
	n.Started = on
	return d.With(n), nil
}

// RemoveNetwork forgets a network, running or not.
type RemoveNetwork struct{ Name spec.NetworkName }

// Title names the network.
func (c RemoveNetwork) Title() string { return fmt.Sprintf("remove network %q", c.Name) }

// Edit removes it; ErrNotFound if it is not there.
func (c RemoveNetwork) Edit(d spec.Document) (spec.Document, error) {
	if _, err := d.Network(c.Name); err != nil {
		return d, err
	}
	return d.Without(c.Name), nil
}

// Reserve ties an address to a hardware address on a network.
type Reserve struct {
	Name        spec.NetworkName
	Reservation spec.Reservation
}

// Title names both.
func (c Reserve) Title() string {
	return fmt.Sprintf("reserve %s for %s on network %q", c.Reservation.Addr, c.Reservation.MAC, c.Name)
}

// Edit adds the reservation or replaces that of the same hardware address.
func (c Reserve) Edit(d spec.Document) (spec.Document, error) {
	n, err := d.Network(c.Name)
	if err != nil {
		return d, err
	}
	for _, r := range n.Reservations {
		if r.MAC != c.Reservation.MAC && r.Addr == c.Reservation.Addr {
			return d, fmt.Errorf("%s is reserved for %s on network %q: %w", r.Addr, r.MAC, c.Name, spec.ErrExists)
		}
	}
	return d.With(n.Reserve(c.Reservation)), nil
}

// Unreserve takes a reservation back.
type Unreserve struct {
	Name spec.NetworkName
	MAC  string
}

// Title names both.
func (c Unreserve) Title() string {
	return fmt.Sprintf("remove the reservation of %s on network %q", c.MAC, c.Name)
}

// Edit removes it; ErrNotFound if there is none.
func (c Unreserve) Edit(d spec.Document) (spec.Document, error) {
	n, err := d.Network(c.Name)
	if err != nil {
		return d, err
	}
	if !slices.ContainsFunc(n.Reservations, func(r spec.Reservation) bool { return r.MAC == c.MAC }) {
		return d, fmt.Errorf("reservation of %s on network %q: %w", c.MAC, c.Name, spec.ErrNotFound)
	}
	return d.With(n.Unreserve(c.MAC)), nil
}

// ApplyDocument makes the networks of Document all that there is. What a
// network there leaves open (bridge, MAC, UUID, subnets, domain) keeps what it
// is, if the network exists already.
type ApplyDocument struct{ Document spec.Document }

// Title names the change.
func (ApplyDocument) Title() string { return "apply document" }

// Edit replaces all networks.
func (c ApplyDocument) Edit(d spec.Document) (spec.Document, error) {
	out := spec.Document{Revision: d.Revision, Networks: map[spec.NetworkName]spec.Network{}}
	for name, n := range c.Document.Networks {
		if old, ok := d.Networks[name]; ok {
			n = keepSettled(n, old)
		}
		out.Networks[name] = n.Clone()
	}
	return out, nil
}

func keepSettled(n, old spec.Network) spec.Network {
	for _, f := range []struct {
		to   *string
		from string
	}{{&n.Bridge, old.Bridge}, {&n.MAC, old.MAC}, {&n.UUID, old.UUID}, {&n.Domain, old.Domain}} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
	if slices.Equal(slices.Sorted(slices.Values(n.Uplinks)), slices.Sorted(slices.Values(old.Uplinks))) {
		n.Uplinks = slices.Clone(old.Uplinks) // which is the first was settled
	}
	if _, four := n.Subnet4(); !four {
		if s, ok := old.Subnet4(); ok && n.Mode == old.Mode {
			n.Subnets = append([]spec.Subnet{s}, n.Subnets...)
		}
	}
	if _, six := n.Subnet6(); !six && (n.IPv6 == "" || n.IPv6 == spec.IPv6Auto) {
		if s, ok := old.Subnet6(); ok {
			n.Subnets = append(n.Subnets, s)
		}
	}
	n.Forwards = render.SettleForwards(n) // before they are compared with those that are there
	return n
}

// SetNetwork changes attributes by the names that users type; see Settings.
type SetNetwork struct {
	Name     spec.NetworkName
	Settings map[string]string
}

// Settings lists what SetNetwork understands, in the order of help texts.
var Settings = []Setting{
	{"mtu", "bytes", "size of the largest packet on the network", setMTU},
	{"domain", "DOMAIN", "DNS domain of the guests", func(n *spec.Network, v string) error { n.Domain = v; return nil }},
	{"dhcp-range", "A-B", "addresses given away by DHCP; 'off' for reserved ones only", setRange},
	{"lease-time", "TIME", "how long a guest may keep an address unasked", setLease},
	{"subnet", "CIDR", "replaces the subnet of the same family", setSubnet},
	{"ipv6", "auto|off|CIDR", "IPv6 on the network", setIPv6},
	{"autostart", "true|false", "start the network at boot", setAutostart},
	{"allow-users", "A,B", "users that may attach ports of their own", setUsers},
	{"vlan", "ID|none", "VLAN of the LAN that guests are in without knowing of it", setVLAN},
	{"vlan-trunk", "30,40-49|none", "VLANs that guests get with their tags", setTrunk},
	{"mode", "MODE", "what the network does with its traffic", func(n *spec.Network, v string) error { n.Mode = spec.ModeName(v); return nil }},
	{"bridge", "NAME", "name of the bridge; only while the network is stopped", setBridge},
}

// Setting is one attribute of a network that can be set.
type Setting struct {
	Name, Form, Help string
	set              func(*spec.Network, string) error
}

// Title names the network and the attributes.
func (c SetNetwork) Title() string {
	var names []string
	for name := range c.Settings {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Sprintf("set %s of network %q", strings.Join(names, ", "), c.Name)
}

// Edit sets the attributes in the order of Settings; *spec.InvalidError for an
// unknown name or a bad value.
func (c SetNetwork) Edit(d spec.Document) (spec.Document, error) {
	n, err := d.Network(c.Name)
	if err != nil {
		return d, err
	}
	known := map[string]bool{}
	for _, s := range Settings {
		known[s.Name] = true
		if v, ok := c.Settings[s.Name]; ok {
			if err := s.set(&n, v); err != nil {
				return d, err
			}
		}
	}
	for name := range c.Settings {
		if !known[name] {
			return d, &spec.InvalidError{Field: name, Reason: "no such setting" + settingsMeant(name)}
		}
	}
	return d.With(n), nil
}

func settingsMeant(name string) string {
	var names []string
	for _, s := range Settings {
		names = append(names, s.Name)
	}
	return cmp.Or(spec.Meant(name, names), "; there are "+strings.Join(names, ", "))
}

func setMTU(n *spec.Network, v string) error {
	mtu, err := strconv.Atoi(v)
	if err != nil {
		return &spec.InvalidError{Field: "mtu", Reason: strconv.Quote(v) + " is not a number of bytes"}
	}
	n.MTU = mtu
	return nil
}

func setAutostart(n *spec.Network, v string) error {
	on, err := strconv.ParseBool(v)
	if err != nil {
		return &spec.InvalidError{Field: "autostart", Reason: strconv.Quote(v) + " is neither true nor false"}
	}
	n.Autostart = on
	return nil
}

func setUsers(n *spec.Network, v string) error {
	n.AllowUsers = nil
	if v != "" {
		n.AllowUsers = strings.Split(v, ",")
	}
	return nil
}

func setBridge(n *spec.Network, v string) error {
	if n.Started && v != n.Bridge {
		return fmt.Errorf("bridge of the running network %q: %w; stop it first", n.Name, spec.ErrInUse)
	}
	n.Bridge = v
	return nil
}

func setRange(n *spec.Network, v string) error {
	r := spec.Range{}
	if v != "off" {
		parsed, err := spec.ParseRange(v)
		if err != nil {
			return err
		}
		r = parsed
	}
	return editSubnet4(n, "dhcp-range", func(s *spec.Subnet) { s.Range = r })
}

func setLease(n *spec.Network, v string) error {
	seconds, err := ParseLeaseTime(v)
	if err != nil {
		return err
	}
	return editSubnet4(n, "lease-time", func(s *spec.Subnet) { s.LeaseSeconds = seconds })
}

// ParseLeaseTime reads whole seconds, or a duration of whole seconds such as 1h;
// *spec.InvalidError otherwise.
func ParseLeaseTime(text string) (seconds int, err error) {
	if n, err := strconv.Atoi(text); err == nil {
		return n, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d%time.Second != 0 {
		return 0, &spec.InvalidError{Field: "lease-time", Reason: strconv.Quote(text) + " is neither a number of seconds nor a duration such as 1h"}
	}
	return int(d / time.Second), nil
}

func editSubnet4(n *spec.Network, field string, edit func(*spec.Subnet)) error {
	for i := range n.Subnets {
		if n.Subnets[i].Prefix.Addr().Is4() {
			edit(&n.Subnets[i])
			return nil
		}
	}
	return &spec.InvalidError{Field: field, Reason: fmt.Sprintf("network %q has no IPv4 subnet", n.Name)}
}

func setSubnet(n *spec.Network, v string) error {
	p, err := spec.ParsePrefix(v)
	if err != nil {
		return err
	}
	putSubnet(n, p)
	return nil
}

func putSubnet(n *spec.Network, p netip.Prefix) {
	fresh := spec.NewSubnet(p)
	for i, s := range n.Subnets {
		if s.Prefix.Addr().Is4() == p.Addr().Is4() {
			n.Subnets[i] = fresh
			return
		}
	}
	n.Subnets = append(n.Subnets, fresh)
}

func setIPv6(n *spec.Network, v string) error {
	wish := spec.IPv6Wish(v)
	if _, prefix := wish.Prefix(); !prefix && wish != spec.IPv6Auto && wish != spec.IPv6Off {
		return &spec.InvalidError{Field: "ipv6", Reason: strconv.Quote(v) + " is not auto, off or an IPv6 prefix"}
	}
	if wish != spec.IPv6Auto {
		n.Subnets = slices.DeleteFunc(n.Subnets, func(s spec.Subnet) bool { return s.Prefix.Addr().Is6() })
	}
	n.IPv6 = wish
	return nil
}
