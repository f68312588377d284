package hostconf

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"drawbridge/internal/host"
)

// process is a running program.
type process struct {
	pid  int
	args []string
}

// clientsOf lists the DHCP clients that run for a link.
func clientsOf(t tree, link string) []process {
	var out []process
	for _, f := range t.glob("/proc/[0-9]*/cmdline") {
		args := strings.Split(strings.TrimRight(t.text(f), "\x00"), "\x00")
		name := path.Base(args[0])
		if len(args) < 2 || name != "dhclient" && name != "udhcpc" && name != "dhcpcd" || !slices.Contains(args[1:], link) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(f, "/")[2]); err == nil {
			out = append(out, process{pid, args})
		}
	}
	return out
}

// describeClient finds the DHCP client of a link and what it says of itself.
func describeClient(t tree, d *Description) {
	clients := clientsOf(t, d.Link)
	if len(clients) == 0 {
		d.cannot("it is configured for DHCP, but no DHCP client that is known here (dhclient) runs for it")
		return
	}
	for _, c := range clients {
		if name := path.Base(c.args[0]); name != "dhclient" {
			d.cannot("its DHCP client is %s, which takes the address off when it starts anew; only dhclient can be moved", name)
			return
		}
	}
	if len(clients) > 1 {
		d.cannot("%d DHCP clients run for it", len(clients))
		return
	}
	d.Client = clients[0].args
	d.Evidence = append(d.Evidence, fmt.Sprintf("%s runs for it (process %d)", strings.Join(d.Client, " "), clients[0].pid))
	if lease := option(d.Client, "-lf"); lease != "" {
		d.Files = appendNew(d.Files, lease)
		text := t.text(lease)
		d.DUID = lastValue(text, "default-duid")
		d.addDNS(lastValue(text, "option domain-name-servers"))
		d.addDomains(strings.Trim(lastValue(text, "option domain-name"), `"`))
	}
}

// option is the word that follows a flag, "" if it is not there.
func option(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// lastValue is what the last line that begins with key says in a file of
// dhclient.leases(5).
func lastValue(text, key string) (value string) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+" "); ok {
			value = strings.TrimSuffix(v, ";")
		}
	}
	return value
}

// clientPaths are the files of a client on a link. Before confirmation they are in
// /run: there, and under these names, the client may write where AppArmor confines
// it (Debian's and Ubuntu's profile sbin.dhclient).
func clientPaths(link, family string) (pid, leases string) {
	return "/run/dhclient" + family + "." + link + ".pid", "/run/dhclient" + family + "." + link + ".leases"
}

// familyOf is "6" for a DHCPv6 client.
func familyOf(args []string) string {
	if slices.Contains(args, "-6") {
		return "6"
	}
	return ""
}

// argumentsFor is the client's command line for a link other than the one that it
// was started for, in the foreground.
func argumentsFor(args []string, from, to string) []string {
	pid, leases := clientPaths(to, familyOf(args))
	out := []string{args[0]}
	for i := 1; i < len(args); i++ {
		switch word := args[i]; {
		case word == "-pf" && i+1 < len(args):
			out = append(out, word, pid)
			i++
		case (word == "-lf" || word == "-df") && i+1 < len(args):
			out = append(out, word, leases)
			i++
		case word == "-d", word == "-nw", word == "-1", word == "-v", word == from:
		default:
			out = append(out, word)
		}
	}
	return append(out, "-d", to)
}

// inForeground is the client's own command line, in the foreground.
func inForeground(args []string) []string {
	out := slices.DeleteFunc(slices.Clone(args), func(w string) bool { return w == "-nw" || w == "-1" || w == "-v" || w == "-d" })
	return slices.Insert(out, 1, "-d")
}

var leaseInterface = regexp.MustCompile(`(?m)^(\s*interface\s+)"[^"]*";`)

var leaseExpiry = regexp.MustCompile(`(?m)^(\s*expire\s+)([^;\n]*);`)

// leasesFor is a lease file for another link. Its leases end one second sooner, so
// that what the server says next can be told from them.
func leasesFor(text []byte, link string) []byte {
	text = leaseInterface.ReplaceAll(text, []byte(`${1}"`+link+`";`))
	return leaseExpiry.ReplaceAllFunc(text, func(line []byte) []byte {
		m := leaseExpiry.FindSubmatch(line)
		at, ok := parseLeaseTime(string(m[2]))
		if !ok {
			return line
		}
		at = at.Add(-time.Second)
		return fmt.Appendf(nil, "%s%d %s;", m[1], at.Weekday(), at.Format(leaseTime))
	})
}

// moveClient ends the client of one link and starts it on another, with what it
// knew: its identity and its lease. Killed, it says nothing to the server and runs no
// script that would take addresses off.
func moveClient(ctx context.Context, t tree, d Description, from, to string) error {
	if len(clientsOf(t, to)) > 0 {
		return nil
	}
	source := ""
	for _, c := range clientsOf(t, from) {
		source = option(c.args, "-lf")
		if err := signal(c.pid); err != nil {
			return err
		}
	}
	if source == "" && from == d.Link {
		source = option(d.Client, "-lf") // it does not run any more: what it wrote last
	}
	args, target := inForeground(d.Client), option(d.Client, "-lf")
	if to != d.Link {
		args = argumentsFor(d.Client, d.Link, to)
		target = option(args, "-lf")
	}
	if source != "" && target != "" && source != target {
		b, err := t.read(source)
		if err != nil {
			return fmt.Errorf("read %s: %w", source, err)
		}
		if b != nil {
			if err := t.write(target, leasesFor(b, to), 0o644, os.Getuid(), os.Getgid()); err != nil {
				return err
			}
		}
	}
	return startClient(ctx, to, args)
}

// permanentLeases is the lease file that the client will find at the next boot:
// without it, it would make up another identity and get another address.
func permanentLeases(t tree, p host.Profile, d Description) ([]file, error) {
	if len(d.Client) == 0 || option(d.Client, "-lf") == "" {
		return nil, nil
	}
	var files []file
	for _, flag := range []string{"-lf", "-df"} {
		source := option(d.Client, flag)
		target := replaceWordIn(source, d.Link, p.Bridge)
		if source == "" || target == source {
			continue
		}
		_, now := clientPaths(p.Bridge, familyOf(d.Client))
		if flag == "-df" || !t.exists(now) {
			now = source
		}
		b, err := t.read(now)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", now, err)
		}
		if b != nil {
			files = append(files, file{Path: target, After: leasesFor(b, p.Bridge), Scratch: true})
		}
	}
	return files, nil
}

// replaceWordIn is replaceWord for file names, where a dot ends a word.
func replaceWordIn(name, from, to string) string {
	return strings.ReplaceAll(name, "."+from+".", "."+to+".")
}

// clientUnit is the transient unit that a moved client runs in. It must not be in
// this program's own, which would take it along when it stops.
func clientUnit(link string) string { return "drawbridge-dhclient-" + unitEscape(link) + ".service" }

// unitEscape writes a name as a part of a unit's name (systemd.unit(5)).
func unitEscape(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c == '.' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

type unitProperty struct {
	Name  string
	Value dbus.Variant
}

type execCommand struct {
	Path           string
	Args           []string
	IgnoreFailures bool
}

// startClient runs a DHCP client by systemd, or by itself where there is none.
func startClient(ctx context.Context, link string, args []string) error {
	program, err := exec.LookPath(args[0])
	if err != nil {
		for _, dir := range []string{"/sbin/", "/usr/sbin/"} {
			if _, e := os.Stat(dir + args[0]); e == nil {
				program, err = dir+args[0], nil
			}
		}
	}
	if err != nil {
		return fmt.Errorf("start the DHCP client: %w", err)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		cmd := exec.Command(program, args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start the DHCP client: %w", err)
		}
		return cmd.Process.Release()
	}
	conn, err := systemd(ctx)
	if err != nil {
		return fmt.Errorf("start the DHCP client: %w", err)
	}
	defer conn.Close()
	properties := []unitProperty{
		{"Description", dbus.MakeVariant("DHCP client of " + link + ", moved by Drawbridge")},
		{"Type", dbus.MakeVariant("exec")},
		{"ExecStart", dbus.MakeVariant([]execCommand{{program, append([]string{program}, args[1:]...), false}})},
		// Told to end, it would give the lease back.
		{"KillSignal", dbus.MakeVariant(int32(syscall.SIGKILL))},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	manager := conn.Object(systemdName, "/org/freedesktop/systemd1")
	// One of the same name may be on its way out.
	return await(ctx, func() error {
		err := manager.CallWithContext(ctx, systemdName+".Manager.StartTransientUnit", 0, clientUnit(link), "replace",
			properties, []struct {
				Name       string
				Properties []unitProperty
			}{}).Err
		if err != nil {
			return fmt.Errorf("start the DHCP client in %s: %w", clientUnit(link), err)
		}
		return nil
	})
}

// clientPatience bounds the wait for a lease where nobody else does.
const clientPatience = 15 * time.Second

// clientRenewed waits until the client on a link has heard from the server since it
// was started there: then its lease ends no sooner than the one on the old link did,
// and the one that it was started with ends sooner (see leasesFor).
func clientRenewed(ctx context.Context, t tree, d Description, link string) error {
	ctx, cancel := context.WithTimeout(ctx, clientPatience)
	defer cancel()
	had, some := leaseEnd(t.text(option(d.Client, "-lf")))
	return await(ctx, func() error {
		clients := clientsOf(t, link)
		if len(clients) == 0 {
			return fmt.Errorf("no DHCP client runs on %s", link)
		}
		has, ok := leaseEnd(t.text(option(clients[0].args, "-lf")))
		if some && (!ok || has.Before(had)) {
			return fmt.Errorf("the DHCP client on %s has no answer yet", link)
		}
		return nil
	})
}

// leaseEnd is when the last lease of a file of dhclient.leases(5) ends; false if
// there is none or it never ends.
func leaseEnd(text string) (time.Time, bool) {
	return parseLeaseTime(lastValue(text, "expire"))
}

const leaseTime = "2006/01/02 15:04:05"

// parseLeaseTime reads "2 2026/11/24 02:27:15" or "epoch 1795486035", both UTC.
func parseLeaseTime(value string) (time.Time, bool) {
	first, rest, _ := strings.Cut(value, " ")
	if first == "epoch" {
		word, _, _ := strings.Cut(rest, ";")
		n, err := strconv.ParseInt(strings.TrimSpace(word), 10, 64)
		return time.Unix(n, 0).UTC(), err == nil
	}
	at, err := time.Parse(leaseTime, strings.TrimSpace(rest))
	return at, err == nil
}
