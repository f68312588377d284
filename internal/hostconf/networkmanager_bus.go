package hostconf

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// NMDeviceState, org.freedesktop.NetworkManager(5).
const (
	nmUnmanaged = 10
	nmPrepare   = 40
	nmActivated = 100
)

// nmExternal is NM_ACTIVATION_STATE_FLAG_EXTERNAL: NetworkManager only describes
// what somebody else has set up.
const nmExternal = 0x80

const nmName = "org.freedesktop.NetworkManager"

type nmBus struct{ *dbus.Conn }

func nmDial(ctx context.Context) (nmBus, error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nmBus{}, fmt.Errorf("connect to the system bus: %w", err)
	}
	return nmBus{conn}, nil
}

// nmDevice is what NetworkManager says about a link.
type nmDevice struct {
	state    uint32
	external bool
	// connection is the active connection's UUID, file where it is kept; "" if none.
	connection, file string
	// clientID is the DHCPv4 client's, as it says it, with colons.
	clientID string
}

func (b nmBus) get(ctx context.Context, path dbus.ObjectPath, iface, property string, value any) error {
	var v dbus.Variant
	err := b.Object(nmName, path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, nmName+iface, property).Store(&v)
	if err == nil {
		err = v.Store(value)
	}
	if err != nil {
		return fmt.Errorf("ask NetworkManager for %s: %w", property, err)
	}
	return nil
}

func (b nmBus) device(ctx context.Context, link string) (nmDevice, error) {
	var d nmDevice
	var path, active, connection, dhcp dbus.ObjectPath
	err := b.Object(nmName, "/org/freedesktop/NetworkManager").CallWithContext(ctx, nmName+".GetDeviceByIpIface", 0, link).Store(&path)
	if err != nil {
		return d, fmt.Errorf("ask NetworkManager for %s: %w", link, err)
	}
	if err := b.get(ctx, path, ".Device", "State", &d.state); err != nil {
		return d, err
	}
	if err := b.get(ctx, path, ".Device", "ActiveConnection", &active); err != nil || active == "/" {
		return d, err
	}
	var flags uint32
	if err := b.get(ctx, active, ".Connection.Active", "StateFlags", &flags); err != nil {
		return d, err
	}
	d.external = flags&nmExternal != 0
	if err := b.get(ctx, active, ".Connection.Active", "Uuid", &d.connection); err != nil {
		return d, err
	}
	if err := b.get(ctx, active, ".Connection.Active", "Connection", &connection); err != nil {
		return d, err
	}
	if err := b.get(ctx, connection, ".Settings.Connection", "Filename", &d.file); err != nil {
		return d, err
	}
	if err := b.get(ctx, path, ".Device", "Dhcp4Config", &dhcp); err != nil || dhcp == "/" {
		return d, err
	}
	options := map[string]dbus.Variant{}
	if err := b.get(ctx, dhcp, ".DHCP4Config", "Options", &options); err != nil {
		return d, err
	}
	d.clientID, _ = options["dhcp_client_identifier"].Value().(string)
	return d, nil
}

// reload makes it read its connections' files again. Active ones go on.
func (b nmBus) reload(ctx context.Context) error {
	err := b.Object(nmName, "/org/freedesktop/NetworkManager/Settings").CallWithContext(ctx, nmName+".Settings.ReloadConnections", 0).Err
	if err != nil {
		return fmt.Errorf("ask NetworkManager to read its connections: %w", err)
	}
	return nil
}

// reloadConf makes it read NetworkManager.conf and what belongs to that again, and
// nothing else (flag 1 of Reload, org.freedesktop.NetworkManager(5)).
func (b nmBus) reloadConf(ctx context.Context) error {
	err := b.Object(nmName, "/org/freedesktop/NetworkManager").CallWithContext(ctx, nmName+".Reload", 0, uint32(1)).Err
	if err != nil {
		return fmt.Errorf("ask NetworkManager to read its configuration: %w", err)
	}
	return nil
}

// nmHas says what is missing until a link has a connection, and is at least in
// that state with it.
func nmHas(ctx context.Context, link, uuid string, state uint32) error {
	bus, err := nmDial(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	dev, err := bus.device(ctx, link)
	switch {
	case err != nil:
		return err
	case dev.connection != uuid || dev.external:
		return fmt.Errorf("NetworkManager has connection %s on %s", orNothing(dev.connection), link)
	case dev.state < state || dev.state > nmActivated:
		return fmt.Errorf("NetworkManager says that %s is in state %d", link, dev.state)
	}
	return nil
}

// nmRests says that it is still bringing a link up with a connection.
func nmRests(ctx context.Context, link, uuid string) error {
	bus, err := nmDial(ctx)
	if err != nil {
		return nil // it does not run
	}
	defer bus.Close()
	dev, err := bus.device(ctx, link)
	if err == nil && dev.connection == uuid && dev.state >= nmPrepare && dev.state < nmActivated {
		return fmt.Errorf("NetworkManager is still bringing %s up", link)
	}
	return nil
}
