package rest

import (
	"context"
	"net/http"

	"drawbridge/internal/api"
	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
)

func (s *Server) registerAdvise() {
	type asked struct {
		Drawn
		For   string   `query:"for" enum:"production,development,laptop,ci" doc:"What guests are for; left out: nothing in particular"`
		Need  []string `query:"need,explode" nullable:"false" enum:"inbound,lan-peer,live-migration,discovery,hidden,no-internet" doc:"What guests shall be able to"`
		Guest string   `query:"guest" maxLength:"64" doc:"A name for the commands"`
	}
	handle(s, s.operation("advise", http.MethodGet, "/advise", "Bridge or NAT for this host and purpose; changes nothing"),
		func(ctx context.Context, in *asked) (api.Advice, error) {
			if s.Doctor == nil {
				return api.Advice{}, newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "this daemon cannot look at its host")
			}
			ground, err := s.Doctor.Ground(ctx, int(callerOf(ctx).peer.PID))
			if err != nil {
				return api.Advice{}, err
			}
			q := diagnose.Question{For: diagnose.Purpose(in.For), Guest: in.Guest}
			for _, w := range in.Need {
				q.Wants = append(q.Wants, diagnose.Want(w))
			}
			a := diagnose.Advise(ground, q)
			out := adviceOf(a)
			if in.Draw != "" && a.Network != "" {
				if out.Picture, err = s.foresee(ctx, ground, a, in.Drawn); err != nil {
					out.NoDraw = err.Error()
				}
			}
			return out, nil
		})
}

// foresee draws what the advised network would bring.
func (s *Server) foresee(ctx context.Context, g diagnose.Ground, a diagnose.Advice, d Drawn) (*api.Topology, error) {
	n := spec.Network{Name: spec.NetworkName(a.Network), Mode: spec.ModeName(a.Mode), Started: true}
	switch {
	case a.Uplink != "":
		n.Uplinks = []string{a.Uplink}
	case a.Mode == "bridged":
		n.Bridge, n.Adopt = g.Bridge, true
	}
	res, err := s.Engine.Do(ctx, engine.CreateNetwork{Network: n}, engine.Options{DryRun: true})
	if err != nil {
		return nil, err
	}
	return s.picture(ctx, res, d)
}

func adviceOf(a diagnose.Advice) api.Advice {
	out := api.Advice{
		Mode: a.Mode, Why: list(a.Why), Costs: list(a.Costs), Against: list(a.Against), Commands: list(a.Commands),
		Others: []api.OtherMode{}, Evidence: list(a.Evidence), Text: a.Text(),
	}
	for _, o := range a.Others {
		out.Others = append(out.Others, api.OtherMode{Mode: o.Mode, Blocked: list(o.Blocked), For: list(o.For), Against: list(o.Against)})
	}
	return out
}
