package hostconf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"drawbridge/internal/host"
)

// networkManager is NetworkManager.
//
// Measured with version 1.42, 1000 pings a second: to activate a bridge connection on a
// bridge that is there takes its ports and addresses off first, and loses 9 to 30
// pings. NetworkManager leaves everything as it is when it ends, and when it
// starts it takes a link up without touching it ("assume") if its own note about
// that link, /run/NetworkManager/devices/IFINDEX, names a connection that fits. So
// it is ended, the note is written, and it is started: 100 to 200 ms without it, one
// DHCP request from the bridge with the old identity, and nothing is lost.
//
// The connection that the link had becomes the bridge's, under the same UUID:
// what is derived from that (client identifiers, addresses, the lease's file)
// stays, and so does what scripts know it by. That of a bond or a VLAN stays where it is,
// as it makes the link, and other connections may name it.
type networkManager struct{}

func (networkManager) name() string { return NetworkManager }

const (
	nmUnit    = "NetworkManager.service"
	nmRun     = "/run/NetworkManager/system-connections/"
	nmEtc     = "/etc/NetworkManager/system-connections/"
	nmDevices = "/run/NetworkManager/devices/"
	// nmReleased says that it was ended by release, and not by somebody else.
	nmReleased = "/run/NetworkManager/drawbridge-released"
)

func (networkManager) describe(ctx context.Context, t tree, d *Description) (bool, error) {
	has, err := describeNM(ctx, t, d)
	return has && !madeByNetplan(*d), err
}

// describeNM reads what NetworkManager has on the link, whoever wrote that.
func describeNM(ctx context.Context, t tree, d *Description) (bool, error) {
	if !t.running("NetworkManager") {
		return false, nil
	}
	bus, err := nmDial(ctx)
	if err != nil {
		return false, err
	}
	defer bus.Close()
	dev, err := bus.device(ctx, d.Link)
	if err != nil || dev.state <= nmUnmanaged || dev.external {
		return false, err
	}
	if dev.connection == "" {
		d.Evidence = append(d.Evidence, "NetworkManager manages it")
		d.cannot("NetworkManager manages it, but no connection is active on it (nmcli device connect %s)", d.Link)
		return true, nil
	}
	d.Connection = dev.connection
	d.Evidence = append(d.Evidence, fmt.Sprintf("NetworkManager has connection %s (%s) active on it", dev.connection, orNothing(dev.file)))
	d.note("NetworkManager is ended and started once for it; what else it has, such as Wi-Fi or a VPN, may be gone for a few seconds")
	if !strings.HasSuffix(dev.file, ".nmconnection") {
		d.cannot("its connection is not kept in a keyfile of NetworkManager's (%s)", orNothing(dev.file))
		return true, nil
	}
	b, err := t.read(dev.file)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", dev.file, err)
	}
	d.hasKeyfile(dev.file, string(b), dev)
	for line := range strings.Lines(t.text(nmNote(t, d.Link))) {
		if v, ok := strings.CutPrefix(line, "route-metric-default-effective="); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
				d.RouteMetric = n
			}
		}
	}
	return true, nil
}

// hasKeyfile fills in what the connection's file says.
func (d *Description) hasKeyfile(name, text string, dev nmDevice) {
	d.Connection, d.ClientID = dev.connection, dev.clientID
	d.Files, d.Generated = []string{name}, text
	readKeyfile(d, parseSections(text))
	// Its defaults, where it has not noted which it took.
	d.RouteMetric = cmp.Or(map[string]int{"bond": 300, "vlan": 400}[connectionType(text)], 100)
}

// nmNote is the file in which NetworkManager notes what it did with a link.
func nmNote(t tree, link string) string { return nmDevices + strconv.Itoa(t.index(link)) }

func (networkManager) runtime(t tree, p host.Profile, d Description) ([]file, error) {
	files := nmFiles(nmRun, p, d)
	for i := range files {
		files[i].Passing = true // see saved
		if name := path.Base(files[i].Path); name != path.Base(d.Files[0]) && t.exists(nmEtc+name) {
			return nil, nil // it is for good already: this is a later boot
		}
	}
	return files, nil
}

func (networkManager) permanent(_ tree, p host.Profile, d Description) ([]file, error) {
	return nmFiles(nmEtc, p, d), nil
}

// nmFiles are the keyfiles of a bridge and of its ports, in this order.
func nmFiles(dir string, p host.Profile, d Description) []file {
	sections := parseSections(d.Generated)
	was := path.Base(d.Files[0])
	files := []file{{Path: dir + was, After: bridgeKeyfile(p, d, sections), Mode: 0o600}}
	if stacked(d) {
		files[0].Path = dir + "drawbridge-" + p.Bridge + ".nmconnection"
	}
	for i, nic := range strings.Fields(p.Uplinks) {
		name := portFile(p, nic)
		if i > 0 {
			sections = nil
		} else if stacked(d) {
			name = was
		}
		files = append(files, file{Path: dir + name, After: portKeyfile(p, nic, d, sections), Mode: 0o600})
	}
	return files
}

func portFile(p host.Profile, nic string) string {
	return "drawbridge-" + p.Bridge + "-" + nic + ".nmconnection"
}

// saved makes it read its files: the connection is to be found where it is now. What
// is below /run would hide that, and whoever changed the connection by nmcli would get
// a second file with the same UUID.
func (networkManager) saved(ctx context.Context, t tree, p host.Profile, d Description) error {
	for _, f := range nmFiles(nmRun, p, d) {
		if err := t.remove(f.Path); err != nil {
			return err
		}
	}
	bus, err := nmDial(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	return bus.reload(ctx)
}

// connections says which connection each link of a bridge has.
func connections(p host.Profile, d Description) map[string]string {
	of := map[string]string{p.Bridge: bridgeUUID(d, p.Bridge)}
	for _, nic := range strings.Fields(p.Uplinks) {
		of[nic] = portUUID(d, p.Bridge, nic)
	}
	return of
}

// assume starts NetworkManager anew, so that it takes links up with connections as
// if it had set them up itself.
func (networkManager) assume(ctx context.Context, t tree, of map[string]string) error {
	if err := stopUnit(ctx, nmUnit); err != nil {
		return err
	}
	for link, uuid := range of {
		if t.index(link) == 0 {
			continue
		}
		note := "[device]\nmanaged=true\nconnection-uuid=" + uuid + "\n"
		if err := t.write(nmNote(t, link), []byte(note), 0o644, os.Getuid(), os.Getgid()); err != nil {
			return err
		}
	}
	return errors.Join(t.remove(nmReleased), startAgain(ctx, nmUnit))
}

func (n networkManager) takeOver(ctx context.Context, t tree, p host.Profile, d Description) error {
	if n.active(ctx, p, d) == nil {
		return nil
	}
	return n.assume(ctx, t, connections(p, d))
}

func (n networkManager) giveBack(ctx context.Context, t tree, p host.Profile, d Description) error {
	if err := n.assume(ctx, t, map[string]string{d.Link: d.Connection}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, networkdPatience)
	defer cancel()
	return await(ctx, func() error { return nmHas(ctx, d.Link, d.Connection, nmPrepare) })
}

// release ends NetworkManager until giveBack or hold: when it sees a port leave a
// bridge of its own, it takes the link down and all addresses off.
func (networkManager) release(ctx context.Context, t tree, _ host.Profile, _ Description) error {
	if err := t.write(nmReleased, nil, 0o644, os.Getuid(), os.Getgid()); err != nil {
		return err
	}
	return stopUnit(ctx, nmUnit)
}

func (n networkManager) hold(ctx context.Context, t tree, p host.Profile, d Description) error {
	if !t.exists(nmReleased) {
		// While it still brings the link up it would put back what is taken from it.
		// A link that never comes up, without a DHCP server, is taken as it is.
		ctx, cancel := context.WithTimeout(ctx, networkdPatience)
		defer cancel()
		_ = await(ctx, func() error { return nmRests(ctx, d.Link, d.Connection) })
		return nil
	}
	return n.assume(ctx, t, connections(p, d))
}

// active says what is missing until every link of the bridge has its connection.
func (networkManager) active(ctx context.Context, p host.Profile, d Description) error {
	for link, uuid := range connections(p, d) {
		if err := nmHas(ctx, link, uuid, nmActivated); err != nil {
			return err
		}
	}
	return nil
}

func (n networkManager) verify(ctx context.Context, _ tree, p host.Profile, d Description) error {
	ctx, cancel := context.WithTimeout(ctx, networkdPatience)
	defer cancel()
	return await(ctx, func() error {
		if err := n.active(ctx, p, d); err != nil {
			return err
		}
		bus, err := nmDial(ctx)
		if err != nil {
			return err
		}
		defer bus.Close()
		dev, err := bus.device(ctx, p.Bridge)
		if err == nil && d.IPv4.DHCP && dev.clientID != d.ClientID {
			err = fmt.Errorf("the DHCP client on %s says that it is %s and not %s as before", p.Bridge, orNothing(dev.clientID), d.ClientID)
		}
		return err
	})
}
