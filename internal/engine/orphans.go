package engine

import (
	"context"

	"drawbridge/internal/spec"
)

// dropLeases forgets the leases of networks that a change has removed. A network
// that only stops keeps them: when it starts again its guests find their
// addresses. One that is made anew under an old name is another network.
func (e *Engine) dropLeases(ctx context.Context, had spec.Document) {
	now := e.Store.Document()
	for name := range had.Networks {
		if _, still := now.Networks[name]; !still {
			e.orphans = true
		}
	}
	e.forgetOrphans(ctx)
}

// forgetOrphans takes leases of no network out of the lease file. While guest
// services do not run it is tried again later: nothing hangs on it.
func (e *Engine) forgetOrphans(ctx context.Context) {
	if !e.orphans {
		return
	}
	if err := e.Services.KeepLeases(ctx, e.Store.Document().Names()); err != nil {
		e.Log.Debug("leases of removed networks are kept for now", "err", err)
		return
	}
	e.orphans = false
}
