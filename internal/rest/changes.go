package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/txn"
)

// Identified is for calls about one change.
type Identified struct {
	ID string `path:"id" maxLength:"64" doc:"Name of the change"`
}

func (s *Server) registerChanges() {
	handle(s, s.operation("list-changes", http.MethodGet, "/changes", "Changes that are not finished: under way, waiting for a person, being taken back, or stuck"),
		func(context.Context, *struct{}) ([]api.Change, error) { return s.unfinished(s.Engine.Changes()), nil })
	handle(s, s.operation("get-change", http.MethodGet, "/changes/{id}", "One change: not finished, or one of the last that a person had to decide on"),
		func(ctx context.Context, in *Identified) (api.Change, error) {
			t, err := s.Engine.Change(in.ID)
			if over, ok := errors.AsType[*engine.OverError](err); ok {
				return overOf(over.Ended), nil
			}
			if err != nil {
				return api.Change{}, err
			}
			out := pendingOf(t, s.Boottime())
			out.Conditions = conditionsOf(s.Engine.Conditions(t))
			out.Files = list(s.Engine.Files(ctx, t))
			return out, nil
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

// sayPending tells with every answer that a decision is waited for, so that
// every face can show it whatever was asked.
func (s *Server) sayPending(w http.ResponseWriter) {
	for _, t := range s.Engine.Changes() {
		if t.Within == 0 && t.Phase != txn.Stuck {
			continue // over in a moment
		}
		raw, err := json.Marshal(api.Pending{
			ID: t.ID, Title: t.Title, Phase: string(t.Phase), DeadlineSecs: leftOf(t.Phase, t.Deadline, s.Boottime()),
		})
		if err == nil {
			w.Header().Set(api.PendingHeader, string(raw))
		}
	}
}
