package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// registerCapture adds the call that hands a packet socket over, as open-port does
// with a tap.
func (s *Server) registerCapture() {
	s.mux.HandleFunc("POST /"+api.Version+"/captures/open", s.openCapture)
	op := s.operation("open-capture", http.MethodPost, "/captures/open", "Hand over a socket on which the packets of a guest, a port or a network can be read")
	op.Description = "Needs `Connection: Upgrade` and `Upgrade: " + api.FDProtocol + "`, and root or the group: whoever has the socket can read every packet. After 101 one line of JSON " +
		"(CapturePoint) comes, with the descriptor as SCM_RIGHTS beside it. The socket receives nothing until it is bound."
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: s.schema(api.CaptureRequest{})}}}
	op.Responses["101"] = &huma.Response{
		Description: "The socket follows", Content: map[string]*huma.MediaType{"application/json": {Schema: s.schema(api.CapturePoint{})}},
	}
	s.huma.OpenAPI().AddOperation(&op)
}

func (s *Server) openCapture(w http.ResponseWriter, r *http.Request) {
	c := callerOf(r.Context())
	_, local := r.Context().Value(peerKey{}).(Peer)
	switch {
	case !c.admin || c.readOnly:
		s.refuse(w, r, forbidden("only root and the group %s may read guests' packets: use sudo", s.AdminGroup))
		return
	case !local || !strings.EqualFold(r.Header.Get("Upgrade"), api.FDProtocol):
		s.refuse(w, r, newProblem(http.StatusBadRequest, api.CodeBadRequest,
			"the socket comes over a unix socket's connection that is upgraded: send Connection: Upgrade and Upgrade: "+api.FDProtocol))
		return
	}
	var in api.CaptureRequest
	if err := readOne(r, &in); err != nil {
		s.refuse(w, r, err)
		return
	}
	view, err := s.Engine.View(r.Context())
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	point, err := capturePoint(view, in.Target)
	if err == nil && s.OpenCapture == nil {
		err = newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "this program cannot read packets")
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	f, index, err := s.OpenCapture(point.Link)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	defer f.Close()
	point.Index = index
	line, err := json.Marshal(point)
	if err == nil {
		err = hand(w, line, []*os.File{f})
	}
	if err != nil {
		s.Log.Warn("a socket for packets could not be handed over", "link", point.Link, "err", err)
		return
	}
	s.Log.Info("packets can be read", "link", point.Link, "target", in.Target, "uid", c.peer.UID, "pid", c.peer.PID)
}

// captureNames are all names that capturePoint knows.
func captureNames(v engine.View) []string {
	var names []string
	for _, p := range v.Ports {
		names = append(names, p.Tap, p.Guest)
	}
	for name := range v.Document.Networks {
		names = append(names, string(name))
	}
	return names
}

// capturePoint finds what a name means: a port or a guest before a network.
func capturePoint(v engine.View, target string) (api.CapturePoint, error) {
	var found []engine.Port
	for _, p := range v.Ports {
		if p.Tap == target {
			found = []engine.Port{p}
			break
		}
		if p.Guest == target {
			found = append(found, p)
		}
	}
	name, _ := os.Hostname() // "" is not told
	if len(found) > 1 {
		var taps []string
		for _, p := range found {
			taps = append(taps, fmt.Sprintf("%s (on %s)", p.Tap, p.Network))
		}
		return api.CapturePoint{}, &spec.InvalidError{Field: "target", Reason: fmt.Sprintf("%s has %d NICs; name one: %s", target, len(found), strings.Join(taps, ", "))}
	}
	if len(found) == 1 {
		p := found[0]
		return api.CapturePoint{
			Kind: "port", Link: p.Tap, Host: name, Network: string(p.Network), Bridge: p.Bridge, Shared: v.Document.Networks[p.Network].Bridge == "",
			Guest: p.Guest, MAC: p.MAC, Addresses: list(p.Addresses),
		}, nil
	}
	n, there := v.Document.Networks[spec.NetworkName(target)]
	if !there {
		return api.CapturePoint{}, newProblem(http.StatusNotFound, api.CodeNotFound, fmt.Sprintf("there is no guest, port or network %q%s; see drawbridge port ls", target, spec.Meant(target, captureNames(v))))
	}
	link := n.GuestLink()
	if _, up := v.State[host.LinkKey(link)]; !up || !n.Started {
		return api.CapturePoint{}, &spec.InvalidError{Field: "target", Reason: fmt.Sprintf("network %s is not running", target)}
	}
	out := api.CapturePoint{Kind: "network", Link: link, Host: name, Network: target, Bridge: link, Shared: n.Bridge == "", MAC: n.MAC, Addresses: []string{}}
	for _, sub := range n.Subnets {
		out.Addresses = append(out.Addresses, sub.Prefix.String())
	}
	return out, nil
}
