package rest

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
)

func (s *Server) registerForwards() {
	handle(s, s.operation("list-forwards", http.MethodGet, "/forwards", "The forwards of all networks, and where they lead"),
		func(ctx context.Context, _ *struct{}) ([]api.ForwardStatus, error) {
			list, err := s.Engine.Forwards(ctx)
			if err == nil {
				_, err = s.Engine.Reached(ctx, list)
			}
			return forwardStatuses(list), err
		})
	type selected struct {
		Selector string `path:"selector" doc:"[PROTO/][LISTEN_IP:]PORT[-PORT]"`
	}
	handle(s, s.operation("show-forwards", http.MethodGet, "/forwards/{selector}", "The forwards that a selector names"),
		func(ctx context.Context, in *selected) ([]api.ForwardStatus, error) {
			return s.selectForwards(ctx, in.Selector)
		})
	type add struct {
		Changing
		Body api.ForwardRequest
	}
	handle(s, s.operation("add-forward", http.MethodPost, "/forwards", "Let others reach a service on a guest"),
		func(ctx context.Context, in *add) (api.Change, error) {
			r, err := forwardRequest(in.Body)
			if err != nil {
				return api.Change{}, err
			}
			return s.done(ctx, in.Changing, func() (engine.Result, error) { return s.Engine.AddForward(ctx, r, in.options(ctx)) })
		})
	type remove struct {
		Changing
		Selector string `path:"selector" doc:"[PROTO/][LISTEN_IP:]PORT[-PORT]"`
	}
	handle(s, s.operation("remove-forward", http.MethodDelete, "/forwards/{selector}", "Close the forwards that a selector names, their connections included"),
		func(ctx context.Context, in *remove) (api.Change, error) {
			sel, err := spec.ParseSelector(in.Selector)
			if err != nil {
				return api.Change{}, err
			}
			return s.do(ctx, engine.RemoveForward{Selector: sel}, in.Changing)
		})
}

func (s *Server) selectForwards(ctx context.Context, selector string) ([]api.ForwardStatus, error) {
	sel, err := spec.ParseSelector(selector)
	if err != nil {
		return nil, err
	}
	chosen, err := s.Engine.Document().Select(sel)
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	for _, list := range chosen {
		for _, f := range list {
			keys[f.Key()] = true
		}
	}
	all, err := s.Engine.Forwards(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(v engine.ForwardView) bool { return !keys[v.Key()] })
	if _, err := s.Engine.Reached(ctx, all); err != nil {
		return nil, err
	}
	return forwardStatuses(all), nil
}

// forwardOf writes a forward as people give it.
func forwardOf(f spec.Forward) api.Forward {
	_, listen, _ := strings.Cut(f.Key(), "/")
	out := api.Forward{Listen: listen, Guest: f.Target, Comment: f.Comment}
	if f.Proto != spec.TCP {
		out.Proto = string(f.Proto)
	}
	if f.Shifted() {
		out.Guest = joinPort(f.Target, f.TargetPort)
	}
	for _, p := range f.From {
		out.From = append(out.From, p.String())
	}
	if f.Until != 0 {
		at := time.Unix(f.Until, 0).UTC()
		out.Until = &at
	}
	return out
}

func joinPort(guest string, port uint16) string {
	if a, err := netip.ParseAddr(guest); err == nil {
		return netip.AddrPortFrom(a, port).String()
	}
	return guest + ":" + strconv.Itoa(int(port))
}

func forwardStatuses(list []engine.ForwardView) []api.ForwardStatus {
	out := []api.ForwardStatus{}
	for _, v := range list {
		st := api.ForwardStatus{
			ID: v.Key(), Forward: forwardOf(v.Forward), Waiting: v.Waiting,
			Connections: v.Connections, Packets: v.Packets, Bytes: v.Bytes,
		}
		st.Network, st.Proto = string(v.Network), string(v.Proto)
		if v.Address.IsValid() {
			st.Address = v.Address.String()
			if v.Proto != spec.ProtoAll {
				st.Address = netip.AddrPortFrom(v.Address, v.TargetPort).String()
			}
		}
		for _, r := range v.Reached {
			st.Reached = append(st.Reached, api.ReachedFrom{From: r.From, Link: r.Link, Verdict: string(r.Verdict), Why: r.Why, Owner: string(r.Owner)})
		}
		out = append(out, st)
	}
	return out
}

func forwardRequest(in api.ForwardRequest) (engine.ForwardRequest, error) {
	r := engine.ForwardRequest{
		Network: spec.NetworkName(in.Network), Comment: in.Comment, Force: in.Force, ListenAnyway: in.ListenAnyway,
	}
	all := in.Proto == string(spec.ProtoAll)
	var err error
	if r.Protos = []spec.Proto{spec.ProtoAll}; !all {
		if r.Protos, err = spec.ParseProto(in.Proto); err != nil {
			return r, err
		}
	}
	if r.Listen, r.First, r.Last, err = spec.ParseListen(in.Listen, all); err != nil {
		return r, err
	}
	if r.Guest, r.Port, err = spec.ParseTarget(in.Guest); err != nil {
		return r, err
	}
	if r.From, err = spec.ParseFrom(in.From); err != nil {
		return r, err
	}
	if in.Until != nil {
		if r.Until = in.Until.Unix(); r.Until <= 0 {
			return r, &spec.InvalidError{Field: "until", Reason: in.Until.String() + " is before 1970"}
		}
	}
	return r, nil
}

// decodeForwards reads the forwards of a network in a document.
func decodeForwards(nodes []*yaml.Node, n spec.Network, path string) (spec.Network, error) {
	// All at once: a list of thirty thousand must not be copied for each.
	list := make([]spec.Forward, 0, len(nodes))
	for _, node := range nodes {
		some, err := decodeForward(node, path)
		if err != nil {
			return n, err
		}
		list = append(list, some...)
	}
	return n.WithForwards(list), nil
}

func decodeForward(node *yaml.Node, path string) ([]spec.Forward, error) {
	var in api.ForwardRequest
	var until string
	if err := fields(node, path, map[string]reader{
		"listen": text(&in.Listen), "guest": text(&in.Guest), "proto": text(&in.Proto), "from": words(&in.From),
		"until": text(&until), "comment": text(&in.Comment),
	}); err != nil {
		return nil, err
	}
	if until != "" {
		at, err := time.Parse(time.RFC3339, until)
		if err != nil {
			return nil, located(node, path, &spec.InvalidError{Field: "until", Reason: strconv.Quote(until) + " is not a time such as 2026-12-24T18:00:00Z"})
		}
		in.Until = &at
	}
	list, err := forwardsFrom(in)
	return list, located(node, path, err)
}

func forwardsFrom(in api.ForwardRequest) ([]spec.Forward, error) {
	r, err := forwardRequest(in)
	if err != nil {
		return nil, err
	}
	var list []spec.Forward
	for _, proto := range r.Protos {
		list = append(list, r.Forward(proto))
	}
	return list, nil
}
