package hostconf

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// StartUnit asks systemd to start a unit, or to leave it running (job mode
// "replace", org.freedesktop.systemd1(5)). It returns when the job is queued, not
// when the unit is up.
func StartUnit(ctx context.Context, name string) error {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("start unit %s: %w", name, err)
	}
	defer conn.Close()
	systemd := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	call := systemd.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.StartUnit", 0, name, "replace")
	if call.Err != nil {
		return fmt.Errorf("start unit %s: %w", name, call.Err)
	}
	return nil
}
