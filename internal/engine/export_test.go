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
