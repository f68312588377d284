package hostconf

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// Scope is a control group that systemd makes for a process which somebody else
// started (systemd.scope(5)), beside the services.
type Scope struct {
	Name        string // ends in .scope, and no unit may have it
	Description string
	PID         int
	// Devices are what of /dev its processes may open and write to, besides the
	// devices that all may (DevicePolicy=closed in systemd.resource-control(5)).
	Devices []string
}

// StartScope takes a process out of the control group of who started it, so that it
// goes on when that ends or is killed. All else the process keeps as it inherited it:
// capabilities, filters, and what it sees of the file system. It is there when StartScope
// returns nil. The scope ends with its process.
func StartScope(ctx context.Context, s Scope) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := startScope(ctx, s); err != nil {
		return fmt.Errorf("start %s of process %d: %w", s.Name, s.PID, err)
	}
	return nil
}

func startScope(ctx context.Context, s Scope) error {
	conn, err := systemd(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	type property struct {
		Name  string
		Value dbus.Variant
	}
	type device struct{ Path, Access string }
	devices := []device{}
	for _, path := range s.Devices {
		devices = append(devices, device{path, "rw"})
	}
	properties := []property{
		{"Description", dbus.MakeVariant(s.Description)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(s.PID)})},
		// One that failed is not kept for people to look at.
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
		{"DevicePolicy", dbus.MakeVariant("closed")},
		{"DeviceAllow", dbus.MakeVariant(devices)},
	}
	type auxiliary struct {
		Name       string
		Properties []property
	}
	manager := conn.Object(systemdName, "/org/freedesktop/systemd1")
	err = manager.CallWithContext(ctx, systemdName+".Manager.StartTransientUnit", 0, s.Name, "fail", properties, []auxiliary{}).Err
	if err != nil {
		return err
	}
	var path dbus.ObjectPath
	if err := manager.CallWithContext(ctx, systemdName+".Manager.LoadUnit", 0, s.Name).Store(&path); err != nil {
		return err
	}
	// It is active once the process was moved.
	return becomes(ctx, conn.Object(systemdName, path), func(state string) bool { return state == "active" })
}
