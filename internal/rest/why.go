package rest

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"drawbridge/internal/api"
	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
	"drawbridge/internal/topology"
)

// Asked are the parameters of a question about a path.
type Asked struct {
	From  string `query:"from" required:"true" maxLength:"64" doc:"A guest, host, lan, internet or an address"`
	To    string `query:"to" required:"true" maxLength:"64" doc:"A guest, host, lan, internet or an address"`
	Proto string `query:"proto" doc:"tcp, udp, sctp or icmp; left out: tcp with a port, else icmp"`
	Port  uint16 `query:"port" doc:"Left out: a ping"`
}

func (a Asked) request() engine.WhyRequest {
	return engine.WhyRequest{From: a.From, To: a.To, Proto: a.Proto, Port: a.Port}
}

// DrawnPath has the parameter of a path's picture.
type DrawnPath struct {
	Asked
	Width int `query:"width" minimum:"0" maximum:"1600" doc:"Of the picture, in pixels; 0 takes 760. Below 560 the way back is below the way there, else beside it"`
}

func (d DrawnPath) draw(a diagnose.Answer) string {
	to := d.To
	if d.Port != 0 {
		to = net.JoinHostPort(d.To, strconv.Itoa(int(d.Port)))
	}
	return topology.PathSVG(a.Picture(d.From, to), topology.PathOptions{Width: d.Width})
}

func (s *Server) registerWhy() {
	type question struct {
		DrawnPath
		Draw string `query:"draw" enum:"svg" doc:"Answer with the path as a picture too"`
	}
	handle(s, s.operation("why", http.MethodGet, "/why", "What becomes of a packet between two ends, and why"),
		func(ctx context.Context, in *question) (api.Path, error) {
			a, err := s.Engine.Why(ctx, in.request())
			if err != nil {
				return api.Path{}, err
			}
			p := pathOf(in.From, in.To, a)
			if in.Draw != "" {
				p.Drawing = in.draw(a)
			}
			return p, nil
		})
	handle(s, s.operation("why-probe", http.MethodPost, "/why/probe", "The same, and send one such packet and follow it by the kernel's tracing"),
		func(ctx context.Context, in *question) (api.Path, error) {
			a, done, err := s.Engine.WhyProbe(ctx, in.request())
			if err != nil {
				return api.Path{}, err
			}
			p := pathOf(in.From, in.To, a)
			if in.Draw != "" {
				p.Drawing = in.draw(a)
			}
			p.Probe = probeOf(done)
			return p, nil
		})
	s.registerPathPicture()
}

// registerPathPicture adds the picture as a file, for browsers, which make none of
// what is written into an answer.
func (s *Server) registerPathPicture() {
	type file struct {
		Type string `header:"Content-Type"`
		Body []byte
	}
	op := s.operation("why-picture", http.MethodGet, "/why/picture", "The path between two ends as an SVG file")
	op.Responses["200"] = &huma.Response{Description: "The picture", Content: map[string]*huma.MediaType{"image/svg+xml": {Schema: &huma.Schema{Type: huma.TypeString}}}}
	huma.Register(s.huma, op, func(ctx context.Context, in *DrawnPath) (*file, error) {
		a, err := s.Engine.Why(ctx, in.request())
		if err != nil {
			return nil, s.failed(ctx, op, err)
		}
		return &file{"image/svg+xml; charset=utf-8", []byte(in.draw(a))}, nil
	})
}

func probeOf(done engine.Probed) *api.Probe {
	p := &api.Probe{Sent: done.Sent, Verdict: string(done.Verdict), Agrees: done.Agrees, Trace: []api.TraceStep{}}
	for _, t := range done.Trace {
		step := api.TraceStep{Chain: strings.Join([]string{t.Family, t.Table, t.Chain}, " "), Verdict: t.Decision(), Handle: t.Handle}
		if t.Source.IsValid() {
			step.Packet = t.Source.String() + " > " + t.Target.String()
		}
		p.Trace = append(p.Trace, step)
	}
	return p
}

func pathOf(from, to string, a diagnose.Answer) api.Path {
	names := map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
	p := api.Path{
		From: from, To: to, Proto: names[a.Sent.Protocol], Port: a.Sent.TargetPort, Verdict: string(a.Kind), Sentence: a.Sentence, Mend: a.Mend,
		Steps: []api.PathStep{}, MTU: a.MTU, Notes: a.Notes,
	}
	if f := a.Flow; f != nil {
		o := f.Connection.Original
		p.Flow = &api.PathFlow{
			Verdict: string(f.Kind), Sentence: f.Sentence, Established: f.Connection.State == diagnose.Established, More: f.More,
			From: netip.AddrPortFrom(o.Source, o.SourcePort).String(), To: netip.AddrPortFrom(o.Target, o.TargetPort).String(),
		}
		if f.Kind == diagnose.Accepted && f.Reached.IsValid() {
			p.Flow.Reaches = f.Reached.String()
		}
	}
	for _, s := range a.Steps {
		step := api.PathStep{Back: s.Back, Place: string(s.Place()), Where: s.Where, What: s.What, Verdict: string(s.Kind), Owner: string(s.Owner)}
		if s.Rule != nil {
			step.Handle = s.Rule.Handle
		}
		p.Steps = append(p.Steps, step)
	}
	return p
}
