package rest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
	"drawbridge/internal/topology"
	"drawbridge/internal/txn"
)

// Drawn has the parameters of everything that is laid out and drawn.
type Drawn struct {
	Draw    string `query:"draw" enum:"graph,text,svg,mermaid" doc:"What is answered: nodes and edges (graph), or lines of text, SVG or Mermaid. With a dry run: draw what the change brings and takes away"`
	Columns int    `query:"columns" minimum:"0" maximum:"24" doc:"How many guests stand side by side; 0 takes 6"`
	Fold    int    `query:"fold" minimum:"-1" maximum:"10000" doc:"How many guests of one network are drawn before the rest is folded; 0 takes 30, -1 folds nothing"`
	Width   int    `query:"width" minimum:"0" maximum:"1000" doc:"Cells of a line of text; 0 for no limit"`
	ASCII   bool   `query:"ascii" doc:"Draw text with characters of ASCII alone"`
}

// draw lays a graph out and gives it the form that was asked for.
func (d Drawn) draw(g topology.Graph) api.Topology {
	g = topology.Layout(g, topology.Options{Columns: d.Columns, Fold: d.Fold})
	out := api.Topology{Host: g.Host, Width: g.Width, Height: g.Height, Frame: api.Box(g.Frame), Nodes: []api.Node{}, Edges: []api.Edge{}}
	switch d.Draw {
	case "text":
		out.Lines = linesOf(topology.Text(g, topology.Page{Width: d.Width, ASCII: d.ASCII}))
	case "svg":
		out.Drawing = topology.SVG(g)
	case "mermaid":
		out.Drawing = topology.Mermaid(g)
	default:
		return topologyOf(g)
	}
	return out
}

func linesOf(lines []topology.Line) []api.Line {
	out := make([]api.Line, 0, len(lines))
	for _, l := range lines {
		line := api.Line{Spans: make([]api.Span, 0, len(l))}
		for _, s := range l {
			line.Spans = append(line.Spans, api.Span{Text: s.Text, Style: string(s.Style)})
		}
		out = append(out, line)
	}
	return out
}

func (s *Server) registerTopology() {
	type drawing struct {
		Drawn
		Change string `query:"change" maxLength:"64" doc:"Draw what this change, which is not finished, brings and takes away"`
	}
	handle(s, s.operation("get-topology", http.MethodGet, "/topology", "The graph from the LAN to the guests, and its picture"),
		func(ctx context.Context, in *drawing) (api.Topology, error) {
			v, forwards, err := s.look(ctx)
			if err != nil {
				return api.Topology{}, err
			}
			if in.Change != "" {
				t, err := s.Engine.Change(in.Change)
				if err != nil {
					return api.Topology{}, err
				}
				return in.draw(unfinishedGraph(v, forwards, t)), nil
			}
			out := s.drawings.draw(in.Drawn, v, forwards, s.findings())
			if in.Draw == "text" {
				out.Lines = append(out.Lines, pendingLines(v.Changes)...)
			}
			return out, nil
		})
}

// pendingLines say what is under way: a picture is of how it is just now.
func pendingLines(changes []txn.Txn) []api.Line {
	var out []api.Line
	for _, t := range changes {
		out = append(out, api.Line{Spans: []api.Span{}}, api.Line{Spans: []api.Span{{Text: fmt.Sprintf("change %s (%s) is %s; to see what it changes: drawbridge topology --before-after %s", t.ID, oneLine(t.Title), t.Phase, t.ID), Style: "changed"}}})
	}
	return out
}

// look reads all that a picture is made of.
func (s *Server) look(ctx context.Context) (engine.View, []engine.ForwardView, error) {
	v, err := s.Engine.View(ctx)
	if err != nil {
		return v, nil, err
	}
	forwards, err := s.Engine.Forwards(ctx)
	return v, forwards, err
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
		if p.Tags.VLAN != 0 {
			port.VLANs = append(port.VLANs, strconv.Itoa(p.Tags.VLAN))
		}
		if p.Tags.Trunk != "" {
			port.VLANs = append(port.VLANs, string(p.Tags.Trunk)+" tagged")
		}
		if p.Process != "" {
			port.Owner = p.Process + " " + strconv.Itoa(p.PID)
		}
		in.Ports = append(in.Ports, port)
	}
	at := findersOf(forwards, v.Ports)
	for _, f := range forwards {
		in.Forwards = append(in.Forwards, doorOf(f, at))
	}
	for name, n := range v.Networks {
		in.Problems[name] = n.Problems
	}
	return in
}

// doorOf is a forward in the words of the picture. Its guest is who has the
// address that it leads to.
func doorOf(f engine.ForwardView, at finders) topology.Forward {
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
	out.Guest = at.guestOf(f)
	return out
}

// finder is what a forward finds its guest by: name, hardware address or address.
type finder struct {
	network spec.NetworkName
	by      string
}

// finders has the first port of each network that is found by something, and its guest.
type finders map[finder]foundPort

type foundPort struct {
	at    int
	guest string
}

// findersOf reads the ports once: there may be a thousand of them, and of forwards too.
func findersOf(forwards []engine.ForwardView, ports []engine.Port) finders {
	if len(forwards) == 0 {
		return nil
	}
	found := make(finders, 3*len(ports))
	for i, p := range ports {
		add := func(by string) {
			k := finder{p.Network, by}
			if _, there := found[k]; by != "" && !there {
				found[k] = foundPort{i, p.Guest}
			}
		}
		add(p.Guest)
		add(p.MAC)
		for _, a := range p.Addresses {
			add(a)
		}
	}
	return found
}

// guestOf is the guest of the first port that a forward means, "" if there is none.
func (at finders) guestOf(f engine.ForwardView) string {
	keys := []string{f.Target}
	if mac, ok := f.TargetMAC(); ok {
		keys = append(keys, mac)
	}
	if f.Address.IsValid() {
		keys = append(keys, f.Address.String())
	}
	best := foundPort{at: -1}
	for _, k := range keys {
		if p, ok := at[finder{f.Network, k}]; ok && (best.at < 0 || p.at < best.at) {
			best = p
		}
	}
	return best.guest
}

func topologyOf(g topology.Graph) api.Topology {
	out := api.Topology{
		Host: g.Host, Width: g.Width, Height: g.Height, Frame: api.Box(g.Frame),
		Nodes: make([]api.Node, 0, len(g.Nodes)), Edges: make([]api.Edge, 0, len(g.Edges)), Findings: findingsOf(g.Findings),
	}
	for _, n := range g.Nodes {
		node := api.Node{
			ID: n.ID, Kind: string(n.Kind), Name: n.Name, Type: n.Type, Addresses: list(n.Addresses), MAC: n.MAC, MTU: n.MTU,
			SpeedMbit: n.SpeedMbit, RxBytes: n.RxBytes, TxBytes: n.TxBytes, Connections: n.Connections, VLANs: n.VLANs,
			Isolated: n.Isolated, Network: n.Network, Mode: n.Mode, Owner: n.Owner, Listen: n.Listen, Target: n.Target,
			Leads: n.Leads, Health: string(n.Health), Note: n.Note, Foreign: n.Foreign, Uplink: n.Uplink,
			Members: n.Members, Problems: n.Problems, Mark: string(n.Mark), Folded: n.Folded,
		}
		node.Findings = findingsOf(n.Findings)
		if n.Box.W > 0 {
			box := api.Box(n.Box)
			node.Box = &box
		}
		out.Nodes = append(out.Nodes, node)
	}
	for _, e := range g.Edges {
		edge := api.Edge{
			ID: e.ID, From: e.From, To: e.To, Kind: string(e.Kind), Health: string(e.Health), Note: e.Note, Finding: e.Finding,
			Translated: e.Translated, Mark: string(e.Mark), Dashed: e.Dashed,
		}
		for _, p := range e.Path {
			edge.Path = append(edge.Path, api.Point(p))
		}
		out.Edges = append(out.Edges, edge)
	}
	return out
}
