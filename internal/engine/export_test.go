package engine

// Leaving is how many ports wait to be detached.
func (e *Engine) Leaving() int {
	e.leaving.mu.Lock()
	defer e.leaving.mu.Unlock()
	return len(e.leaving.waiting)
}
