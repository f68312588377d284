package rest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
)

// answer is a response with a body and nothing else.
type answer[T any] struct{ Body T }

// Changing has the parameters of every call that changes something.
type Changing struct {
	Drawn
	DryRun    bool `query:"dry_run" doc:"Plan, and change nothing"`
	CutGuests bool `query:"cut_guests" doc:"Go on even if guests lose their network by it"`
	Within    int  `query:"confirm_within" minimum:"0" maximum:"3600" doc:"Seconds until a change that puts the host's own connections at risk is taken back unless it is confirmed; 0 takes 60"`
	Reachable bool `query:"confirm_when_reachable" doc:"Such a change confirms itself once new data is acknowledged over the TCP connection of whoever asked, and gateway and resolver answer again"`
}

func (c Changing) options(ctx context.Context) engine.Options {
	return engine.Options{
		DryRun: c.DryRun, CutGuests: c.CutGuests, Within: time.Duration(c.Within) * time.Second,
		WhenReachable: c.Reachable, PID: int(callerOf(ctx).peer.PID),
	}
}

func (s *Server) humaConfig() huma.Config {
	c := huma.DefaultConfig("Drawbridge", api.Version)
	c.Info.Description = "The network of KVM guests on this host. Served on a unix socket, where " +
		"every call is authorised by the credentials of the peer, and by TCP on loopback if asked, where a token is sent as " +
		"Authorization: Bearer, or a browser has a session. Errors are problems of RFC 9457."
	c.Servers = []*huma.Server{{URL: "http://drawbridge", Description: "the unix socket, by default " + api.DefaultSocket}}
	// No page of documentation (it would load scripts from elsewhere), no links
	// to schemas in answers, and no OpenAPI made anew for each who asks.
	c.DocsPath, c.SchemasPath, c.OpenAPIPath = "", "", ""
	c.CreateHooks = nil
	c.RejectUnknownQueryParameters = true
	c.Transformers = []huma.Transformer{transformProblem}
	yaml := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			b, err := api.YAML(v)
			if err != nil {
				return err
			}
			_, err = w.Write(b)
			return err
		},
		Unmarshal: func([]byte, any) error {
			return fmt.Errorf("this call reads JSON; only documents may be YAML")
		},
	}
	c.Formats = map[string]huma.Format{
		"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat,
		"application/yaml": yaml, "yaml": yaml,
	}
	return c
}

// operation is one call. The path is without the version.
func (s *Server) operation(id, method, path, summary string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: "/" + api.Version + path, Summary: summary,
		MaxBodyBytes: maxBody, BodyReadTimeout: s.HeaderTimeout,
		Responses: map[string]*huma.Response{"default": s.problemResponse()},
	}
}

func (s *Server) problemResponse() *huma.Response {
	return &huma.Response{
		Description: "What is wrong and what to do about it",
		Content: map[string]*huma.MediaType{
			"application/problem+json": {Schema: s.schema(api.Problem{})},
		},
	}
}

func (s *Server) schema(v any) *huma.Schema {
	t := reflect.TypeOf(v)
	return s.huma.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}

// handle registers a call whose errors go through the one table of problems.
func handle[I, O any](s *Server, op huma.Operation, f func(context.Context, *I) (O, error)) {
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*answer[O], error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, s.failed(ctx, op, err)
		}
		return &answer[O]{out}, nil
	})
}

// handleNothing is handle for calls that answer 204.
func handleNothing[I any](s *Server, op huma.Operation, f func(context.Context, *I) error) {
	op.DefaultStatus = http.StatusNoContent
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*struct{}, error) {
		if err := f(ctx, in); err != nil {
			return nil, s.failed(ctx, op, err)
		}
		return nil, nil
	})
}

func (s *Server) failed(ctx context.Context, op huma.Operation, err error) *api.Problem {
	p := problemOf(err)
	if p.Status >= 500 && ctx.Err() == nil {
		s.Log.Error("call failed", "call", op.OperationID, "request", ctx.Value(requestKey{}), "err", err)
	}
	return p
}

// do carries out a command and tells what became of it.
func (s *Server) do(ctx context.Context, c engine.Command, how Changing) (api.Change, error) {
	return s.done(ctx, how, func() (engine.Result, error) { return s.Engine.Do(ctx, c, how.options(ctx)) })
}

// done carries out a change and tells of it.
func (s *Server) done(ctx context.Context, how Changing, change func() (engine.Result, error)) (api.Change, error) {
	began := s.Now()
	res, err := change()
	if err != nil {
		return api.Change{}, err
	}
	out := changeOf(res, s.Boottime())
	out.DurationMS = float64(s.Now().Sub(began).Microseconds()) / 1000
	if !res.DryRun && res.ID != "" {
		s.Log.Info("changed", "title", res.Title, "change", res.ID, "phase", res.Phase, "steps", len(res.Steps),
			"uid", callerOf(ctx).peer.UID, "who", callerOf(ctx).who(), "request", ctx.Value(requestKey{}))
	}
	if res.DryRun && how.Draw != "" {
		out.Picture, err = s.picture(ctx, res, how.Drawn)
	}
	return out, err
}

// correctOpenAPI takes out of the description what is not so.
func (s *Server) correctOpenAPI() {
	spec := s.huma.OpenAPI()
	// The library registers its own form of errors, which we never answer with.
	delete(spec.Components.Schemas.Map(), "ErrorModel")
	// It takes every list for one that may be null; ours never are.
	for _, path := range spec.Paths {
		for _, op := range []*huma.Operation{path.Get, path.Post, path.Patch, path.Delete} {
			if op == nil || op.Responses["200"] == nil {
				continue
			}
			for _, media := range op.Responses["200"].Content {
				media.Schema.Nullable = false
			}
		}
	}
}

// describe serves the description of all calls (OpenAPI 3.1). It is written once,
// as it never changes while we run, and only if somebody asks: hardly anybody does,
// and it is a third of a MiB.
func (s *Server) describe(kind string, write func(*huma.OpenAPI) ([]byte, error)) http.HandlerFunc {
	written := sync.OnceValues(func() ([]byte, error) { return write(s.huma.OpenAPI()) })
	return func(w http.ResponseWriter, r *http.Request) {
		text, err := written()
		if err != nil {
			s.refuse(w, r, fmt.Errorf("describe the API: %w", err))
			return
		}
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(text)
	}
}
