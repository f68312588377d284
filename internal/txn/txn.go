// Package txn carries out the steps of a plan so that all of them hold or none
// does: by snapshot, journal, verification, and a guard outside the process.
//
// It owns the life of a change from its first step to its commit or roll-back,
// also over a crash. It does not know commands, modes or kernels: the machine is
// behind Host, the disk behind Journal.
//
// Start reading at Txn below, then Runner.Run in run.go; guard.go has the second
// process that takes a change back if this one cannot, recover.go what is done
// after a crash and after a boot.
package txn

import (
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// Phase is where a change is in its life.
type Phase string

// The phases, as they are shown in JSON.
const (
	Applying    Phase = "applying"
	Verifying   Phase = "verifying"
	Waiting     Phase = "waiting"
	Confirmed   Phase = "confirmed"
	RollingBack Phase = "rolling-back"
	RolledBack  Phase = "rolled-back"
	Stuck       Phase = "stuck"
)

// Txn is one change under way. It is data: the journal holds it whole, so that
// any process can finish it or take it back.
type Txn struct {
	ID    string
	Title string
	Phase Phase
	// Who asked, in words; "" for what nobody asked for, such as a repair.
	Who string
	// By is who asked for it, or what made it necessary.
	By Actor
	// Mends: the steps are what a person had turned of the host, and no document
	// speaks of them.
	Mends bool
	// Began is when it was begun, by the wall clock.
	Began time.Time
	Steps []plan.Step
	// After are steps for the time after the commit point: the host's own
	// network files, which must not change while the change may be taken back.
	After []plan.Step
	// Scope is everything that the steps touch.
	Scope []host.Key
	// Snapshot is the scope as it was; what is missing was not there.
	Snapshot host.State
	// Goal is the scope as it shall be.
	Goal host.State
	// Within is how long a person has to confirm, 0 if nobody is waited for. A
	// change that waits is guarded by a second process.
	Within time.Duration
	// Reach is what has to be seen for the change to confirm itself while it waits;
	// nil if only a person does.
	Reach *host.Reach
	// Deadline in nanoseconds of CLOCK_BOOTTIME: until when all that is done now
	// must be over, and while it is waiting, until when it can be confirmed. 0 if
	// nobody is waited for.
	Deadline int64
	// BootID is the boot (/proc/sys/kernel/random/boot_id) that the change
	// belongs to: after another boot nothing of it is left in the kernel.
	BootID string
	// Doc and Ledger are what is stored when the change is confirmed.
	Doc    spec.Document
	Ledger host.Ledger
	// Proof says what was seen of a change that confirmed itself.
	Proof string
	// Problem says why a change was taken back, is stuck, or is not finished yet.
	Problem string
	// Left are the steps that a stuck change could not take back.
	Left []plan.Step
}

// Ended is how a change ended that a person had to decide on.
type Ended struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	// Phase is Confirmed or RolledBack.
	Phase   Phase  `json:"phase"`
	Who     string `json:"who,omitempty"`
	Problem string `json:"problem,omitempty"`
	// Proof is Txn.Proof.
	Proof string `json:"proof,omitempty"`
}

// Ended is what remains to be said of a change that is over.
func (t Txn) Ended() Ended { return Ended{t.ID, t.Title, t.Phase, t.Who, t.Problem, t.Proof} }
