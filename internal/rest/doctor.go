package rest

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"drawbridge/internal/api"
	"drawbridge/internal/diagnose"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
)

// Doctor looks at the whole host, and mends what package diagnose says.
type Doctor interface {
	Facts(ctx context.Context) (*diagnose.Facts, error)
	// Ground is what decides between bridge and NAT; pid is who asks.
	Ground(ctx context.Context, pid int) (diagnose.Ground, error)
	Fix(ctx context.Context, title string, fix diagnose.Fix, o engine.Options) (engine.Result, error)
}

func (s *Server) registerDoctor() {
	type asked struct {
		About  string `query:"about" maxLength:"64" doc:"Guest or network; left out: everything"`
		Recent bool   `query:"recent" doc:"Answer with the last look at everything, which is at most a minute old, and look at nothing"`
	}
	handle(s, s.operation("doctor", http.MethodGet, "/doctor", "What is wrong with the host, its networks and guests, and how to mend it"),
		func(ctx context.Context, in *asked) (api.Diagnosis, error) {
			seen := s.lookout.sight()
			if !in.Recent {
				found, err := s.examine(ctx, in.About)
				if err != nil {
					return api.Diagnosis{}, err
				}
				if seen = (sight{s.Now(), found}); in.About == "" {
					s.lookout.latest.Store(&seen) // pictures may as well have it
				}
			}
			d := api.Diagnosis{Healthy: true, Findings: []api.Symptom{}, Checks: len(diagnose.Checks())}
			if !seen.at.IsZero() {
				at := seen.at.UTC()
				d.Seen = &at
			}
			for _, x := range seen.found {
				d.Healthy = d.Healthy && x.Severity == diagnose.Remark
				d.Findings = append(d.Findings, symptomOf(x))
			}
			return d, nil
		})
	type fix struct {
		Changing
		Body api.FixRequest
	}
	handle(s, s.operation("doctor-fix", http.MethodPost, "/doctor/fix", "Mend what doctor found and can mend by itself"),
		func(ctx context.Context, in *fix) ([]api.Treatment, error) {
			return s.treat(ctx, in.Body, in.Changing)
		})
}

// examine runs all checks, and keeps the findings about one guest or network if
// that is asked for.
func (s *Server) examine(ctx context.Context, about string) ([]diagnose.Finding, error) {
	if s.Doctor == nil {
		return nil, newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "this daemon cannot look for faults")
	}
	f, err := s.Doctor.Facts(ctx)
	if err != nil {
		return nil, err
	}
	if known := f.Names(); about != "" && !slices.Contains(known, about) {
		return nil, fmt.Errorf("guest or network %q: %w%s", about, spec.ErrNotFound, spec.Meant(about, known))
	}
	found := diagnose.Examine(f)
	if about != "" {
		found = diagnose.Concerning(found, about, f)
	}
	return found, nil
}

func (s *Server) treat(ctx context.Context, r api.FixRequest, how Changing) ([]api.Treatment, error) {
	if !slices.ContainsFunc(diagnose.Checks(), func(c diagnose.Check) bool { return string(c.Code) == r.Code }) && r.Code != "" {
		return nil, &spec.InvalidError{Field: "code", Reason: fmt.Sprintf("there is no check %q", r.Code)}
	}
	found, err := s.examine(ctx, r.About)
	if err != nil {
		return nil, err
	}
	out := []api.Treatment{}
	for _, x := range found {
		if r.Code != "" && string(x.Code) != r.Code || !x.Fix.Automatic() {
			continue
		}
		change, err := s.done(ctx, how, func() (engine.Result, error) {
			return s.Doctor.Fix(ctx, "mend "+string(x.Code)+about(x), x.Fix, how.options(ctx))
		})
		if err != nil {
			return out, err
		}
		one := api.Treatment{Finding: symptomOf(x), Change: change}
		if change.ID != "" && !x.Fix.Edit.Reload {
			one.Undo = "drawbridge undo " + change.ID
		}
		out = append(out, one)
	}
	return out, nil
}

func about(x diagnose.Finding) string {
	switch {
	case x.About.Guest != "":
		return " of guest " + x.About.Guest
	case x.About.Network != "":
		return " of network " + string(x.About.Network)
	case x.About.Link != "":
		return " of " + x.About.Link
	}
	return ""
}

func symptomOf(x diagnose.Finding) api.Symptom {
	return api.Symptom{
		ID: findingID(x), Code: string(x.Code), Severity: string(x.Severity), Network: string(x.About.Network), Guest: x.About.Guest, Link: x.About.Link,
		Seen: x.Seen, Means: x.Means,
		Fix: api.Fix{Command: x.Fix.Command, Advice: x.Fix.Advice, Undo: x.Fix.Undo, Automatic: x.Fix.Automatic()},
	}
}
