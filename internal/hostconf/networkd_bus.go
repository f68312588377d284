package hostconf

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// networkdReload makes networkd read its files again and carry out what changed
// (org.freedesktop.network1(5)). It returns before that is done.
func networkdReload(ctx context.Context) error { return networkdCall(ctx, "Reload") }

func networkdCall(ctx context.Context, method string, args ...any) error {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("connect to the system bus: %w", err)
	}
	defer conn.Close()
	err = conn.Object("org.freedesktop.network1", "/org/freedesktop/network1").
		CallWithContext(ctx, "org.freedesktop.network1.Manager."+method, 0, args...).Err
	if err != nil {
		return fmt.Errorf("ask systemd-networkd to %s: %w", method, err)
	}
	return nil
}
