package hostconf

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// netplan is Canonical's YAML in front of systemd-networkd; in front of NetworkManager
// it is netplanNM. It runs at boot and when it is called, and writes files for its
// renderer below /run.
//
// Before confirmation nothing is said to netplan: its renderer is told what it
// would be told without netplan. Then the YAML is rewritten, for the next boot or
// the next "netplan apply"; until then what the renderer was told holds.
type netplan struct{ networkd }

func (netplan) name() string { return Netplan }

const generatedPrefix = "10-netplan-"

// generated is the file that netplan makes for networkd of a definition.
func generated(id string) string { return "/run/systemd/network/" + generatedPrefix + id + ".network" }

// netplanID is the definition that a file was made of.
func netplanID(source string) (id string, ok bool) {
	id, ok = strings.CutPrefix(strings.TrimSuffix(path.Base(source), ".network"), generatedPrefix)
	return id, ok && strings.HasSuffix(source, ".network")
}

// netplanFiles lists the YAML files as netplan reads them: by name, whatever folder
// they are in; /run hides /etc hides /lib.
func netplanFiles(t tree) []string {
	byName := map[string]string{}
	for _, dir := range []string{"/lib", "/etc", "/run"} {
		for _, f := range t.glob(dir + "/netplan/*.yaml") {
			byName[path.Base(f)] = f
		}
	}
	var out []string
	for _, f := range byName {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	return out
}

func (netplan) describe(_ context.Context, t tree, d *Description) (bool, error) {
	if !t.running("systemd-network") {
		return false, nil
	}
	source := copiedFrom(t, linkState(t, d.Link, "NETWORK_FILE"))
	id, ok := netplanID(source)
	state := linkState(t, d.Link, "ADMIN_STATE")
	if !ok || state == "unmanaged" {
		return false, nil
	}
	d.Definition = id
	d.Evidence = append(d.Evidence, fmt.Sprintf("systemd-networkd has configured it (%s) with %s, which netplan made", state, source))
	if err := describeNetworkd(t, d, source); err != nil {
		return false, err
	}
	d.Generated = t.text(source) + "\n"
	return true, readNetplanFiles(t, d)
}

// readNetplanFiles fills in what netplan's YAML says of d.Definition.
func readNetplanFiles(t tree, d *Description) error {
	found := false
	for _, f := range netplanFiles(t) {
		b, err := t.read(f)
		if err != nil {
			return fmt.Errorf("read %s: %w", f, err)
		}
		mine, err := readNetplan(d, f, b)
		if err != nil {
			return err
		}
		if mine {
			found = true
			d.Files = append(d.Files, f)
			if !strings.HasPrefix(f, "/etc/") {
				d.cannot("%s is not below /etc and cannot be changed for good", f)
			}
		}
	}
	if !found {
		d.cannot("no YAML file of netplan's has %s any more", d.Definition)
	}
	return nil
}

// rewriteNetplanFiles says what the YAML files will be.
func rewriteNetplanFiles(t tree, p host.Profile, d Description) ([]file, error) {
	var out []file
	for _, f := range d.Files {
		if path.Ext(f) != ".yaml" {
			continue
		}
		b, err := t.read(f)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f, err)
		}
		after, err := rewriteNetplan(b, d, p, len(out) == 0)
		if err != nil {
			return nil, fmt.Errorf("rewrite %s: %w", f, err)
		}
		out = append(out, file{Path: f, After: after})
	}
	return out, nil
}

func (n netplan) permanent(t tree, p host.Profile, d Description) ([]file, error) {
	out, err := rewriteNetplanFiles(t, p, d)
	if err != nil {
		return nil, err
	}
	// netplan cannot say who the DHCP client is; a drop-in to what it makes can.
	if id := identity(d); id != nil {
		out = append(out, file{
			Path:  "/etc/systemd/network/" + generatedPrefix + p.Bridge + ".network.d/50-drawbridge.conf",
			After: networkDropIn(fmt.Sprintf(networkdTitle, "the DHCP client on "+p.Bridge+" is who it was on "+d.Link), id),
		})
	}
	return out, nil
}

// networkDropIn writes sections without a match.
func networkDropIn(title string, sections []section) []byte {
	var b strings.Builder
	b.WriteString("# " + title + "\n")
	for _, s := range sections {
		fmt.Fprintf(&b, "[%s]\n%s\n", s.name, strings.Join(s.lines, "\n"))
	}
	return []byte(b.String())
}

// giveBack puts back what netplan made of the YAML before, in its stead: netplan
// would write the files of all links anew, and networkd take them all up anew.
func (n netplan) giveBack(ctx context.Context, t tree, p host.Profile, d Description) error {
	source := d.Files[0]
	if there, err := t.read(source); err != nil {
		return err
	} else if string(there) != d.Generated {
		// As it is there now: networkd, which is not root, has to read it.
		f := file{Path: source}
		if err := t.lookBefore(&f); err != nil {
			return err
		}
		if err := t.write(source, []byte(d.Generated), f.Mode, f.UID, f.GID); err != nil {
			return err
		}
	}
	made := generated(p.Bridge)
	if err := errors.Join(t.remove(made), t.remove(strings.TrimSuffix(made, "work")+"dev")); err != nil {
		return err
	}
	return n.networkd.giveBack(ctx, t, p, d)
}
