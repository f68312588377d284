// Package txn carries out the steps of a plan so that all of them hold or none
// does: by snapshot, journal, verification, and a guard outside the process.
//
// It owns the life of a change from its first step to its commit or roll-back,
// also over a crash. It does not know commands, modes or kernels: the machine is
// behind Host, the disk behind Journal.
//
// Start reading at Txn below, then Runner.Run in run.go.
package txn

import (
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
	Steps []plan.Step
	// Scope is everything that the steps touch.
	Scope []host.Key
	// Snapshot is the scope as it was; what is missing was not there.
	Snapshot host.State
	// Goal is the scope as it shall be.
	Goal host.State
	// Deadline in nanoseconds of CLOCK_BOOTTIME; 0 if nobody is waited for.
	Deadline int64
	// BootID is the boot (/proc/sys/kernel/random/boot_id) that the change
	// belongs to: after another boot nothing of it is left in the kernel.
	BootID string
	// Doc and Ledger are what is stored when the change is confirmed.
	Doc    spec.Document
	Ledger host.Ledger
	// Problem says why a change was taken back or is stuck.
	Problem string
}
