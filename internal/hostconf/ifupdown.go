package hostconf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// ifupdown is Debian's ifup and ifdown. No daemon of it runs: what there is to tell
// is a DHCP client that it started. It has no configuration that ends with the
// boot, so before confirmation only the client moves, and no file.
//
// Measured with dhclient 4.4.3, 1000 pings a second: killed without a word and
// started on the bridge with its lease file, it asks for its lease (INIT-REBOOT, RFC
// 2131 section 4.3.2) and finds address and routes there; nothing is lost.
type ifupdown struct{}

func (ifupdown) name() string { return IfUpDown }

const ifstate = "/run/network/ifstate"

func (ifupdown) describe(_ context.Context, t tree, d *Description) (bool, error) {
	if hasIfUpDown2(t) {
		return false, nil
	}
	up := slices.Contains(lines([]byte(t.text(ifstate)+"\n")), d.Link+"="+d.Link+"\n")
	has, err := describeStanzas(t, d)
	if err != nil || !has || !up && !d.hasMethod() {
		return false, err
	}
	if up {
		d.Evidence = append(d.Evidence, "ifup has brought it up ("+ifstate+")")
	} else {
		d.note("ifup has not brought %s up in this boot", d.Link)
	}
	if d.IPv4.DHCP || d.IPv6.DHCP {
		describeClient(t, d)
	}
	return true, nil
}

// describeStanzas reads what the files say of the link; false if none has a stanza
// for it.
func describeStanzas(t tree, d *Description) (has bool, err error) {
	files, err := interfacesFiles(t)
	if err != nil {
		return false, err
	}
	for _, f := range files {
		b, err := t.read(f)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", f, err)
		}
		mine := false
		for _, l := range parseInterfaces(string(b)) {
			mine = readInterfaces(d, f, l) || mine
		}
		if mine {
			d.Files = append(d.Files, f)
			has = true
		}
	}
	if has {
		d.Evidence = append(d.Evidence, strings.Join(d.Files, ", ")+" has an iface stanza for it")
	}
	return has, nil
}

// readInterfaces fills in what one line says; true if it is about the link.
func readInterfaces(d *Description, file string, l interfacesLine) bool {
	if len(l.fields) == 0 {
		return false
	}
	if l.fields[0] == "mapping" && slices.Contains(l.fields[1:], d.Link) {
		d.cannot("%s has a mapping for it", file)
		return true
	}
	if l.stanza != d.Link {
		if key := strings.ReplaceAll(l.fields[0], "_", "-"); l.stanza != "" && slices.Contains(l.fields[1:], d.Link) {
			switch key {
			case "bridge-ports":
				d.Bridge = l.stanza
			case "bond-slaves", "slaves", "vlan-raw-device", "bond-primary":
				d.cannot("%s makes it a part of %s (%s)", file, l.stanza, key)
			}
		}
		if l.head && strings.HasPrefix(l.stanza, d.Link+".") {
			d.cannot("%s has the VLAN %s on it", file, l.stanza)
		}
		return false
	}
	if l.head {
		readMethod(d, l.fields)
		return true
	}
	value := strings.Join(l.fields[1:], " ")
	switch key := strings.ReplaceAll(l.fields[0], "_", "-"); {
	case key == "address":
		d.addAddress(value)
	case key == "gateway":
		d.addGateway(value)
	case key == "dns-nameservers", key == "dns-nameserver":
		d.addDNS(value)
	case key == "dns-search", key == "dns-domain":
		d.addDomains(value)
	case key == "mtu":
		_, _ = fmt.Sscan(value, &d.MTU)
	case cannotOption(key) != "":
		d.cannot("%s: its option %q says that %s", file, key, cannotOption(key))
	case slices.Contains(hooks, key) && strings.Contains(value, "wpa_supplicant"):
		d.cannot("%s: its %s starts wpa_supplicant (802.1X or Wi-Fi)", file, key)
	}
	return true
}

// readMethod reads "iface NAME FAMILY METHOD".
func readMethod(d *Description, fields []string) {
	if slices.Contains(fields, "inherits") {
		d.cannot("its stanza inherits from another")
	}
	if len(fields) < 4 {
		return
	}
	to := &d.IPv4
	if fields[2] == "inet6" {
		to = &d.IPv6
	}
	switch fields[3] {
	case "static":
		to.Static = true
	case "dhcp":
		to.DHCP = true
	case "auto":
		to.RA = true
	case "manual", "loopback":
	default:
		d.cannot("its method is %q", fields[3])
	}
}

func (ifupdown) runtime(tree, host.Profile, Description) ([]file, error) { return nil, nil }

func (ifupdown) permanent(t tree, p host.Profile, d Description) ([]file, error) {
	out, stacked, err := rewriteInterfaces(t, p, d, (*rewriting).byHooks)
	if err != nil {
		return nil, err
	}
	files, err := ifstateFiles(t, p, d, stacked)
	if err != nil {
		return nil, err
	}
	leases, err := permanentLeases(t, p, d)
	return slices.Concat(out, files, leases), err
}

// rewriteInterfaces says what the files will be; making is the lines that make the
// bridge. stacked says that ifup makes the uplink itself.
func rewriteInterfaces(t tree, p host.Profile, d Description, making func(*rewriting) []string) (out []file, stacked bool, err error) {
	r := &rewriting{p: p, nic: d.Link, making: making}
	// In all files: "auto" may stand in another than the stanza.
	all, err := interfacesFiles(t)
	if err != nil {
		return nil, false, err
	}
	texts := map[string]string{}
	for _, f := range all {
		b, err := t.read(f)
		if err != nil {
			return nil, false, fmt.Errorf("read %s: %w", f, err)
		}
		texts[f] = string(b)
		r.stacked = r.stacked || madeByStanza(r.nic, parseInterfaces(texts[f]))
	}
	for _, f := range all {
		if after := r.rewrite(texts[f]); after != texts[f] {
			out = append(out, file{Path: f, After: []byte(after)})
		}
	}
	if !r.made {
		return nil, false, fmt.Errorf("no file has an iface stanza for %s any more", d.Link)
	}
	// Below the stanza, in the file that has it.
	for i := range out {
		if slices.Contains(d.Files, out[i].Path) {
			text := string(out[i].After)
			if !strings.HasSuffix(text, "\n") {
				text += "\n"
			}
			out[i].After = []byte(text + r.port())
			break
		}
	}
	return out, r.stacked, nil
}

// ifstateFiles is what ifup remembers: that it brought the bridge up, and not the
// NIC, unless that is a link of ifup's making. Without it "ifdown br0" would say that
// the bridge is not configured.
func ifstateFiles(t tree, p host.Profile, d Description, stacked bool) ([]file, error) {
	b, err := t.read(ifstate)
	if err != nil || b == nil {
		return nil, err
	}
	out := lines(b)
	for i, l := range out {
		if l == d.Link+"="+d.Link+"\n" {
			out[i] = p.Bridge + "=" + p.Bridge + "\n"
			if stacked {
				out[i] = l + out[i]
			}
		}
	}
	files := []file{{Path: ifstate, After: []byte(strings.Join(out, ""))}}
	if stacked {
		files = append(files, file{Path: ifstate + "." + p.Bridge, After: []byte(p.Bridge + "=" + p.Bridge + "\n"), Scratch: true})
	} else if t.exists(ifstate + "." + d.Link) {
		files = append(files, file{Path: ifstate + "." + d.Link},
			file{Path: ifstate + "." + p.Bridge, After: []byte(p.Bridge + "=" + p.Bridge + "\n"), Scratch: true})
	}
	return files, nil
}

func (ifupdown) release(context.Context, tree, host.Profile, Description) error { return nil }
func (ifupdown) hold(context.Context, tree, host.Profile, Description) error    { return nil }

func (ifupdown) saved(context.Context, tree, host.Profile, Description) error { return nil }

func (ifupdown) takeOver(ctx context.Context, t tree, p host.Profile, d Description) error {
	if len(d.Client) == 0 {
		return nil
	}
	return moveClient(ctx, t, d, d.Link, p.Bridge)
}

func (ifupdown) giveBack(ctx context.Context, t tree, p host.Profile, d Description) error {
	if err := dropIfstate(t, p); err != nil {
		return err
	}
	if len(d.Client) == 0 {
		return nil
	}
	return moveClient(ctx, t, d, p.Bridge, d.Link)
}

// dropIfstate lets ifup forget the bridge, also where it was brought up in a later
// boot than the one that the profile was made in, and remember the link.
func dropIfstate(t tree, p host.Profile) error {
	b, err := t.read(ifstate)
	if err != nil || b == nil {
		return err
	}
	nic := firstUplink(p)
	out := lines(b)
	up := slices.Contains(out, nic+"="+nic+"\n")
	for i, l := range out {
		switch {
		case strings.HasPrefix(l, p.Bridge+"=") && up:
			out[i] = ""
		case strings.HasPrefix(l, p.Bridge+"="):
			out[i] = nic + "=" + nic + "\n"
		}
	}
	if text := strings.Join(out, ""); text != string(b) {
		if err := t.write(ifstate, []byte(text), 0o644, os.Getuid(), os.Getgid()); err != nil {
			return err
		}
	}
	if !t.exists(ifstate + "." + p.Bridge) {
		return nil
	}
	return errors.Join(t.remove(ifstate+"."+p.Bridge),
		t.write(ifstate+"."+nic, []byte(nic+"="+nic+"\n"), 0o644, os.Getuid(), os.Getgid()))
}

func (ifupdown) verify(ctx context.Context, t tree, p host.Profile, d Description) error {
	if len(d.Client) == 0 {
		return nil
	}
	return clientRenewed(ctx, t, d, p.Bridge)
}

// signal ends a process without letting it clean up.
func signal(pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return nil
}
