package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// kinds maps what the engine refuses to what clients see; the first that
// matches counts. Whatever matches none is an internal error.
var kinds = []struct {
	is     func(error) bool
	status int
	code   string
	// advice is added to the detail.
	advice string
}{
	{as[*spec.InvalidError], http.StatusUnprocessableEntity, api.CodeInvalid, ""},
	{as[*engine.CutError], http.StatusConflict, api.CodeCutsGuests, "; stop them first, or insist with --cut-guests"},
	{as[*engine.ObstacleError], http.StatusConflict, api.CodeInUse, ""},
	{as[*plan.ForeignError], http.StatusConflict, api.CodeForeign, "; take another name, or remove it"},
	{as[*plan.UnrestorableError], http.StatusConflict, api.CodeUnrestorable, ""},
	{as[*engine.PendingError], http.StatusConflict, api.CodePending, ""},
	{as[*engine.OverError], http.StatusConflict, api.CodeOver, ""},
	{as[*txn.TakenBackError], http.StatusConflict, api.CodeOver, ""},
	{as[*txn.UnguardedError], http.StatusServiceUnavailable, api.CodeUnguarded, ""},
	{as[*txn.UnfinishedError], http.StatusInternalServerError, api.CodeInternal, "; see drawbridge change ls"},
	{as[*txn.StuckError], http.StatusInternalServerError, api.CodeInternal, "; see drawbridge change ls"},
	{is(spec.ErrNotFound), http.StatusNotFound, api.CodeNotFound, ""},
	{is(spec.ErrExists), http.StatusConflict, api.CodeExists, ""},
	{is(spec.ErrInUse), http.StatusConflict, api.CodeInUse, ""},
	{is(context.Canceled), http.StatusServiceUnavailable, api.CodeUnavailable, "; try again"},
	{is(context.DeadlineExceeded), http.StatusServiceUnavailable, api.CodeUnavailable, "; try again"},
}

func as[T error](err error) bool { var t T; return errors.As(err, &t) }

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// problemOf translates an error. The text of an internal error is given too:
// whoever gets here may read everything anyway.
func problemOf(err error) *api.Problem {
	var known *api.Problem
	if errors.As(err, &known) {
		if known.Title == "" {
			titled := *known
			titled.Title = http.StatusText(known.Status)
			return &titled
		}
		return known
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return newProblem(http.StatusRequestEntityTooLarge, api.CodeTooLarge, fmt.Sprintf("the request is larger than %d bytes", tooLarge.Limit))
	}
	for _, k := range kinds {
		if !k.is(err) {
			continue
		}
		p := newProblem(k.status, k.code, oneLine(err.Error())+k.advice)
		if invalid, ok := errors.AsType[*spec.InvalidError](err); ok {
			p.Field = invalid.Field
		}
		if cut, ok := errors.AsType[*engine.CutError](err); ok {
			p.Guests = cut.Guests
		}
		return p
	}
	return newProblem(http.StatusInternalServerError, api.CodeInternal, oneLine(err.Error()))
}

func newProblem(status int, code, detail string) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

// oneLine joins the lines of joined errors.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// transformProblem turns what the HTTP library itself refuses into our form.
func transformProblem(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := api.CodeBadRequest
	switch m.Status {
	case http.StatusUnprocessableEntity:
		code = api.CodeInvalid
	case http.StatusRequestEntityTooLarge:
		code = api.CodeTooLarge
	case http.StatusInternalServerError:
		code = api.CodeInternal
	case http.StatusRequestTimeout:
		code = api.CodeUnavailable
	}
	p := newProblem(m.Status, code, m.Detail)
	if len(m.Errors) == 0 {
		return p, nil
	}
	first := m.Errors[0]
	p.Detail = first.Message
	if where, ok := strings.CutPrefix(first.Location, "body."); ok {
		p.Field = where
		p.Detail = where + ": " + first.Message
	} else if first.Location != "" && first.Location != "body" {
		p.Detail = first.Location + ": " + first.Message
	}
	if more := len(m.Errors) - 1; more > 0 {
		p.Detail += fmt.Sprintf(" (and %d more)", more)
	}
	return p, nil
}

// refuse answers with a problem outside of the HTTP library.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if p.Status >= 500 {
		s.Log.Error("call failed", "method", r.Method, "path", r.URL.Path, "request", w.Header().Get("X-Request-Id"), "err", err)
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = huma.DefaultJSONFormat.Marshal(w, p)
}
