package api

import (
	"errors"
)

// ErrUnreachable says that no daemon answers on the socket.
var ErrUnreachable = errors.New("the drawbridge daemon is not reachable")

// Problem is an error as it goes over the wire (RFC 9457). Detail is one line
// that says what is wrong and what to do about it.
type Problem struct {
	Type   string `json:"type,omitempty" doc:"Always about:blank; look at code"`
	Title  string `json:"title" doc:"The HTTP status in words"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code" enum:"bad-request,login,forbidden,not-found,exists,in-use,cuts-guests,foreign,unrestorable,invalid,pending,too-large,unavailable,internal" doc:"For programs: what kind of problem it is"`
	// Field is the field that is wrong, for code invalid.
	Field string `json:"field,omitempty" doc:"The field that is wrong, for code invalid"`
	// Guests would be cut off, for code cuts-guests.
	Guests []string `json:"guests,omitempty" nullable:"false" doc:"Who would be cut off, for code cuts-guests"`
}

// The codes of problems.
const (
	CodeBadRequest = "bad-request"
	// CodeLogin: log in first, or again.
	CodeLogin        = "login"
	CodeForbidden    = "forbidden"
	CodeNotFound     = "not-found"
	CodeExists       = "exists"
	CodeInUse        = "in-use"
	CodeCutsGuests   = "cuts-guests"
	CodeForeign      = "foreign"
	CodeUnrestorable = "unrestorable"
	CodeInvalid      = "invalid"
	CodePending      = "pending"
	// CodeOver: the change was confirmed or taken back already.
	CodeOver = "over"
	// CodeUnguarded: no guard could be started, so that nothing was touched.
	CodeUnguarded   = "unguarded"
	CodeTooLarge    = "too-large"
	CodeUnavailable = "unavailable"
	CodeInternal    = "internal"
)

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus and ContentType let the HTTP library answer with a problem.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is the media type of RFC 9457, in the encoding asked for.
func (p *Problem) ContentType(asked string) string {
	if asked == "application/yaml" {
		return "application/problem+yaml"
	}
	return "application/problem+json"
}
