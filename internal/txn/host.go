package txn

import (
	"context"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Host is the machine, or one kind of things on it. Its methods may be called by
// several goroutines. Package nettest has a fake with the kernel's cascades; both
// pass nettest.Contract.
type Host interface {
	// Observe reads the resources with the given keys; those that are not there
	// are missing from the answer. With no keys it reads all that can be listed
	// (everything but sysctls, which are only read when asked for).
	Observe(ctx context.Context, keys ...host.Key) (host.State, error)
	// Apply carries out steps in order. Steps are idempotent: creating what is
	// there as wanted, or deleting what is gone, is success. Neighbouring steps
	// may be done in one kernel transaction. After an error any part may have
	// been done; the caller looks again.
	Apply(ctx context.Context, steps []plan.Step) error
}

// Preparer is a Host that can make ready for steps, so that these take less time
// once it is time. Nobody notices it, and nothing of it needs to be taken back.
type Preparer interface {
	Prepare(ctx context.Context, steps []plan.Step)
}

// Looker is a Host that knows what did not change since it was last asked. Look is
// Observe without keys, for those who only look: as true, and cheap where nothing
// changed, for then it is the same pointer as before. Changes are planned and
// verified by Observe.
type Looker interface {
	Look(ctx context.Context) (*host.Sight, error)
}
