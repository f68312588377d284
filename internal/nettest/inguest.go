package nettest

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

//go:embed guest/inside
var guestInside []byte

// guestEnv marks a test binary that runs in a guest of InGuest.
const guestEnv = "DRAWBRIDGE_NETTEST_GUEST"

// insideLimit is how long such a guest may take, from its start to the end of the test.
const insideLimit = 8 * time.Minute

// Inside is what a test takes with it into a guest. A shell, busybox and what makes
// nodes (NewNode) are always there.
type Inside struct {
	// Modules are kernel modules besides those of network cards; what they need comes with
	// them. They are not loaded: the kernel loads what is asked for, as on any machine.
	Modules []string
	// Programs are found by name here and put, with their libraries, where PATH finds them.
	Programs []string
	// Files are put into the guest under other names: path there to path here. Folders are
	// put there with all that is in them.
	Files map[string]string
	// Env are further variables (NAME=value) for the test.
	Env []string
}

// nodePrograms are what a node is made with.
var nodePrograms = []string{"sh", "ip", "nsenter", "mount", "readlink", "hostname", "cat", "mkdir", "touch"}

// beginsInside is the line by which a test says that it runs.
const beginsInside = "@inside"

// InGuest runs the body of a test as root in a virtual machine that boots a distribution's own
// kernel: for what the machine's kernel lacks (VLANs, bonds, flowtables) or must not be done to it.
// The same test function is run there, by a copy of this test binary, so nothing but its name
// and its Inside goes in; call InGuest at once. From start to power-off it takes about 10 s
// without KVM, so one function with several subtests is better than several functions.
//
// Its working folder is that of the package, with its testdata if Files names it.
func InGuest(t *testing.T, with Inside, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(guestEnv) != "" {
		// A line of its own: no test at all would end with code 0 too.
		fmt.Printf("\n%s\n", beginsInside)
		body(t)
		return
	}
	Need(t, append([]string{"qemu-system-x86_64", "busybox", "apt-get", "dpkg-deb", "depmod", "modprobe", "ldd"}, slices.Concat(nodePrograms, with.Programs)...)...)
	ctx, cancel := context.WithTimeout(t.Context(), insideLimit)
	defer cancel()
	guests, err := NewGuests(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer guests.Close()
	initrd := filepath.Join(guests.dir, "inside")
	if err := with.build(ctx, guests.kernel, chosen(t.Name()), initrd); err != nil {
		t.Fatal(err)
	}
	if err := guests.runInside(ctx, t, initrd); err != nil {
		t.Fatal(err)
	}
}

// chosen is what -test.run is in the guest: the test, and those of its subtests that are asked
// for here.
func chosen(test string) string {
	pattern := "^" + test + "$"
	if f := flag.Lookup("test.run"); f != nil {
		if _, subtests, some := strings.Cut(f.Value.String(), "/"); some {
			pattern += "/" + subtests
		}
	}
	return pattern
}

// runInside boots the guest, logs what the test there says, and is nil if it passed.
func (g *Guests) runInside(ctx context.Context, t *testing.T, initrd string) error {
	console := filepath.Join(g.dir, "inside.console")
	args := g.arguments(console, g.accel, initrd, 640, "")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("boot a guest: %w", err)
	}
	code, began := "none", false
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if c, ended := strings.CutPrefix(line, "@exit "); ended {
			code = c
			continue
		}
		if line == beginsInside {
			began = true
			continue
		}
		t.Log(line)
	}
	err = errors.Join(lines.Err(), cmd.Wait())
	switch {
	case code == "0" && err == nil && began:
		return nil
	case code == "none" || err != nil:
		text, _ := os.ReadFile(console)
		return fmt.Errorf("the guest ended early (exit code %s): %w\nerrors: %s\nconsole: %s", code, errors.Join(err, ctx.Err()), complaints.Bytes(), text[max(0, len(text)-2000):])
	}
	return fmt.Errorf("the test in the guest ended with code %s", code)
}

// build writes the guest's only file system.
func (i Inside) build(ctx context.Context, k Kernel, tests, file string) error {
	busybox, err := findBusybox()
	if err != nil {
		return err
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r := tree{done: map[string]bool{}}
	for _, dir := range []string{"proc", "sys", "tmp", "run", "root", "var/tmp", "var/lib", "usr/sbin", "usr/local/bin"} {
		r.dir(dir)
	}
	r.addDevice("dev/console", 5, 1)
	r.put("bin/busybox", modeFile|0o755, busybox)
	r.put("init", modeFile|0o755, guestInside)
	r.put("etc/passwd", modeFile|0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	r.put("etc/group", modeFile|0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	r.put("etc/resolv.conf", modeFile|0o644, nil)
	env := ""
	for _, e := range i.Env {
		env += "export '" + e + "'\n"
	}
	r.put("test", modeFile|0o755, fmt.Appendf(nil, "%scd '%s' && exec /test.bin -test.v -test.count=1 -test.run='%s' -test.timeout=%s\n", env, wd, tests, insideLimit))
	r.dir(strings.TrimPrefix(wd, "/"))
	if err := r.program(ctx, self, "test.bin"); err != nil {
		return err
	}
	for _, p := range slices.Concat(nodePrograms, i.Programs) {
		path, err := exec.LookPath(p)
		if err != nil {
			return err
		}
		if err := r.program(ctx, path, "usr/bin/"+filepath.Base(p)); err != nil {
			return err
		}
	}
	for to, from := range i.Files {
		if err := r.copy(ctx, from, strings.TrimPrefix(to, "/")); err != nil {
			return err
		}
	}
	if err := r.modules(ctx, k, i.Modules); err != nil {
		return err
	}
	if err := os.WriteFile(file, r.bytes(), 0o644); err != nil {
		return fmt.Errorf("write the guest's file system: %w", err)
	}
	return nil
}

// tree is an archive that makes the folders of what is put into it.
type tree struct {
	archive
	done map[string]bool
}

func (r *tree) dir(path string) {
	if path == "." || path == "" || path == "/" || r.done[path] {
		return
	}
	r.dir(filepath.Dir(path))
	r.done[path] = true
	mode := uint32(0o755)
	if path == "tmp" || path == "var/tmp" {
		mode = 0o1777
	}
	r.add(path, modeDir|mode, nil)
}

func (r *tree) put(path string, mode uint32, data []byte) {
	if r.done[path] {
		return
	}
	r.dir(filepath.Dir(path))
	r.done[path] = true
	r.add(path, mode, data)
}

// copy puts a file or a folder into the guest; programs get their libraries.
func (r *tree) copy(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		at := filepath.Join(to, rel)
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			r.dir(at)
			return nil
		case info.Mode()&0o111 != 0:
			return r.program(ctx, path, at)
		}
		return r.file(path, at)
	})
}

func (r *tree) file(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("take %s into a guest: %w", from, err)
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	r.put(to, modeFile|uint32(info.Mode().Perm()), data)
	return nil
}

// program puts a program and the libraries that its loader will ask for into the guest.
func (r *tree) program(ctx context.Context, from, to string) error {
	if err := r.file(from, to); err != nil {
		return err
	}
	// ldd says with its exit code that there is nothing to load, as in scripts and static programs.
	out, _ := exec.CommandContext(ctx, "ldd", from).Output()
	for _, word := range strings.Fields(string(out)) {
		if !strings.HasPrefix(word, "/") {
			continue
		}
		if err := r.file(word, strings.TrimPrefix(word, "/")); err != nil {
			return err
		}
	}
	return nil
}

// modules puts kernel modules and what they need into the guest, with the lists by which
// modprobe finds them. The lists are made from the kernel's package where it is unpacked.
func (r *tree) modules(ctx context.Context, k Kernel, names []string) error {
	base := strings.TrimSuffix(k.Modules, "/lib/modules/"+k.Version)
	lists, err := os.MkdirTemp("", "drawbridge-modules-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(lists)
	// depmod writes beside the modules, which belong to every run on this machine.
	at := filepath.Join(lists, "lib/modules", k.Version)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"kernel", "modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		if err := os.Symlink(filepath.Join(k.Modules, name), filepath.Join(at, name)); err != nil {
			return err
		}
	}
	if err := runQuiet(exec.CommandContext(ctx, "depmod", "-b", lists, k.Version)); err != nil {
		return fmt.Errorf("list modules of kernel %s below %s: %w", k.Version, base, err)
	}
	home := "lib/modules/" + k.Version
	for _, name := range names {
		cmd := exec.CommandContext(ctx, "modprobe", "-d", lists, "-S", k.Version, "--show-depends", name)
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("find module %s of kernel %s: %w", name, k.Version, err)
		}
		for line := range strings.Lines(string(out)) {
			fields := strings.Fields(line)
			if len(fields) < 2 || fields[0] != "insmod" {
				continue // built into the kernel
			}
			rel, err := filepath.Rel(at, fields[1])
			if err != nil {
				return err
			}
			if err := r.file(fields[1], filepath.Join(home, rel)); err != nil {
				return err
			}
		}
	}
	for _, list := range []string{"modules.dep", "modules.alias", "modules.softdep", "modules.symbols", "modules.builtin"} {
		if err := r.file(filepath.Join(at, list), filepath.Join(home, list)); err != nil {
			return err
		}
	}
	return nil
}
