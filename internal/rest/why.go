package rest

import (
	"context"
	"net/http"
	"strings"

	"drawbridge/internal/api"
	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
)

func (s *Server) registerWhy() {
	type ask struct {
		From  string `query:"from" required:"true" doc:"A guest, host, lan, internet or an address"`
		To    string `query:"to" required:"true" doc:"A guest, host, lan, internet or an address"`
		Proto string `query:"proto" doc:"tcp, udp, sctp or icmp; left out: tcp with a port, else icmp"`
		Port  uint16 `query:"port" doc:"Left out: a ping"`
	}
	handle(s, s.operation("why", http.MethodGet, "/why", "What becomes of a packet between two ends, and why"),
		func(ctx context.Context, in *ask) (api.Path, error) {
			r := engine.WhyRequest{From: in.From, To: in.To, Proto: in.Proto, Port: in.Port}
			a, err := s.Engine.Why(ctx, r)
			if err != nil {
				return api.Path{}, err
			}
			return pathOf(in.From, in.To, a), nil
		})
	handle(s, s.operation("why-probe", http.MethodPost, "/why/probe", "The same, and send one such packet and follow it by the kernel's tracing"),
		func(ctx context.Context, in *ask) (api.Path, error) {
			a, done, err := s.Engine.WhyProbe(ctx, engine.WhyRequest{From: in.From, To: in.To, Proto: in.Proto, Port: in.Port})
			if err != nil {
				return api.Path{}, err
			}
			p := pathOf(in.From, in.To, a)
			p.Probe = &api.Probe{Sent: done.Sent, Verdict: string(done.Verdict), Agrees: done.Agrees, Trace: []api.TraceStep{}}
			for _, t := range done.Trace {
				step := api.TraceStep{Chain: strings.Join([]string{t.Family, t.Table, t.Chain}, " "), Verdict: t.Decision(), Handle: t.Handle}
				if t.Source.IsValid() {
					step.Packet = t.Source.String() + " > " + t.Target.String()
				}
				p.Probe.Trace = append(p.Probe.Trace, step)
			}
			return p, nil
		})
}

func pathOf(from, to string, a diagnose.Answer) api.Path {
	names := map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
	p := api.Path{
		From: from, To: to, Proto: names[a.Sent.Protocol], Port: a.Sent.TargetPort, Verdict: string(a.Kind), Sentence: a.Sentence, Mend: a.Mend,
		Steps: []api.PathStep{},
	}
	for _, s := range a.Steps {
		step := api.PathStep{Back: s.Back, Where: s.Where, What: s.What, Verdict: string(s.Kind), Owner: string(s.Owner)}
		if s.Rule != nil {
			step.Handle = s.Rule.Handle
		}
		p.Steps = append(p.Steps, step)
	}
	return p
}
