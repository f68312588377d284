package hostconf

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Names on the bus, firewalld.dbus(5).
const (
	firewalldName = "org.fedoraproject.FirewallD1"
	firewalldPath = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
	firewalldZone = firewalldName + ".zone."
)

// answerTime is how long firewalld is waited for when it was never heard yet, heardTime
// when it was: while it reloads or starts it answers nobody, for a second and more,
// and what stops guests meanwhile (its table firewalld_policy_drop) shall not wait for that.
const (
	answerTime = 300 * time.Millisecond
	heardTime  = 20 * time.Millisecond
)

// Firewalld puts bridges of ours into our zone of firewalld: the kind host.InZone.
// It implements txn.Host. What the zone may do is in files that come with drawbridge
// (packaging/firewalld), which firewalld reads when it starts and reloads. That a
// bridge is in it is said over D-Bus, and in a file of the zone as long as the
// network runs (firewalld_file.go), so that firewalld knows it from the beginning
// when it starts or reloads. No zone but ours is changed. A firewalld in another
// network namespace is left alone.
type Firewalld struct {
	systemBus
	files tree
	// filed: the files are those of the firewalld here.
	filed bool

	hearing sync.Mutex
	// heard is what it said last, ever that it did.
	heard zoneState
	ever  bool
	// question is the one that it has not answered yet; nil if it has.
	question *question
	// changes counts ours: an answer to a question before one of them is old.
	changes int
	late    func()
}

// zoneState is what firewalld says: whether it runs, has our zone, and which bridges
// are in that.
type zoneState struct {
	runs    bool
	has     bool
	bridges []string
}

// question is one to firewalld, of which it has one at a time.
type question struct {
	asked    time.Time
	answered chan struct{}
	// left: somebody went without the answer.
	left bool
}

// NewFirewalld returns the adapter; address as for NewResolved. root is where
// firewalld's files are, "" where there are none of this network namespace's. late is
// called when an answer comes that somebody went without: look again. It may be nil.
func NewFirewalld(address, root string, late func()) *Firewalld {
	return &Firewalld{systemBus: systemBus{address: address}, files: tree{root}, filed: root != "", late: late}
}

// errNoFirewalld: there is nobody to ask.
var errNoFirewalld = errors.New("firewalld does not run in this network namespace")

func (f *Firewalld) object(ctx context.Context) (dbus.BusObject, error) {
	conn, err := f.bus()
	if err != nil {
		return nil, err
	}
	var pid uint32
	err = conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, firewalldName).Store(&pid)
	if err != nil || !sharesNetwork(pid, "firewalld") {
		return nil, errNoFirewalld
	}
	return conn.Object(firewalldName, firewalldPath), nil
}

// hear asks firewalld, and gives it a moment to answer; else what it said last is
// taken to hold.
func (f *Firewalld) hear(ctx context.Context) zoneState {
	f.hearing.Lock()
	defer f.hearing.Unlock()
	// The answer to a question that was there before may be older than what is asked about.
	for mine := false; !mine; {
		q := f.question
		if mine = q == nil; mine {
			q = &question{asked: time.Now(), answered: make(chan struct{})}
			f.question = q
			go f.ask(q, f.changes)
		}
		patience := heardTime
		if !f.ever {
			patience = answerTime
		}
		f.hearing.Unlock()
		select {
		case <-q.answered:
		case <-ctx.Done():
		case <-time.After(time.Until(q.asked.Add(patience))):
		}
		f.hearing.Lock()
		if f.question == q {
			q.left = true
			break
		}
	}
	return f.heard
}

// ask puts a question, and notes the answer unless it is old.
func (f *Firewalld) ask(q *question, changes int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	now, err := f.inZone(ctx)
	f.hearing.Lock()
	if err == nil && changes == f.changes {
		f.heard, f.ever = now, true
	}
	f.question = nil
	left := q.left || changes != f.changes
	close(q.answered)
	f.hearing.Unlock()
	if left && f.late != nil {
		f.late()
	}
}

// inZone says which bridges are in our zone. It fails if firewalld does not answer.
func (f *Firewalld) inZone(ctx context.Context) (zoneState, error) {
	o, err := f.object(ctx)
	if err != nil {
		return zoneState{}, nil
	}
	z := zoneState{runs: true, has: true}
	err = o.CallWithContext(ctx, firewalldZone+"getInterfaces", dbus.FlagNoAutoStart, host.OurZone).Store(&z.bridges)
	if errors.Is(err, context.DeadlineExceeded) {
		return zoneState{}, err
	}
	switch {
	case isFirewalld(err, "INVALID_ZONE"):
		return zoneState{runs: true}, nil
	case err != nil: // it has gone
		return zoneState{}, nil
	}
	return z, nil
}

// Available says whether a firewalld runs that knows our zone, as it said last.
func (f *Firewalld) Available(ctx context.Context) bool {
	f.hearing.Lock()
	z, ever := f.heard, f.ever
	f.hearing.Unlock()
	if !ever {
		z = f.hear(ctx)
	}
	return z.has
}

// Expected says whether a firewalld that does not run would need a bridge in our zone
// as soon as it starts, by its files.
func (f *Firewalld) Expected(bridge string) bool {
	f.hearing.Lock()
	runs := f.heard.runs
	f.hearing.Unlock()
	return !runs && f.filed && f.files.expects(bridge)
}

// Observe lists the bridges in our zone. One that is so by firewalld's word and not by
// its files, or the other way round, has no Zone, so that it differs from what is
// wanted. While firewalld does not answer, as when it reloads, what it said last is
// taken to hold; one that does not run has only files.
func (f *Firewalld) Observe(ctx context.Context, keys ...host.Key) (host.State, error) {
	said, filed := f.hear(ctx), f.filed && f.files.hasZones()
	var z zoneFiles
	if filed {
		var err error
		if z, err = f.files.readZones(); err != nil {
			return nil, err
		}
	}
	seen := host.State{}
	for _, b := range slices.Concat(said.bridges, z.ours) {
		r := host.InZone{Bridge: b, Zone: host.OurZone}
		if said.runs && !slices.Contains(said.bridges, b) || filed && !z.stands(b) {
			r.Zone = ""
		}
		if len(keys) == 0 || slices.Contains(keys, r.Key()) {
			seen.Add(r)
		}
	}
	return seen, nil
}

// Apply puts bridges into zones, out of any other in which they are, and takes them
// out.
func (f *Firewalld) Apply(ctx context.Context, steps []plan.Step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, s := range steps {
		if err := f.apply(ctx, s); err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return nil
}

func (f *Firewalld) apply(ctx context.Context, s plan.Step) error {
	filed := f.filed && f.files.hasZones()
	if filed {
		if err := f.files.bind(s.Key().Name, s.After != nil); err != nil {
			return err
		}
	}
	o, err := f.object(ctx)
	if errors.Is(err, errNoFirewalld) && (filed || s.After == nil) {
		return nil // it forgot all with its end, and reads its files when it starts
	}
	if err != nil {
		return err
	}
	if z, ok := s.After.(host.InZone); ok {
		err = o.CallWithContext(ctx, firewalldZone+"changeZoneOfInterface", dbus.FlagNoAutoStart, z.Zone, z.Bridge).Err
		if isFirewalld(err, "ZONE_ALREADY_SET") {
			err = nil
		}
	} else {
		err = o.CallWithContext(ctx, firewalldZone+"removeInterface", dbus.FlagNoAutoStart, host.OurZone, s.Key().Name).Err
		if isFirewalld(err, "UNKNOWN_INTERFACE") || isFirewalld(err, "INVALID_ZONE") {
			err = nil
		}
	}
	if err == nil {
		f.note(s)
	}
	return err
}

// note knows what was just done without asking.
func (f *Firewalld) note(s plan.Step) {
	f.hearing.Lock()
	defer f.hearing.Unlock()
	f.changes++
	name := s.Key().Name
	f.heard.bridges = slices.DeleteFunc(slices.Clone(f.heard.bridges), func(b string) bool { return b == name })
	if s.After != nil {
		f.heard.bridges = append(f.heard.bridges, name)
	}
}

// isFirewalld says whether an error is the one that firewalld gives that name. It
// begins its message with it.
func isFirewalld(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && len(e.Body) > 0 && strings.HasPrefix(fmt.Sprint(e.Body[0]), name)
}
