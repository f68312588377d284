package rest

import (
	"context"
	"net/http"
	"os/user"
	"strconv"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
)

func (s *Server) registerLive() {
	handle(s, s.operation("list-leases", http.MethodGet, "/leases", "The addresses given to guests"),
		func(ctx context.Context, _ *struct{}) ([]api.Lease, error) {
			v, err := s.Engine.View(ctx)
			if err != nil {
				return nil, err
			}
			out := []api.Lease{}
			for _, l := range v.Leases {
				out = append(out, leaseOf(l))
			}
			return out, nil
		})
	handle(s, s.operation("list-guests", http.MethodGet, "/guests", "The machines on the networks"),
		func(ctx context.Context, _ *struct{}) ([]api.Guest, error) {
			v, err := s.Engine.View(ctx)
			if err != nil {
				return nil, err
			}
			return guestsOf(v.Ports), nil
		})
}

func (s *Server) registerPorts() {
	handle(s, s.operation("list-ports", http.MethodGet, "/ports", "The guests' NICs, those that other programs plugged in included"),
		func(ctx context.Context, _ *struct{}) ([]api.Port, error) {
			v, err := s.Engine.View(ctx)
			if err != nil {
				return nil, err
			}
			out := []api.Port{}
			for _, p := range v.Ports {
				out = append(out, portOf(p))
			}
			return out, nil
		})
	type attach struct{ Body api.PortRequest }
	handle(s, s.operation("attach-port", http.MethodPost, "/ports", "Make a persistent tap for a program that opens it by name"),
		func(ctx context.Context, in *attach) (api.Port, error) {
			r, err := s.portRequest(ctx, in.Body, "attach")
			if err != nil {
				return api.Port{}, err
			}
			p, err := s.Engine.AttachPort(ctx, r)
			if err != nil {
				return api.Port{}, err
			}
			return portOf(p), nil
		})
	type detach struct {
		Tap string `path:"tap"`
	}
	handleNothing(s, s.operation("detach-port", http.MethodDelete, "/ports/{tap}", "Unplug and delete a tap that was made by attach-port"),
		func(ctx context.Context, in *detach) error {
			if c := callerOf(ctx); !c.admin {
				if err := s.ownsPort(ctx, c, in.Tap); err != nil {
					return err
				}
			}
			return s.Engine.DetachPort(ctx, in.Tap)
		})
	s.registerOpen()
}

func (s *Server) ownsPort(ctx context.Context, c caller, tap string) error {
	v, err := s.Engine.View(ctx)
	if err != nil {
		return err
	}
	for _, p := range v.Ports {
		if p.Tap == tap {
			return c.owns(tap, p.Network, p.Owner)
		}
	}
	return newProblem(http.StatusNotFound, api.CodeNotFound, "port "+strconv.Quote(tap)+": not found")
}

// portRequest translates and authorises. Ports of a user that is no admin
// belong to that user, whatever was asked.
func (s *Server) portRequest(ctx context.Context, in api.PortRequest, made string) (engine.PortRequest, error) {
	r := engine.PortRequest{
		Network: spec.NetworkName(in.Network), Bridge: in.Bridge, Guest: in.Guest, NoMAC: in.NoMAC,
		Queues: in.Queues, Made: made, Owner: -1,
	}
	if (in.Network == "") == (in.Bridge == "") {
		return r, &spec.InvalidError{Field: "network", Reason: "name either a network or a bridge"}
	}
	if in.Queues < 0 || in.Queues > 256 {
		return r, &spec.InvalidError{Field: "queues", Reason: strconv.Itoa(in.Queues) + " is not between 1 and 256"}
	}
	tags, err := spec.ParseTags(in.VLAN, in.VLANTrunk)
	if err != nil {
		return r, err
	}
	r.Tags = tags
	if in.MAC != "" {
		mac, err := spec.ParseMAC(in.MAC)
		if err != nil {
			return r, err
		}
		r.MAC = mac
	}
	c := callerOf(ctx)
	r.PID = int(c.peer.PID)
	if c.admin {
		owner, err := ownerOf(in.User, c)
		r.Owner = owner
		return r, err
	}
	if in.User != "" && in.User != c.name {
		return r, forbidden("%s may not make ports for %s", c.name, in.User)
	}
	r.Owner = int(c.peer.UID)
	network, err := s.networkOf(r)
	if err != nil {
		return r, err
	}
	return r, c.mayPlug(network)
}

// networkOf finds which network a request means. A bridge that is not ours
// gives "", on which nobody but an admin may plug.
func (s *Server) networkOf(r engine.PortRequest) (spec.NetworkName, error) {
	if r.Bridge == "" {
		return r.Network, nil
	}
	for name, n := range s.Engine.Document().Networks {
		if n.Bridge == r.Bridge {
			return name, nil
		}
	}
	return "", newProblem(http.StatusNotFound, api.CodeNotFound, "bridge "+strconv.Quote(r.Bridge)+" belongs to no network of drawbridge")
}

func ownerOf(name string, c caller) (int, error) {
	if name == "" {
		if c.peer.UID != 0 && c.known == "" {
			return int(c.peer.UID), nil
		}
		return -1, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return -1, &spec.InvalidError{Field: "user", Reason: strconv.Quote(name) + " is not a user of this host"}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return -1, &spec.InvalidError{Field: "user", Reason: strconv.Quote(name) + " has no numeric id"}
	}
	return uid, nil
}
