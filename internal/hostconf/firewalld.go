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

// answerTime is how long firewalld is waited for when it is only looked at: while it
// reloads it answers nobody, for a second and more, and nothing shall wait for that.
const answerTime = 300 * time.Millisecond

// Firewalld puts bridges of ours into our zone of firewalld: the kind host.InZone.
// It implements txn.Host. What the zone may do is in files that come with drawbridge
// (packaging/firewalld), which firewalld reads when it starts and reloads. Nothing
// permanent is changed, and no zone but ours. A firewalld in another network
// namespace is left alone.
type Firewalld struct {
	systemBus
	// last is what was seen last.
	seeing sync.Mutex
	last   []string
}

// NewFirewalld returns the adapter; address as for NewResolved.
func NewFirewalld(address string) *Firewalld {
	return &Firewalld{systemBus: systemBus{address: address}}
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

// Available says whether a firewalld runs that knows our zone.
func (f *Firewalld) Available(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	o, err := f.object(ctx)
	if err != nil {
		return false
	}
	var zones []string
	err = o.CallWithContext(ctx, firewalldZone+"getZones", dbus.FlagNoAutoStart).Store(&zones)
	return err == nil && slices.Contains(zones, host.OurZone)
}

// Observe lists the bridges in our zone. While firewalld does not answer, as when it
// reloads, they are taken to be the same as before.
func (f *Firewalld) Observe(ctx context.Context, keys ...host.Key) (host.State, error) {
	f.seeing.Lock()
	defer f.seeing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if o, err := f.object(ctx); err != nil {
		f.last = nil
	} else {
		var bridges []string
		err := o.CallWithContext(ctx, firewalldZone+"getInterfaces", dbus.FlagNoAutoStart, host.OurZone).Store(&bridges)
		if !errors.Is(err, context.DeadlineExceeded) {
			f.last = bridges // none without such a zone
		}
	}
	seen := host.State{}
	for _, b := range f.last {
		z := host.InZone{Bridge: b, Zone: host.OurZone}
		if len(keys) == 0 || slices.Contains(keys, z.Key()) {
			seen.Add(z)
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
		o, err := f.object(ctx)
		if errors.Is(err, errNoFirewalld) && s.After == nil {
			continue // it forgot all with its end
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
		if z, ok := s.After.(host.InZone); ok {
			err = o.CallWithContext(ctx, firewalldZone+"changeZoneOfInterface", dbus.FlagNoAutoStart, z.Zone, z.Bridge).Err
			if isFirewalld(err, "ZONE_ALREADY_SET") {
				err = nil
			}
		} else if z, ok := s.Before.(host.InZone); ok {
			err = o.CallWithContext(ctx, firewalldZone+"removeInterface", dbus.FlagNoAutoStart, z.Zone, z.Bridge).Err
			if isFirewalld(err, "UNKNOWN_INTERFACE") || isFirewalld(err, "INVALID_ZONE") {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return nil
}

// isFirewalld says whether an error is the one that firewalld gives that name. It
// begins its message with it.
func isFirewalld(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && len(e.Body) > 0 && strings.HasPrefix(fmt.Sprint(e.Body[0]), name)
}
