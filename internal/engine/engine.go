// Package engine is the one door: every command, start-up and every repair
// takes the same road through it, from an edit of the document to a change of
// the host that holds or is taken back.
//
// It owns the pipeline (edit, settle, render, plan, carry out), the rule that
// one change happens at a time, live ports, and drift repair. It does not know
// any face, mode or kind of resource.
//
// Start reading at Engine below, then change in pipeline.go; ports.go has
// guests' NICs, changes.go those that a person decides on, drift.go the repair,
// health.go what is shown.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// Store is where the document, the ledger and the journal are.
type Store interface {
	txn.Journal
	Document() spec.Document
	Ledger() host.Ledger
	// Ended lists how changes ended that waited for a person, oldest first.
	Ended() ([]txn.Ended, error)
	// Record keeps entries about what is no change of the journal; those of changes
	// it keeps by itself. History lists all, the newest first, until each says no.
	Record(entries ...txn.Entry) error
	History(each func(txn.Entry) bool) error
}

// LivePorts is where ports are remembered until the next boot.
type LivePorts interface {
	Save(host.Port) error
	Remove(tap string) error
	Load() ([]host.Port, error)
}

// Taps opens the cables of guests.
type Taps interface {
	// OpenTap makes a tap and returns one descriptor for each queue; an error
	// that is fs.ErrExist if the name is taken. owner is a user id or -1.
	OpenTap(name string, queues, owner int, persist bool) ([]*os.File, error)
	// OpenDirect makes a macvtap on a NIC and returns one descriptor for each queue;
	// an error that is fs.ErrExist if the name is taken.
	OpenDirect(name, nic, mac string, queues int) ([]*os.File, error)
	// Released lists those of the macvtaps that nobody holds open any more.
	Released(ctx context.Context, taps []string) ([]string, error)
	// OpenVhost returns a vhost descriptor for each queue, or none where the
	// kernel has no vhost.
	OpenVhost(queues int) []*os.File
	// TapUsers finds which process holds which tap or macvtap.
	TapUsers(ctx context.Context) (map[string]TapUser, error)
	// Descends says whether a process was started by another, itself or through
	// others between them.
	Descends(pid, from int) bool
	// Learned lists the hardware addresses that were seen behind each port.
	Learned(ctx context.Context) (map[string][]string, error)
	// Neighbours lists the addresses that the host saw on its links.
	Neighbours(ctx context.Context) ([]Neighbour, error)
	// Counters reads bytes and packets of all links, and how they are.
	Counters(ctx context.Context) (map[string]Counters, error)
}

// TapUser is the process that holds a tap open.
type TapUser struct {
	PID     int
	Process string
	// Guest is the name that the process was given for its guest (QEMU's -name).
	Guest string
}

// Neighbour is an address that the host saw somebody use on a link.
type Neighbour struct {
	Link, MAC string
	Addr      netip.Addr
}

// Counters of a link, from the host's side, and what else is only to be looked
// at: nothing is decided by it.
type Counters struct {
	RxBytes, TxBytes, RxPackets, TxPackets uint64
	// Index is the number that the kernel gave the link: later ones are greater.
	Index int
	// NoCarrier: there is no cable, or nobody at its other end.
	NoCarrier bool
	// SpeedMbit in Mbit/s, of network cards; 0 if not known.
	SpeedMbit int
}

// Services tells about the guest services beyond what they serve.
type Services interface {
	// Leases lists what DHCP gave away.
	Leases(ctx context.Context) ([]Lease, error)
	// KeepLeases forgets the leases of all networks but these.
	KeepLeases(ctx context.Context, networks []spec.NetworkName) error
	// Heard lists the addresses that guests on ports were heard to use, where others
	// give them out.
	Heard(ctx context.Context) ([]Heard, error)
	// Problems lists what keeps services from working, one line each.
	Problems() []string
}

// Manager is the host's own network manager.
type Manager interface {
	// Of says who manages a link. The error says what of the link's configuration
	// cannot be carried over.
	Of(ctx context.Context, link string) (Managed, error)
	// Verify waits until the manager's clients work on a bridge that got a runtime
	// profile: a lease was renewed there.
	Verify(ctx context.Context, bridge string) error
	// Files lists the files of the host that a permanent profile changes, or would
	// change; none if that is not known.
	Files(ctx context.Context, p host.Profile) []string
	// Edited says which of the files that a bridge's permanent profile changed
	// somebody edited since, and what becomes of that when the profile is deleted.
	Edited(bridge string) []string
}

// Managed is who manages a link.
type Managed struct {
	// Name is as host.Profile has it; "" for nobody.
	Name string
	// Words say it for people, with what it was recognised by.
	Words string
	// Notes are remarks for the person who asked.
	Notes []string
}

// Config is what an engine is made of.
type Config struct {
	Host     txn.Host
	Store    Store
	Ports    LivePorts
	Taps     Taps
	Services Services
	// Guard stands by while a change waits for a person; nil refuses those.
	Guard txn.Guard
	// Manager is the host's own network manager; nil if there is none to care for.
	Manager Manager
	// Reach tells whether the host is reached; nil if that cannot be seen.
	Reach Reach
	// Flows is the host's table of connections, Tally counts those of forwards;
	// nil counts nothing.
	Flows Flows
	Tally *Tally
	// Doors looks for what else answers on a port, or swallows what comes to it.
	Doors Doors
	// Firewalls knows other programs' rules; nil asks nothing of them. Observe
	// leaves them alone, and only tells.
	Firewalls Firewalls
	Observe   bool
	// Paths reads what decides about packets' ways; nil if nobody can.
	Paths Paths
	Log   *slog.Logger
	// Seed makes made-up addresses differ from host to host (machine-id).
	Seed string
	// BootID and Boottime are handed to txn.Runner.
	BootID   string
	Boottime func() int64
	// Resolved says whether systemd-resolved answers for the host just now.
	Resolved func(context.Context) bool
	// Now is the wall clock.
	Now func() time.Time
	// FirstSinceBoot: networks are started or stopped as their Autostart says.
	FirstSinceBoot bool
}

// Engine is the door. Its methods may be called concurrently; changes are made
// one at a time.
type Engine struct {
	Config
	runner txn.Runner

	// mu is held from looking at the host until the change is done, so that a
	// plan is never made from what another change is about to alter.
	mu   sync.Mutex
	open unfinished
	// reach is what was seen for changes that confirm themselves.
	reach reaching
	// live are the ports by tap.
	live map[string]host.Port
	// leaving are ports that wait to be detached.
	leaving leavers
	// held are networks that cannot run just now, and why.
	held map[spec.NetworkName]string
	// quarrel counts repairs of one thing, to notice who keeps undoing them.
	quarrel quarrel
	repairs int
	known   known
	// orphans: there may be leases of networks that are no more.
	orphans bool

	// leases are those that forwards follow.
	leases map[leaseKey]Lease

	// index finds the forwards of flows; nil until it is first needed, stale when
	// the document may have changed since.
	indexMu sync.Mutex
	index   *doorIndex
	stale   bool

	watchers watchers
	// lingering are rules in other programs' chains that nothing needs any more.
	lingering *lingering
	begun     begun
	keeper    *keeper

	// kept is the last examination, and views how many there were.
	kept  kept
	views uint64
}

// New makes an engine; nothing is read or changed before Start.
func New(c Config) *Engine {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Resolved == nil {
		c.Resolved = func(context.Context) bool { return false }
	}
	e := &Engine{
		Config:    c,
		live:      map[string]host.Port{},
		held:      map[spec.NetworkName]string{},
		leases:    map[leaseKey]Lease{},
		keeper:    newKeeper(),
		reach:     reaching{of: map[string]*sighting{}, wake: make(chan struct{}, 1)},
		lingering: &lingering{since: map[host.Key]time.Time{}},
		quarrel:   quarrel{now: c.Now, seen: map[host.Key][]time.Time{}},
	}
	e.runner = txn.Runner{
		Host: c.Host, Journal: c.Store, Log: c.Log, Boottime: c.Boottime, BootID: c.BootID,
		Guard: c.Guard, Entered: e.entered, Probe: e.probe,
	}
	return e
}

// Start ends what a crash left unfinished, finds the live ports again, and
// makes the host what the document says. An error means that the engine cannot
// be used; networks that cannot run are no error but problems in the View.
func (e *Engine) Start(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	open, err := e.runner.Recover(ctx)
	if err != nil {
		return err
	}
	e.open.set(open)
	e.reach.look()
	ports, err := e.Ports.Load()
	if err != nil {
		e.Log.Warn("a port was forgotten", "err", err)
	}
	for _, p := range ports {
		e.live[p.Tap] = p
	}
	if list, err := e.Services.Leases(ctx); err == nil {
		e.takeLeases(list) // else they come once guest services run, by SyncLeases
	}
	want := e.Store.Document()
	if e.FirstSinceBoot {
		for name, n := range want.Networks {
			n.Started = n.Autostart && (n.Started || render.Unattended(n))
			want.Networks[name] = n
		}
	}
	if _, err := e.reconcile(txn.By(ctx, txn.Actor{Kind: txn.ByStart}), "start", want, ""); err != nil {
		e.Log.Error("not all networks could be started", "err", err)
	}
	if e.Tally != nil {
		keys := map[string]bool{}
		for _, f := range allForwards(want) {
			keys[f.Key()] = true
		}
		e.Tally.Retain(func(key string) bool { return keys[key] })
	}
	// A crash may have come between a removal and its leases. A document that was
	// never written says nothing about leases.
	e.orphans = want.Revision > 0
	e.forgetOrphans(ctx)
	return nil
}

// Load is Start for a program that only looks, plans or cancels while no daemon
// runs: it reads what is under way and changes nothing.
func (e *Engine) Load() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	open, err := e.Store.Load()
	if err != nil {
		return err
	}
	e.open.set(open)
	ports, err := e.Ports.Load()
	if err != nil {
		return err
	}
	for _, p := range ports {
		e.live[p.Tap] = p
	}
	return nil
}

// Document is what is wanted now.
func (e *Engine) Document() spec.Document { return e.Store.Document() }

// Do carries out a command, or plans it for a dry run. On an error nothing has
// changed, unless it is a *txn.StuckError.
func (e *Engine) Do(ctx context.Context, c Command, o Options) (Result, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	had := e.Store.Document()
	want, err := c.Edit(had.Clone())
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", c.Title(), err)
	}
	res, err := e.change(ctx, c.Title(), had, want, o)
	e.dropLeases(ctx, had)
	return res, err
}

// newID makes the id of a change: eight hex digits, enough to tell apart what a
// person sees at one time.
func newID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
