package rest

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// Named, and the other parameters that calls share, are exported because the
// library fills no embedded fields of unexported types.
type Named struct {
	Name string `path:"name" maxLength:"63" doc:"Name of the network"`
}

// NamedChange is for changes of one network.
type NamedChange struct {
	Named
	Changing
}

func (s *Server) registerStatus() {
	handle(s, s.operation("get-status", http.MethodGet, "/status", "What runs, what is wrong and what is pending"),
		func(ctx context.Context, _ *struct{}) (api.Status, error) { return s.status(ctx) })
	handle(s, s.operation("list-modes", http.MethodGet, "/modes", "The words for what a network does with its traffic"),
		func(context.Context, *struct{}) ([]api.Mode, error) { return list(s.Modes), nil })
}

func (s *Server) status(ctx context.Context) (api.Status, error) {
	v, err := s.Engine.View(ctx)
	if err != nil {
		return api.Status{}, err
	}
	out := api.Status{
		Version: s.Version, PID: os.Getpid(), Started: s.started.UTC(), UptimeSecs: int64(s.Now().Sub(s.started).Seconds()),
		ServicesPID: s.ServicesPID(), Revision: v.Document.Revision, Repairs: v.Repairs,
		Networks: networksOf(v), Ports: len(v.Ports), Leases: len(v.Leases),
		Problems: list(v.Problems), Changes: s.unfinished(v.Changes),
	}
	for _, n := range out.Networks {
		for _, p := range n.Problems {
			out.Problems = append(out.Problems, fmt.Sprintf("network %q: %s", n.Name, p))
		}
	}
	return out, nil
}

func (s *Server) unfinished(changes []txn.Txn) []api.Change {
	out := []api.Change{}
	for _, t := range changes {
		c := pendingOf(t, s.Boottime())
		c.Conditions = conditionsOf(s.Engine.Conditions(t))
		out = append(out, c)
	}
	return out
}

func (s *Server) registerNetworks() {
	handle(s, s.operation("list-networks", http.MethodGet, "/networks", "All networks by name"),
		func(ctx context.Context, _ *struct{}) ([]api.Network, error) {
			v, err := s.Engine.View(ctx)
			if err != nil {
				return nil, err
			}
			return networksOf(v), nil
		})
	handle(s, s.operation("get-network", http.MethodGet, "/networks/{name}", "One network"),
		func(ctx context.Context, in *Named) (api.Network, error) {
			v, err := s.Engine.View(ctx)
			if err != nil {
				return api.Network{}, err
			}
			n, err := v.Document.Network(spec.NetworkName(in.Name))
			if err != nil {
				return api.Network{}, err
			}
			return networkOf(n, v.Networks[n.Name]), nil
		})
	type create struct {
		Changing
		Body api.DocumentNetwork
	}
	handle(s, s.operation("create-network", http.MethodPost, "/networks", "Define a network and, unless started is false, start it"),
		func(ctx context.Context, in *create) (api.Change, error) {
			n, err := networkFrom(in.Body)
			if err != nil {
				return api.Change{}, err
			}
			return s.do(ctx, engine.CreateNetwork{Network: n}, in.Changing)
		})
	type set struct {
		NamedChange
		Body api.Settings
	}
	handle(s, s.operation("set-network", http.MethodPatch, "/networks/{name}", "Change attributes of a network"),
		func(ctx context.Context, in *set) (api.Change, error) {
			c := engine.SetNetwork{Name: spec.NetworkName(in.Name), Settings: in.Body.Settings}
			return s.do(ctx, c, in.Changing)
		})
	s.registerVerbs()
}

// registerVerbs are the changes that need no more than a name, or not even that.
func (s *Server) registerVerbs() {
	for _, verb := range []struct {
		id, method, path, summary string
		command                   func(spec.NetworkName) engine.Command
	}{
		{"remove-network", http.MethodDelete, "/networks/{name}", "Stop and forget a network", func(n spec.NetworkName) engine.Command { return engine.RemoveNetwork{Name: n} }},
		{"start-network", http.MethodPost, "/networks/{name}/start", "Make a network run", func(n spec.NetworkName) engine.Command { return engine.StartNetwork{Name: n} }},
		{"stop-network", http.MethodPost, "/networks/{name}/stop", "Take a network's switch, rules and services away", func(n spec.NetworkName) engine.Command { return engine.StopNetwork{Name: n} }},
	} {
		handle(s, s.operation(verb.id, verb.method, verb.path, verb.summary),
			func(ctx context.Context, in *NamedChange) (api.Change, error) {
				return s.do(ctx, verb.command(spec.NetworkName(in.Name)), in.Changing)
			})
	}
	handle(s, s.operation("start-all", http.MethodPost, "/up", "Start all networks in one change"),
		func(ctx context.Context, in *Changing) (api.Change, error) { return s.do(ctx, engine.StartAll{}, *in) })
	handle(s, s.operation("stop-all", http.MethodPost, "/down", "Stop all networks in one change"),
		func(ctx context.Context, in *Changing) (api.Change, error) { return s.do(ctx, engine.StopAll{}, *in) })
}

func (s *Server) registerReservations() {
	handle(s, s.operation("list-all-reservations", http.MethodGet, "/reservations", "The reservations of all networks"),
		func(context.Context, *struct{}) ([]api.Reservation, error) {
			doc := s.Engine.Document()
			out := []api.Reservation{}
			for _, name := range doc.Names() {
				out = append(out, reservationsOf(doc.Networks[name], string(name))...)
			}
			return out, nil
		})
	handle(s, s.operation("list-reservations", http.MethodGet, "/networks/{name}/reservations", "The reservations of one network"),
		func(ctx context.Context, in *Named) ([]api.Reservation, error) {
			v, err := s.Engine.View(ctx)
			if err != nil {
				return nil, err
			}
			n, err := v.Document.Network(spec.NetworkName(in.Name))
			if err != nil {
				return nil, err
			}
			return reservationsOf(n, in.Name), nil
		})
	type reserve struct {
		NamedChange
		Body api.Reservation
	}
	handle(s, s.operation("add-reservation", http.MethodPost, "/networks/{name}/reservations", "Tie an address to a hardware address, in place of what it had"),
		func(ctx context.Context, in *reserve) (api.Change, error) {
			r, err := reservationFrom(in.Body)
			if err != nil {
				return api.Change{}, err
			}
			return s.do(ctx, engine.Reserve{Name: spec.NetworkName(in.Name), Reservation: r}, in.Changing)
		})
	type unreserve struct {
		NamedChange
		MAC string `path:"mac"`
	}
	handle(s, s.operation("remove-reservation", http.MethodDelete, "/networks/{name}/reservations/{mac}", "Take a reservation back"),
		func(ctx context.Context, in *unreserve) (api.Change, error) {
			mac, err := spec.ParseMAC(in.MAC)
			if err != nil {
				return api.Change{}, err
			}
			return s.do(ctx, engine.Unreserve{Name: spec.NetworkName(in.Name), MAC: mac}, in.Changing)
		})
}
