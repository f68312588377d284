package hostconf

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// networkdState is where networkd tells about links.
const networkdState = "/run/systemd/netif"

// linkState reads one value of what networkd tells about a link.
func linkState(t tree, link, key string) string {
	for line := range strings.Lines(t.text(networkdState + "/links/" + strconv.Itoa(t.index(link)))) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return v
		}
	}
	return ""
}

// lease reads one value of the DHCPv4 lease that networkd has for a link.
func lease(t tree, link, key string) string {
	for line := range strings.Lines(t.text(networkdState + "/leases/" + strconv.Itoa(t.index(link)))) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return v
		}
	}
	return ""
}

// networkdPatience bounds the wait for networkd where nobody else does; a DHCP
// server may take its time (RFC 2131 section 4.1: up to 4 s after the first try).
const networkdPatience = 15 * time.Second

// settled waits until networkd has taken a file of one of these names for the link, and has
// a lease where there shall be one. It is "configuring" for 12 s longer where it
// waits for a router that may not be there (RFC 4861 section 6.3.7).
func (networkd) settled(ctx context.Context, t tree, link string, d Description, files ...string) error {
	ctx, cancel := context.WithTimeout(ctx, networkdPatience)
	defer cancel()
	return await(ctx, func() error {
		state := linkState(t, link, "ADMIN_STATE")
		if source := linkState(t, link, "NETWORK_FILE"); !slices.ContainsFunc(files, func(f string) bool { return path.Base(f) == path.Base(source) }) {
			return fmt.Errorf("systemd-networkd configures %s with %s", link, orNothing(source))
		}
		if state != "configured" && (state != "configuring" || d.IPv6.DHCP && !d.IPv4.DHCP) {
			return fmt.Errorf("systemd-networkd says that %s is %s", link, orNothing(state))
		}
		if d.IPv4.DHCP && lease(t, link, "ADDRESS") == "" {
			return fmt.Errorf("systemd-networkd has no DHCPv4 lease on %s", link)
		}
		if id := lease(t, link, "CLIENTID"); d.IPv4.DHCP && d.ClientID != "" && id != d.ClientID {
			return fmt.Errorf("the DHCP client on %s says that it is %s and not %s as before", link, id, d.ClientID)
		}
		return nil
	})
}

func orNothing(s string) string {
	if s == "" {
		return "not known to it"
	}
	return s
}

// await repeats a look until it finds no fault or ctx ends; then the last fault
// is the error. The programs that are looked at tell nobody when they are done: most
// are within some milliseconds, so that it is looked often at first.
func await(ctx context.Context, look func() error) error {
	const first, last = 2 * time.Millisecond, 20 * time.Millisecond
	for pause := first; ; pause = min(pause*3/2, last) {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

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
