package engine

import (
	"strings"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// Result is what became of a command.
type Result struct {
	// ID of the change; "" for a dry run or when there was nothing to do.
	ID    string
	Title string
	Phase txn.Phase
	// Steps that were, or would be, carried out; empty = nothing to do.
	Steps []plan.Step
	Risk  plan.Risk
	// Cuts names the guests (or taps, where no guest is known) that lose their
	// network.
	Cuts []string
	// Notes are remarks for the person who asked, one line each.
	Notes []string
	// Deadline of a change that waits, in nanoseconds of CLOCK_BOOTTIME.
	Deadline int64
	// Seen is what is so before a change that puts the host's own connections at
	// risk.
	Seen []Fact
	// Conditions are what has to be seen for the change to confirm itself.
	Conditions []Condition
	// Files of the host's own configuration that change with the confirmation.
	Files  []string
	DryRun bool
	// Edits: the document would be another, whether or not that takes steps. Of dry
	// runs alone.
	Edits bool
	// Document after the change.
	Document spec.Document
}

// Fact is something that is so before a change.
type Fact = render.Fact

// Options of one command.
type Options struct {
	// DryRun plans and changes nothing.
	DryRun bool
	// CutGuests allows a change that takes guests' network away.
	CutGuests bool
	// Within is how long a person has to confirm a change that puts the host's own
	// connections at risk; 0 takes a minute.
	Within time.Duration
	// WhenReachable: such a change confirms itself once it is seen that whoever asked
	// is still reached, and that what the host depends on answers again.
	WhenReachable bool
	// PID is the process that asks, 0 if that is not known.
	PID int
	// risky: what nobody can see from the steps may keep whoever asks from coming
	// back, so that the change waits to be confirmed.
	risky bool
}

// CutError refuses a change that would take the network from guests.
type CutError struct {
	Title  string
	Guests []string
}

// Error names the guests; each face names its own way to insist.
func (e *CutError) Error() string { return e.Title + ": would cut off " + join(e.Guests) }

// View is what there is to be seen at one moment.
type View struct {
	Document spec.Document
	// State is what was seen on the host, foreign things included.
	State host.State
	// Networks by name: how each really is.
	Networks map[spec.NetworkName]NetworkView
	Ports    []Port
	// Links by name: what is counted of all links of the host.
	Links  map[string]Counters
	Leases []Lease
	// Changes that are not finished: pending, rolling back or stuck.
	Changes []txn.Txn
	// Problems of the host as a whole, one line each, worst first.
	Problems []string
	// Repairs counts what was put back since the daemon started.
	Repairs int
	// Same is the same number in two views, and not 0, if nothing differs between them
	// but bytes and packets. Nobody changes what is in a view.
	Same uint64
}

// NetworkView is the health of one network.
type NetworkView struct {
	// Running: all that the network needs is there as wanted.
	Running bool
	// Problems, one line each: what differs and what to do.
	Problems []string
	// Remarks are what to know of the network, one line each, also while all is well.
	Remarks []string
	// Guests counts ports in use.
	Guests int
	// Leases counts addresses given away, of PoolSize.
	Leases, PoolSize int
}

// Port is a guest's NIC on a network.
type Port struct {
	Network spec.NetworkName
	Bridge  string
	Tap     string
	// Guest is the guest's name; the tap's if nobody told us.
	Guest string
	// MAC of the guest's NIC, "" until known.
	MAC string
	// Tags are the VLANs of the port, as the bridge has them; zero for none.
	Tags spec.Tags
	// Addresses in the order learnt: reservation or lease, then IPv6.
	Addresses []string
	// Made is who made the port: qemu, attach, bridge-helper, or other for a
	// tap that another program plugged in.
	Made string
	// Owner is the user id that the port belongs to; -1 for none.
	Owner int
	// Since is when the port was made, in seconds since 1970; 0 if unknown.
	Since int64
	// PID and Process hold the tap open; 0 and "" if nobody does.
	PID     int
	Process string
	// Bytes and packets, seen from the guest: received and sent.
	RxBytes, TxBytes, RxPackets, TxPackets uint64
}

// PortRequest asks for a port.
type PortRequest struct {
	Network spec.NetworkName
	// Guest is the name of the guest; "" takes the tap's.
	Guest string
	// MAC of the guest's NIC; "" makes one up, stable for the same guest name
	// and network. NoMAC leaves it unknown, to be learnt (bridge helper).
	MAC   string
	NoMAC bool
	// Queues of a multi-queue NIC, 1 to 256; 0 means 1.
	Queues int
	// Bridge may be given in place of Network (bridge helper).
	Bridge string
	// Tags are the guest's VLANs; the zero value takes the network's.
	Tags spec.Tags
	// Made is one of qemu, attach, bridge-helper.
	Made string
	// Owner is the user id that may open a persistent tap; -1 for root only.
	Owner int
	// PID is the process that asks, 0 if that is not known.
	PID int
}

// Lease is an address given to a guest.
type Lease struct {
	Network  spec.NetworkName
	MAC      string
	Address  string
	Hostname string
	// Expires is in seconds since 1970; 0 never.
	Expires int64
	// Guest is the name that DNS answers with.
	Guest string
}

func join(names []string) string { return strings.Join(names, ", ") }
