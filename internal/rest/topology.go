package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
	"drawbridge/internal/topology"
)

// Drawn has the parameters of everything that is laid out.
type Drawn struct {
	Columns int `query:"columns" minimum:"0" maximum:"12" doc:"How many guests stand side by side; 0 takes 6"`
	Fold    int `query:"fold" minimum:"-1" maximum:"10000" doc:"How many guests of one network are drawn before the rest is folded; 0 takes 30, -1 folds nothing"`
}

func (s *Server) registerTopology() {
	handle(s, s.operation("get-topology", http.MethodGet, "/topology", "The graph from the LAN to the guests, and its picture"),
		func(ctx context.Context, in *Drawn) (api.Topology, error) {
			graph, v, err := s.graph(ctx)
			if err != nil {
				return api.Topology{}, err
			}
			out := topologyOf(topology.Layout(graph, topology.Options{Columns: in.Columns, Fold: in.Fold}))
			out.Text = graph.Text()
			for _, t := range v.Changes {
				// The picture is of how it is just now.
				out.Text += fmt.Sprintf("change %s (%s) is %s\n", t.ID, t.Title, t.Phase)
			}
			return out, nil
		})
}

// graph looks at the host.
func (s *Server) graph(ctx context.Context) (topology.Graph, engine.View, error) {
	v, err := s.Engine.View(ctx)
	if err != nil {
		return topology.Graph{}, v, err
	}
	forwards, err := s.Engine.Forwards(ctx)
	if err != nil {
		return topology.Graph{}, v, err
	}
	return topology.Build(inputOf(v, forwards)), v, nil
}

// inputOf says in the words of the picture what is known.
func inputOf(v engine.View, forwards []engine.ForwardView) topology.Input {
	in := topology.Input{
		State: v.State, Document: v.Document, Problems: map[spec.NetworkName][]string{}, Links: make(map[string]topology.Link, len(v.Links)),
	}
	in.Host, _ = os.Hostname()
	for name, l := range v.Links {
		in.Links[name] = topology.Link{
			Index: l.Index, NoCarrier: l.NoCarrier, SpeedMbit: l.SpeedMbit, RxBytes: l.RxBytes, TxBytes: l.TxBytes,
		}
	}
	for _, p := range v.Ports {
		port := topology.Port{Bridge: p.Bridge, Tap: p.Tap, Guest: p.Guest, MAC: p.MAC, Addresses: p.Addresses}
		if p.Process != "" {
			port.Owner = p.Process + " " + strconv.Itoa(p.PID)
		}
		in.Ports = append(in.Ports, port)
	}
	for _, f := range forwards {
		in.Forwards = append(in.Forwards, doorOf(f, v.Ports))
	}
	for name, n := range v.Networks {
		in.Problems[name] = n.Problems
	}
	return in
}

// doorOf is a forward in the words of the picture. Its guest is who has the
// address that it leads to.
func doorOf(f engine.ForwardView, ports []engine.Port) topology.Forward {
	proto, listen, _ := strings.Cut(f.Key(), "/")
	if f.Proto != spec.TCP && f.Proto != spec.ProtoAll {
		listen += "/" + proto
	}
	out := topology.Forward{
		Key: f.Key(), Listen: listen, Target: f.Target, Network: string(f.Network), Waiting: f.Waiting,
		Connections: f.Connections, Bytes: f.Bytes,
	}
	if f.TargetPort != 0 {
		out.Target += ":" + strconv.Itoa(int(f.TargetPort))
	}
	if !f.Everywhere() {
		out.At = f.Listen.String()
	}
	if f.Address.IsValid() {
		out.Address = f.Address.String()
	}
	out.Guest = guestOf(f, ports)
	return out
}

func guestOf(f engine.ForwardView, ports []engine.Port) string {
	mac, _ := f.TargetMAC()
	for _, p := range ports {
		if p.Network != f.Network {
			continue
		}
		if p.Guest == f.Target || mac != "" && p.MAC == mac || has(p.Addresses, f.Address) {
			return p.Guest
		}
	}
	return ""
}

func has(list []string, a netip.Addr) bool {
	for _, s := range list {
		if a.IsValid() && s == a.String() {
			return true
		}
	}
	return false
}

func topologyOf(g topology.Graph) api.Topology {
	out := api.Topology{
		Host: g.Host, Width: g.Width, Height: g.Height, Frame: api.Box(g.Frame),
		Nodes: make([]api.Node, 0, len(g.Nodes)), Edges: make([]api.Edge, 0, len(g.Edges)),
	}
	for _, n := range g.Nodes {
		node := api.Node{
			ID: n.ID, Kind: string(n.Kind), Name: n.Name, Type: n.Type, Addresses: list(n.Addresses), MAC: n.MAC, MTU: n.MTU,
			SpeedMbit: n.SpeedMbit, RxBytes: n.RxBytes, TxBytes: n.TxBytes, Connections: n.Connections, VLANs: n.VLANs,
			Isolated: n.Isolated, Network: n.Network, Mode: n.Mode, Owner: n.Owner, Listen: n.Listen, Target: n.Target,
			Leads: n.Leads, Health: string(n.Health), Note: n.Note, Foreign: n.Foreign, Uplink: n.Uplink,
			Members: n.Members, Problems: n.Problems, Mark: string(n.Mark), Folded: n.Folded,
		}
		for _, f := range n.Findings {
			node.Findings = append(node.Findings, api.Finding(f))
		}
		if n.Box.W > 0 {
			box := api.Box(n.Box)
			node.Box = &box
		}
		out.Nodes = append(out.Nodes, node)
	}
	for _, e := range g.Edges {
		edge := api.Edge{
			ID: e.ID, From: e.From, To: e.To, Kind: string(e.Kind), Health: string(e.Health), Note: e.Note,
			Translated: e.Translated, Mark: string(e.Mark), Dashed: e.Dashed,
		}
		for _, p := range e.Path {
			edge.Path = append(edge.Path, api.Point(p))
		}
		out.Edges = append(out.Edges, edge)
	}
	return out
}
