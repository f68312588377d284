package rest

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
)

// rangeOff is how a document says that DHCP gives away reserved addresses only.
const rangeOff = "off"

type applying struct {
	Changing
	RawBody []byte
}

func (s *Server) registerDocument() {
	handle(s, s.operation("get-document", http.MethodGet, "/document", "All that is wanted; applied again, it changes nothing"),
		func(context.Context, *struct{}) (api.Document, error) {
			return documentOf(s.Engine.Document()), nil
		})
	s.registerApply("apply-document", "/apply", "Make a document all that there is; what it does not name is removed", false)
	s.registerApply("plan-document", "/plan", "Say what applying a document would do", true)
}

func (s *Server) registerApply(id, path, summary string, dryRun bool) {
	op := s.operation(id, http.MethodPost, path, summary)
	huma.Register(s.huma, op, func(ctx context.Context, in *applying) (*answer[api.Change], error) {
		in.DryRun = in.DryRun || dryRun
		doc, err := decodeDocument(in.RawBody)
		if err != nil {
			return nil, s.failed(ctx, op, err)
		}
		out, err := s.do(ctx, engine.ApplyDocument{Document: doc}, in.Changing)
		if err != nil {
			return nil, s.failed(ctx, op, err)
		}
		return &answer[api.Change]{out}, nil
	})
	// The library knows the body as bytes; clients shall know what is in them.
	schema := s.schema(api.Document{})
	s.huma.OpenAPI().Paths[op.Path].Post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/yaml": {Schema: schema}, "application/json": {Schema: schema},
	}}
}

func documentOf(d spec.Document) api.Document {
	out := api.Document{Networks: []api.DocumentNetwork{}}
	for _, name := range d.Names() {
		n := d.Networks[name]
		net := api.DocumentNetwork{
			Name: string(name), Mode: string(n.Mode), Bridge: n.Bridge, MTU: n.MTU, IPv6: string(n.IPv6), Domain: n.Domain,
			Uplinks: n.Uplinks, Adopt: n.Adopt, STP: n.STP, VLAN: n.Tags.VLAN, VLANTrunk: string(n.Tags.Trunk),
			AllowUsers: n.AllowUsers, Autostart: &n.Autostart, Started: &n.Started, UUID: n.UUID, MAC: n.MAC,
		}
		for _, sub := range n.Subnets {
			net.Subnets = append(net.Subnets, subnetOf(sub))
		}
		for _, r := range reservationsOf(n, "") {
			net.Reservations = append(net.Reservations, r)
		}
		for f := range n.Forwards.All() {
			net.Forwards = append(net.Forwards, forwardOf(f))
		}
		out.Networks = append(out.Networks, net)
	}
	return out
}

// networkFrom reads a network as a person gives it. What is left out stays
// open; only autostart and started have a default, which is yes.
func networkFrom(in api.DocumentNetwork) (spec.Network, error) {
	n := spec.Network{
		Name: spec.NetworkName(in.Name), Mode: spec.ModeName(in.Mode), Bridge: in.Bridge, MTU: in.MTU,
		Uplinks: in.Uplinks, Adopt: in.Adopt, STP: in.STP,
		Domain: strings.TrimSuffix(in.Domain, "."), UUID: strings.ToLower(in.UUID), AllowUsers: in.AllowUsers,
		Autostart: in.Autostart == nil || *in.Autostart, Started: in.Started == nil || *in.Started,
	}
	if err := spec.ValidateName(n.Name); err != nil {
		return n, err
	}
	var err error
	if n.Tags, err = spec.ParseTags(in.VLAN, in.VLANTrunk); err != nil {
		return n, err
	}
	if in.MAC != "" {
		mac, err := spec.ParseMAC(in.MAC)
		if err != nil {
			return n, err
		}
		n.MAC = mac
	}
	for _, s := range in.Subnets {
		sub, err := subnetFrom(s)
		if err != nil {
			return n, err
		}
		n.Subnets = append(n.Subnets, sub)
	}
	if err := ipv6From(in.IPv6, &n); err != nil {
		return n, err
	}
	for _, r := range in.Reservations {
		res, err := reservationFrom(r)
		if err != nil {
			return n, err
		}
		if i := indexOfMAC(n, res.MAC); i >= 0 {
			return n, &spec.InvalidError{Field: "mac", Reason: res.MAC + " is reserved twice"}
		}
		n = n.Reserve(res)
	}
	var forwards []spec.Forward
	for _, f := range in.Forwards {
		list, err := forwardsFrom(api.ForwardRequest{Forward: f})
		if err != nil {
			return n, err
		}
		forwards = append(forwards, list...)
	}
	return n.WithForwards(forwards), nil
}

func indexOfMAC(n spec.Network, mac string) int {
	for i, r := range n.Reservations {
		if r.MAC == mac {
			return i
		}
	}
	return -1
}

// ipv6From reads auto, off or a prefix.
func ipv6From(wish string, n *spec.Network) error {
	switch spec.IPv6Wish(wish) {
	case "", spec.IPv6Auto, spec.IPv6Off:
		n.IPv6 = spec.IPv6Wish(wish)
		return nil
	}
	p, err := netip.ParsePrefix(wish)
	if err != nil || !p.Addr().Is6() {
		return &spec.InvalidError{Field: "ipv6", Reason: strconv.Quote(wish) + " is not auto, off or an IPv6 prefix such as fd12:3456:789a:1::/64"}
	}
	n.IPv6 = spec.IPv6Wish(p.String())
	return nil
}

func subnetFrom(in api.Subnet) (spec.Subnet, error) {
	p, err := spec.ParsePrefix(in.CIDR)
	if err != nil {
		return spec.Subnet{}, err
	}
	if in.Gateway != "" {
		gw, err := netip.ParseAddr(in.Gateway)
		if err != nil || !p.Contains(gw) {
			return spec.Subnet{}, &spec.InvalidError{Field: "gateway", Reason: strconv.Quote(in.Gateway) + " is not an address of " + p.Masked().String()}
		}
		if p.Addr() != p.Masked().Addr() && p.Addr() != gw {
			return spec.Subnet{}, &spec.InvalidError{Field: "gateway", Reason: in.Gateway + " is not the address that " + in.CIDR + " names"}
		}
		p = netip.PrefixFrom(gw, p.Bits())
	}
	s := spec.NewSubnet(p)
	switch in.DHCPRange {
	case "":
	case rangeOff:
		s.Range = spec.Range{}
	default:
		if s.Range, err = spec.ParseRange(in.DHCPRange); err != nil {
			return spec.Subnet{}, err
		}
	}
	if in.LeaseTime != "" {
		if s.LeaseSeconds, err = engine.ParseLeaseTime(string(in.LeaseTime)); err != nil {
			return spec.Subnet{}, err
		}
	}
	return s, nil
}

func reservationFrom(in api.Reservation) (spec.Reservation, error) {
	mac, err := spec.ParseMAC(in.MAC)
	if err != nil {
		return spec.Reservation{}, err
	}
	addr, err := netip.ParseAddr(in.IP)
	if err != nil || addr.Zone() != "" {
		return spec.Reservation{}, &spec.InvalidError{Field: "ip", Reason: strconv.Quote(in.IP) + " is not an IP address"}
	}
	return spec.Reservation{MAC: mac, Addr: addr, Hostname: strings.ToLower(in.Hostname)}, nil
}
