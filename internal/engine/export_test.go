package engine

import "context"

// Leaving is how many ports wait to be detached.
func (e *Engine) Leaving() int {
	e.leaving.mu.Lock()
	defer e.leaving.mu.Unlock()
	return len(e.leaving.waiting)
}

// Attend is what Follow does for changes that are not decided.
func (e *Engine) Attend(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attend(ctx)
}

// TellForeign tells what another program did, KeepNow writes down what waits.
func TellForeign(e *Engine, h Hint) { e.tellForeign([]Hint{h}) }

// KeepNow writes down what waits for it.
func KeepNow(e *Engine) error { return e.keepNow() }

// RepairNow is what Follow does when something changed.
func RepairNow(ctx context.Context, e *Engine) { e.repair(ctx, "somebody") }

// Forget has the next view be thought through anew.
func Forget(e *Engine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = kept{}
}
