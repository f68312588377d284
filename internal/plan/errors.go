package plan

import (
	"strings"

	"drawbridge/internal/host"
)

// ForeignError says that something which is not ours stands where a wanted
// thing has to go.
type ForeignError struct{ Key host.Key }

// Error names the thing in the way.
func (e *ForeignError) Error() string {
	return e.Key.String() + " exists and was not made by drawbridge"
}

// UnrestorableError says that a change would touch something whose state could
// not be put back exactly.
type UnrestorableError struct {
	Key        host.Key
	Attributes []string
}

// Error names the thing and what of it cannot be restored.
func (e *UnrestorableError) Error() string {
	return e.Key.String() + " has attributes that could not be restored: " + strings.Join(e.Attributes, ", ")
}
