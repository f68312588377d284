package hostconf

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// reservation is the files that keep managers' hands off a bridge that is about
// to be made. A file for the bridge itself, once written, comes before them.
func reservation(t tree, bridge string) []file {
	var files []file
	if t.exists(networkdState) {
		files = append(files, file{
			Path:  "/run/systemd/network/06-drawbridge-" + bridge + ".network",
			After: fmt.Appendf(nil, "# Drawbridge: this bridge is being made, and is none of networkd's.\n[Match]\nName=%s\n\n[Link]\nUnmanaged=yes\n", bridge),
		})
	}
	return files
}

// reserve makes running managers read such files, if need be: networkd takes links
// up anew whose files were written anew since it read them, addresses off first,
// and a "systemctl daemon-reload" writes all of netplan's anew. Then it is waited
// for, or it would put back, some milliseconds later, what was moved from the link.
func reserve(ctx context.Context, t tree, link, bridge string) error {
	if !t.running("systemd-network") || !networkdMayTake(t, bridge, t.mac(link)) {
		return nil
	}
	if err := networkdReload(ctx); err != nil {
		return err
	}
	if err := networkdCall(ctx, "ListLinks"); err != nil { // what it has begun by now, its state says
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, restPatience)
	defer cancel()
	// Where it waits for a router that is not there, it is taken as it is.
	_ = await(ctx, func() error {
		if state := linkState(t, link, "ADMIN_STATE"); state == "configuring" || state == "pending" {
			return fmt.Errorf("systemd-networkd says that %s is %s", link, state)
		}
		return nil
	})
	return nil
}

// networkdMayTake says whether one of networkd's files may match a bridge of this
// name and hardware address, "" for one that no file names: all do for which what
// they want does not say otherwise (systemd.network(5)). Only hardware has a permanent
// address, a path, and a driver of another name than "bridge" and "tun".
func networkdMayTake(t tree, bridge, mac string) bool {
	byName := map[string]string{}
	for _, top := range networkdFolders {
		for _, f := range t.glob(top + "/systemd/network/*.network") {
			byName[path.Base(f)] = f
		}
	}
	for name, file := range byName {
		if strings.Contains(name, "-drawbridge") {
			continue
		}
		sections, _, err := networkdSections(t, file)
		if err != nil {
			return true
		}
		other := false
		settings(sections, func(sec, key, value string) {
			switch {
			case sec != "Match":
			case key == "Name":
				other = other || !slices.ContainsFunc(strings.Fields(value), func(pattern string) bool {
					ok, err := path.Match(pattern, bridge)
					return ok || err != nil || strings.HasPrefix(pattern, "!")
				})
			case key == "Kind":
				other = other || value != "" && !strings.ContainsAny(value, "*?[!") && !slices.Contains(strings.Fields(value), "bridge")
			case key == "Type":
				other = other || value == "wlan" || value == "wwan" || value == "loopback"
			case key == "PermanentMACAddress", key == "Path", key == "WLANInterfaceType", key == "SSID":
				other = other || value != ""
			case key == "Driver":
				other = other || value != "" && !strings.ContainsAny(value, "*?[!")
			case key == "MACAddress":
				other = other || value != "" && (mac == "" || !strings.Contains(strings.ToLower(value), mac))
			}
		})
		if !other {
			return true
		}
	}
	return false
}

// restPatience is how long a manager may take to come to rest: somewhat longer
// than duplicate address detection (RFC 4862 section 5.4), the last thing it waits
// for where no server or router keeps it waiting.
const restPatience = 3 * time.Second
