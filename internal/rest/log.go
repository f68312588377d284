package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// usualLog is how many entries are listed unless more are asked for.
const usualLog = 100

// entryKinds are those that can be asked for.
var entryKinds = []string{string(txn.EntryChange), string(txn.EntryRepair), string(txn.EntryPort), string(txn.EntryForeign)}

func (s *Server) registerLog() {
	type query struct {
		Since   time.Time `query:"since" doc:"Leave out what ended before"`
		Network string    `query:"network" doc:"Only what was about this network"`
		Kind    []string  `query:"kind,explode" nullable:"false" doc:"Only these kinds: change, repair, port, foreign"`
		Limit   int       `query:"limit" minimum:"0" maximum:"10000" doc:"How many at most; 0 takes 100"`
	}
	handle(s, s.operation("list-log", http.MethodGet, "/log", "What was done and by whom, the newest first"),
		func(_ context.Context, q *query) ([]api.LogEntry, error) {
			if q.Limit == 0 {
				q.Limit = usualLog
			}
			for _, k := range q.Kind {
				if !slices.Contains(entryKinds, k) {
					return nil, &spec.InvalidError{Field: "kind", Reason: "there is no kind " + k + "; there are " + strings.Join(entryKinds, ", ")}
				}
			}
			out := []api.LogEntry{}
			err := s.Engine.History(func(e txn.Entry) bool {
				if e.Ended.Before(q.Since) && e.Kind != txn.EntryDamaged {
					return false
				}
				if (q.Network == "" || e.About(spec.NetworkName(q.Network))) && (len(q.Kind) == 0 || slices.Contains(q.Kind, string(e.Kind))) {
					out = append(out, entryOf(e))
				}
				return len(out) < q.Limit
			})
			return out, err
		})
	type one struct {
		ID string `path:"id" maxLength:"64" doc:"ID of a change, or the number of an entry"`
	}
	handle(s, s.operation("get-log-entry", http.MethodGet, "/log/{id}", "One entry, with the steps, and what was before and after"),
		func(_ context.Context, in *one) (api.LogEntry, error) {
			var found *txn.Entry
			err := s.Engine.History(func(e txn.Entry) bool {
				if e.ID == in.ID || strconv.FormatUint(e.Number, 10) == in.ID && e.ID == "" {
					found = &e
				}
				return found == nil
			})
			if err == nil && found == nil {
				err = newProblem(http.StatusNotFound, api.CodeNotFound, "the record has no "+strconv.Quote(in.ID)+"; see drawbridge log")
			}
			if err != nil {
				return api.LogEntry{}, err
			}
			out := entryOf(*found)
			out.Steps, out.Objects = stepsOf(found.Steps), objectsOf(found.Objects)
			return out, nil
		})
	type undo struct {
		Changing
		ID string `path:"id" maxLength:"64" doc:"ID of a change"`
	}
	handle(s, s.operation("undo-change", http.MethodPost, "/log/{id}/undo", "Put back what a change altered, by a new change"),
		func(ctx context.Context, in *undo) (api.Change, error) {
			return s.done(ctx, in.Changing, func() (engine.Result, error) { return s.Engine.Undo(ctx, in.ID, in.options(ctx)) })
		})
}

func entryOf(e txn.Entry) api.LogEntry {
	out := api.LogEntry{
		Number: e.Number, Kind: string(e.Kind), ID: e.ID, Began: e.Began.UTC(), Ended: e.Ended.UTC(),
		DurationMS: float64(e.Ended.Sub(e.Began).Microseconds()) / 1000, Who: e.By.String(), Actor: actorOf(e.By), Title: e.Title,
		Networks: []string{}, Result: string(e.Phase), Problem: e.Problem, Times: max(e.Times, 1), StepCount: e.StepCount,
	}
	for _, n := range e.Networks {
		out.Networks = append(out.Networks, string(n))
	}
	return out
}

func actorOf(a txn.Actor) api.Actor {
	out := api.Actor{Kind: string(a.Kind), Name: a.Name, PID: a.PID, Process: a.Process}
	if a.Kind == txn.ByUser {
		uid := int(a.UID)
		out.UID = &uid
	}
	return out
}

func objectsOf(list []txn.Object) []api.LogObject {
	var out []api.LogObject
	for _, o := range list {
		to := api.LogObject{Network: string(o.Network), Name: o.Name()}
		switch {
		case o.Bare != nil:
			to.Kind = "network"
			to.Before, to.After = sides(o.Bare, func(n spec.Network) any {
				return documentOf(spec.Document{Networks: map[spec.NetworkName]spec.Network{n.Name: n}}).Networks[0]
			})
		case o.Reservation != nil:
			to.Kind = "reservation"
			to.Before, to.After = sides(o.Reservation, func(r spec.Reservation) any {
				return reservationsOf(spec.Network{Reservations: []spec.Reservation{r}}, "")[0]
			})
		case o.Forward != nil:
			to.Kind = "forward"
			to.Before, to.After = sides(o.Forward, func(f spec.Forward) any { return forwardOf(f) })
		}
		out = append(out, to)
	}
	return out
}

// sides writes both sides of a pair as a document has them.
func sides[T any](p *txn.Pair[T], form func(T) any) (before, after map[string]any) {
	write := func(v *T) map[string]any {
		if v == nil {
			return nil
		}
		var out map[string]any
		raw, err := json.Marshal(form(*v))
		if err == nil {
			err = json.Unmarshal(raw, &out)
		}
		if err != nil {
			return map[string]any{"unreadable": err.Error()}
		}
		return out
	}
	return write(p.Before), write(p.After)
}
