package hostconf

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// systemdSocket is systemd's own end of the bus: for root, and there also where
// no bus daemon is installed or it is restarting.
const systemdSocket = "unix:path=/run/systemd/private"

// StartUnit asks systemd to start a unit, or to leave it running (job mode
// "replace", org.freedesktop.systemd1(5)). It returns when the job is queued, not
// when the unit is up.
func StartUnit(ctx context.Context, name string) error {
	conn, err := systemd(ctx)
	if err != nil {
		return fmt.Errorf("start unit %s: %w", name, err)
	}
	defer conn.Close()
	call := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").
		CallWithContext(ctx, "org.freedesktop.systemd1.Manager.StartUnit", 0, name, "replace")
	if call.Err != nil {
		return fmt.Errorf("start unit %s: %w", name, call.Err)
	}
	return nil
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
