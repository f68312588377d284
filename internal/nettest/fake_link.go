package nettest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// maxName is IFNAMSIZ less the final zero.
const maxName = 15

// The route types and protocols that the kernel gives to routes of addresses.
const (
	routeUnicast   = 1
	routeLocal     = 2
	protocolKernel = 2
	// metricV6 is IP6_RT_PRIO_ADDRCONF.
	metricV6 = 256
)

// nextLink makes a link in two effects, as the kernel is told it: there and
// down, then as wanted.
func (f *Fake) nextLink(want host.Link) (change func(), err error) {
	if err := f.checkLink(want); err != nil {
		return nil, err
	}
	there, ok := f.get(want.Key()).(host.Link)
	if !ok {
		if want.Type == "" || want.Type == host.TypeVeth {
			return nil, fmt.Errorf("a link of type %q cannot be made", want.Type)
		}
		bare := host.Link{
			Name: want.Name, Type: want.Type, MAC: want.MAC, MTU: want.MTU,
			STP: want.STP, ForwardDelay: want.ForwardDelay, Filter: want.Filter,
		}
		if want.Type == host.TypeTap {
			bare.MAC, bare.MTU = fmt.Sprintf("02:00:00:00:%02x:%02x", f.births>>8&255, f.births&255), 1500
		}
		return func() { f.add(bare) }, nil
	}
	if there.Type != want.Type {
		return nil, fmt.Errorf("it is of type %q, not %q", there.Type, want.Type)
	}
	return func() { f.changeLink(there, want) }, nil
}

func (f *Fake) checkLink(want host.Link) error {
	switch {
	case want.Name == "" || len(want.Name) > maxName:
		return fmt.Errorf("the name is longer than %d characters", maxName)
	case want.Master == "" && (want.Isolated || want.Hairpin):
		return errors.New("a link that is no bridge port has no port flags")
	case want.Type != host.TypeBridge && (want.STP || want.ForwardDelay != 0 || want.Filter):
		return errors.New("a link that is no bridge has no spanning tree and filters no VLANs")
	case want.Type != host.TypeBridge && want.Master == "" && want.VLANs != "":
		return errors.New("a link that is no bridge port is in no VLANs")
	case want.Master == "":
		return nil
	case want.Type == host.TypeBridge:
		return errors.New("a bridge cannot be plugged into a bridge")
	}
	if master := f.get(host.LinkKey(want.Master)).(host.Link); master.Type != host.TypeBridge {
		return fmt.Errorf("%s is no bridge", want.Master)
	}
	return nil
}

func (f *Fake) changeLink(there, want host.Link) {
	f.add(want)
	switch {
	case there.Up && !want.Up:
		for _, a := range f.addressesOf(want.Name) {
			if a.Addr.Addr().Is6() {
				f.deleteAddress(a)
			}
		}
		for k, r := range f.state {
			if r, ok := r.(host.Route); ok && r.Link == want.Name && r.Type != routeLocal {
				delete(f.state, k)
			}
		}
	case !there.Up && want.Up:
		for _, a := range f.addressesOf(want.Name) {
			f.addRoutesOf(a)
		}
	}
}

func (f *Fake) deleteLink(l host.Link) {
	for k, r := range f.state {
		switch r := r.(type) {
		case host.Link:
			if r.Master == l.Name {
				r.Master, r.Isolated, r.Hairpin, r.VLANs = "", false, false, ""
				f.state.Add(r)
			}
		case host.Address:
			if r.Link == l.Name {
				f.drop(k)
			}
		case host.Route:
			if r.Link == l.Name {
				f.drop(k)
			}
		case host.Sysctl:
			if r.Link == l.Name {
				f.drop(k)
			}
		}
	}
	f.drop(l.Key())
}

// addressesOf lists the addresses of a link, oldest first.
func (f *Fake) addressesOf(link string) []host.Address {
	var out []host.Address
	for _, r := range f.state {
		if a, ok := r.(host.Address); ok && a.Link == link {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b host.Address) int { return f.born[a.Key()] - f.born[b.Key()] })
	return out
}

func (f *Fake) nextAddress(want host.Address) (change func(), err error) {
	if want.Dynamic && want.ValidUntil == 0 {
		return nil, errors.New("an address with a lifetime is made by DHCP or router advertisements only")
	}
	six := want.Addr.Addr().Is6()
	if six && f.value("net/ipv6/conf/"+want.Link+"/disable_ipv6") == "1" {
		return nil, errors.New("IPv6 is disabled on the link")
	}
	for _, a := range f.addressesOf(want.Link) {
		if !six || a.Addr.Addr() != want.Addr.Addr() || a.Addr == want.Addr {
			continue
		}
		if !f.leaving[a.Key()] {
			return nil, errors.New("the link has the address with another length")
		}
		return func() { f.deleteAddress(a) }, nil
	}
	return func() {
		f.add(want)
		f.addRoutesOf(want)
	}, nil
}

// primary says that no older address of the link is in the same IPv4 subnet.
func (f *Fake) primary(a host.Address) bool {
	for _, other := range f.addressesOf(a.Link) {
		if other == a {
			return true
		}
		if other.Addr.Masked() == a.Addr.Masked() {
			return a.Addr.Addr().Is6()
		}
	}
	return true
}

func (f *Fake) deleteAddress(a host.Address) {
	primary, four := f.primary(a), a.Addr.Addr().Is4()
	f.drop(a.Key())
	f.drop(localRoute(a).Key())
	shared := false
	for _, other := range f.addressesOf(a.Link) {
		if other.Addr.Masked() != a.Addr.Masked() {
			continue
		}
		if four && primary {
			f.deleteAddress(other)
			continue
		}
		shared = true
	}
	if !shared {
		f.drop(subnetRoute(a).Key())
	}
	if four && !slices.ContainsFunc(f.addressesOf(a.Link), func(o host.Address) bool { return o.Addr.Addr().Is4() }) {
		for k, r := range f.state {
			if r, ok := r.(host.Route); ok && r.Link == a.Link && r.Dst.Addr().Is4() {
				f.drop(k)
			}
		}
	}
}

// localRoute delivers what is sent to the address to the host itself.
func localRoute(a host.Address) host.Route {
	ip := a.Addr.Addr()
	return host.Route{
		Dst: netip.PrefixFrom(ip, ip.BitLen()), Link: a.Link, Table: host.LocalTable,
		Protocol: protocolKernel, Type: routeLocal, Src: source(a),
	}
}

// source is the source address that the kernel puts into routes of an address.
func source(a host.Address) netip.Addr {
	if a.Addr.Addr().Is6() {
		return netip.Addr{}
	}
	return a.Addr.Addr()
}

// subnetRoute leads to the address's subnet over its link.
func subnetRoute(a host.Address) host.Route {
	r := host.Route{Dst: a.Addr.Masked(), Link: a.Link, Table: host.MainTable, Protocol: protocolKernel, Type: routeUnicast, Src: source(a)}
	if r.Dst.Addr().Is6() {
		r.Metric = metricV6
	}
	return r
}

func (f *Fake) addRoutesOf(a host.Address) {
	l, ok := f.state[host.LinkKey(a.Link)].(host.Link)
	if !ok {
		return
	}
	four := a.Addr.Addr().Is4()
	if l.Up || four {
		local := localRoute(a)
		// What is sent from the host to itself has the primary's address.
		for _, o := range f.addressesOf(a.Link) {
			if four && o.Addr.Masked() == a.Addr.Masked() {
				local.Src = o.Addr.Addr()
				break
			}
		}
		f.add(local)
	}
	if l.Up && !a.NoPrefixRoute && (!four || f.primary(a) && a.Addr.Bits() < 32) {
		f.add(subnetRoute(a))
	}
}

func (f *Fake) nextRoute(want host.Route) (change func(), err error) {
	if want.Link == "" {
		if want.Type == routeUnicast && want.Hops == "" {
			return nil, errors.New("a route without a link cannot be made")
		}
	} else if l := f.state[host.LinkKey(want.Link)].(host.Link); !l.Up {
		return nil, fmt.Errorf("link %s is down", want.Link)
	}
	if want.Gateway.IsValid() && !want.OnLink && !f.onLink(want) {
		return nil, fmt.Errorf("the gateway %s cannot be reached over %s", want.Gateway, want.Link)
	}
	for k, r := range f.state {
		r, ok := r.(host.Route)
		if !ok || r.Dst != want.Dst || r.Table != want.Table || r.Metric != want.Metric || k == want.Key() {
			continue
		}
		if !f.leaving[k] && !f.leaving[host.LinkKey(r.Link)] {
			return nil, fmt.Errorf("%s is in the way", k)
		}
		return func() { f.drop(k); f.add(want) }, nil
	}
	return func() { f.add(want) }, nil
}

// onLink says whether a subnet of the route's link holds its gateway.
func (f *Fake) onLink(want host.Route) bool {
	if want.Gateway.IsLinkLocalUnicast() && want.Gateway.Is6() {
		return true
	}
	for _, r := range f.state {
		if r, ok := r.(host.Route); ok && r.Link == want.Link && r.Type == routeUnicast && !r.Gateway.IsValid() && r.Dst.Contains(want.Gateway) {
			return true
		}
	}
	return false
}

// parameters are those that the fake has, by their last word, with their value
// on a fresh host.
var parameters = map[string]string{
	"net/ipv4/ip_forward": "0", "net/bridge/bridge-nf-call-iptables": "0",
	"ipv4/forwarding": "0", "ipv4/rp_filter": "0", "ipv4/proxy_arp": "0", "ipv4/route_localnet": "0",
	"ipv4/send_redirects": "1", "ipv4/accept_redirects": "1", "ipv4/arp_ignore": "0", "ipv4/promote_secondaries": "0",
	"ipv6/forwarding": "0", "ipv6/accept_ra": "1", "ipv6/disable_ipv6": "0", "ipv6/autoconf": "1",
	"ipv6/accept_dad": "1", "ipv6/dad_transmits": "1", "ipv6/addr_gen_mode": "0", "ipv6/proxy_ndp": "0",
	"ipv6/accept_redirects": "1", "ipv6/router_solicitations": "-1",
}

// defaultSysctl is what a parameter is until somebody sets it; nil if the host
// has no such parameter.
func (f *Fake) defaultSysctl(path string) host.Resource {
	if value, ok := parameters[path]; ok {
		return host.Sysctl{Path: path, Value: value}
	}
	parts := strings.Split(path, "/")
	if len(parts) != 5 || parts[0] != "net" || parts[2] != "conf" {
		return nil
	}
	value, ok := parameters[parts[1]+"/"+parts[4]]
	if !ok {
		return nil
	}
	link := parts[3]
	if link == "all" || link == "default" {
		link = ""
	} else if _, ok := f.state[host.LinkKey(link)]; !ok {
		return nil
	}
	return host.Sysctl{Path: path, Value: value, Link: link}
}

// value reads a parameter, "" if there is none.
func (f *Fake) value(path string) string {
	s, _ := f.get(host.SysctlKey(path)).(host.Sysctl)
	return s.Value
}

func (f *Fake) nextSysctl(want host.Sysctl) (change func(), err error) {
	there, ok := f.get(want.Key()).(host.Sysctl)
	if !ok {
		return nil, errors.New("there is no such parameter")
	}
	if there.Value == want.Value {
		return nil, nil // Link says only whose it is
	}
	return func() {
		there.Value = want.Value
		f.add(there)
		if there.Link != "" && there.Value == "1" && strings.HasSuffix(there.Path, "/disable_ipv6") {
			for _, a := range f.addressesOf(there.Link) {
				if a.Addr.Addr().Is6() {
					f.deleteAddress(a)
				}
			}
		}
	}, nil
}
