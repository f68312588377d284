package spec

import (
	"errors"
	"fmt"
)

// The kinds of refusal that every face maps to its own codes. They are wrapped
// with %w; callers use errors.Is and never look at the text.
var (
	// ErrNotFound says that a named thing does not exist in the document.
	ErrNotFound = errors.New("not found")
	// ErrExists says that a name or an address is taken already.
	ErrExists = errors.New("already exists")
	// ErrInUse says that the thing cannot be changed while something hangs on it.
	ErrInUse = errors.New("in use")
)

// InvalidError says which field of a request is wrong and why. Field is the
// name a user typed (subnet, dhcp-range, bridge), Reason a clause that names
// the offending value and the way out.
type InvalidError struct {
	Field  string
	Reason string
}

// Error joins field and reason into one line.
func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

func invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)}
}
