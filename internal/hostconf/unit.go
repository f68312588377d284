package hostconf

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	// systemdSocket is systemd's own end of the bus: for root, and there also
	// where no bus daemon is installed or it is restarting.
	systemdSocket = "unix:path=/run/systemd/private"
	systemdName   = "org.freedesktop.systemd1"
)

// startPatience bounds how long a unit may take to come up or to end.
const startPatience = 10 * time.Second

// StartUnit has systemd start a unit, or leave it running (job mode "replace",
// org.freedesktop.systemd1(5)) once what others asked of it is done, and waits until
// it is up. A unit that fails, is
// masked, or is not started any more because it failed too often, is an error at
// once.
func StartUnit(ctx context.Context, name string) error {
	return turnUnit(ctx, name, "StartUnit", func(state string) bool { return state == "active" })
}

// startAgain starts a unit that we have stopped ourselves. systemd must not count
// that as one of the starts after which it gives a unit up (StartLimitBurst= in
// systemd.unit(5)).
func startAgain(ctx context.Context, name string) error {
	conn, err := systemd(ctx)
	if err != nil {
		return fmt.Errorf("start unit %s: %w", name, err)
	}
	defer conn.Close()
	manager := conn.Object(systemdName, "/org/freedesktop/systemd1")
	// It fails for a unit that systemd has forgotten, and with it the count.
	_ = manager.CallWithContext(ctx, systemdName+".Manager.ResetFailedUnit", 0, name).Err
	return StartUnit(ctx, name)
}

// stopUnit is the opposite; that a unit is not running is success.
func stopUnit(ctx context.Context, name string) error {
	return turnUnit(ctx, name, "StopUnit", func(state string) bool { return state == "inactive" || state == "failed" })
}

func turnUnit(ctx context.Context, name, method string, done func(state string) bool) error {
	doing := strings.ToLower(strings.TrimSuffix(method, "Unit")) + " unit " + name
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	conn, err := systemd(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer conn.Close()
	manager := conn.Object(systemdName, "/org/freedesktop/systemd1")
	var path dbus.ObjectPath
	if err := manager.CallWithContext(ctx, systemdName+".Manager.LoadUnit", 0, name).Store(&path); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	unit := conn.Object(systemdName, path)
	if err := settled(ctx, unit); err != nil {
		return fmt.Errorf("%s: what others do with it does not end: %w", doing, err)
	}
	if err := manager.CallWithContext(ctx, systemdName+".Manager."+method, 0, name, "replace").Err; err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := becomes(ctx, unit, done); err != nil {
		return fmt.Errorf("%s: %w; see: systemctl status %s", doing, err, name)
	}
	return nil
}

// becomes waits until a unit is as it should be and no job for it is left.
func becomes(ctx context.Context, unit dbus.BusObject, done func(state string) bool) error {
	for {
		state, busy, err := unitState(ctx, unit)
		switch {
		case err != nil:
			return err
		case done(state) && !busy:
			return nil
		case !busy && state != "activating" && state != "deactivating":
			return fmt.Errorf("it is %s", state)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it is %s: %w", state, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// settled waits until no job for a unit waits or runs: a job of ours would cancel
// it, and whoever types systemctl stop would be told that this failed.
func settled(ctx context.Context, unit dbus.BusObject) error {
	for {
		_, busy, err := unitState(ctx, unit)
		if err != nil || !busy {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// unitState reads a unit's ActiveState, and whether a job for it waits or runs;
// only without one the state is the outcome.
func unitState(ctx context.Context, unit dbus.BusObject) (state string, busy bool, err error) {
	get := func(property string, value any) error {
		var v dbus.Variant
		err := unit.CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, systemdName+".Unit", property).Store(&v)
		if err != nil {
			return err
		}
		return v.Store(value)
	}
	var job struct {
		ID   uint32
		Path dbus.ObjectPath
	}
	// The job first: if it ends in between, the state is the one after it.
	if err := get("Job", &job); err != nil {
		return "", false, err
	}
	if err := get("ActiveState", &state); err != nil {
		return "", false, err
	}
	return state, job.ID != 0, nil
}

func systemd(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dbus.Dial(systemdSocket, dbus.WithContext(ctx))
	if err == nil {
		// Between two, without a bus daemon, there is no Hello.
		if err = conn.Auth(nil); err == nil {
			return conn, nil
		}
		conn.Close()
	}
	conn, busErr := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if busErr != nil {
		return nil, errors.Join(err, busErr)
	}
	return conn, nil
}
