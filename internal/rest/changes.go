package rest

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"drawbridge/internal/api"
)

// Identified is for calls about one change.
type Identified struct {
	ID string `path:"id" maxLength:"64" doc:"Name of the change"`
}

func (s *Server) registerChanges() {
	handle(s, s.operation("list-changes", http.MethodGet, "/changes", "Changes that are not finished: pending, being taken back, or stuck"),
		func(ctx context.Context, _ *struct{}) ([]api.Change, error) {
			v, err := s.Engine.View(ctx)
			if err != nil {
				return nil, err
			}
			return s.pending(v), nil
		})
	handle(s, s.operation("get-change", http.MethodGet, "/changes/{id}", "One change that is not finished"),
		func(ctx context.Context, in *Identified) (api.Change, error) {
			v, err := s.Engine.View(ctx)
			if err != nil {
				return api.Change{}, err
			}
			for _, c := range s.pending(v) {
				if c.ID == in.ID {
					return c, nil
				}
			}
			return api.Change{}, newProblem(http.StatusNotFound, api.CodeNotFound,
				"change "+strconv.Quote(in.ID)+" is not pending: it is finished, taken back, or never was")
		})
	handleNothing(s, s.operation("confirm-change", http.MethodPost, "/changes/{id}/confirm", "Keep a pending change"),
		func(ctx context.Context, in *Identified) error { return s.Engine.Confirm(ctx, in.ID) })
	handleNothing(s, s.operation("cancel-change", http.MethodPost, "/changes/{id}/cancel", "Take a pending change back"),
		func(ctx context.Context, in *Identified) error { return s.Engine.Cancel(ctx, in.ID) })
	type extend struct {
		Identified
		Body api.Extension
	}
	handleNothing(s, s.operation("extend-change", http.MethodPost, "/changes/{id}/extend", "Give more time to decide"),
		func(ctx context.Context, in *extend) error {
			return s.Engine.Extend(ctx, in.ID, time.Duration(in.Body.Seconds)*time.Second)
		})
}
