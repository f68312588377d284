package nettest

import (
	"bytes"
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

var (
	//go:embed guest/init
	guestInit []byte
	//go:embed guest/lease
	guestLease []byte
	//go:embed guest/who
	guestWho []byte
)

// guestModules are the kernel modules that a guest loads, each after what it needs. Those that a
// distribution built into its kernel are left out.
var guestModules = []string{
	"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
	"failover", "net_failover", "virtio_net",
}

// buildInitramfs writes a guest's first file system: a static busybox, the modules named, the init
// script, and a web server's content. It is not compressed: software emulation unpacks slowly.
func buildInitramfs(ctx context.Context, k Kernel, modules []string, file string) error {
	busybox, err := findBusybox()
	if err != nil {
		return err
	}
	var a archive
	for _, dir := range []string{"bin", "dev", "proc", "sys", "etc", "modules", "www", "www/cgi-bin"} {
		a.add(dir, modeDir|0o755, nil)
	}
	// The kernel opens /dev/console before init could mount anything.
	a.addDevice("dev/console", 5, 1)
	a.add("bin/busybox", modeFile|0o755, busybox)
	a.add("init", modeFile|0o755, guestInit)
	a.add("bin/lease", modeFile|0o755, guestLease)
	a.add("www/cgi-bin/index.cgi", modeFile|0o755, guestWho)
	// Without it the static C library leaves names alone.
	a.add("etc/nsswitch.conf", modeFile|0o644, []byte("hosts: files dns\n"))
	var order []string
	for _, name := range modules {
		data, err := readModule(ctx, k, name)
		if errors.Is(err, errBuiltIn) {
			continue
		}
		if err != nil {
			return err
		}
		a.add("modules/"+name+".ko", modeFile|0o644, data)
		order = append(order, name+".ko")
	}
	a.add("modules/order", modeFile|0o644, []byte(strings.Join(order, "\n")+"\n"))
	if err := os.WriteFile(file, a.bytes(), 0o644); err != nil {
		return fmt.Errorf("write the guests' initramfs: %w", err)
	}
	return nil
}

// findBusybox reads a busybox that needs no libraries.
func findBusybox() ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("find busybox (package busybox-static): %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w", err)
	}
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w", err)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("use %s in a guest: it is not static (package busybox-static is)", path)
		}
	}
	return data, nil
}

var errBuiltIn = errors.New("part of the kernel")

// readModule returns a module's code, unpacked; errBuiltIn if the kernel needs no loading of it.
func readModule(ctx context.Context, k Kernel, name string) ([]byte, error) {
	var path string
	err := filepath.WalkDir(filepath.Join(k.Modules, "kernel"), func(p string, d os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), name+".ko") {
			path = p
			return filepath.SkipAll
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for module %s: %w", name, err)
	}
	switch filepath.Ext(path) {
	case ".ko":
		return os.ReadFile(path)
	case ".xz":
		return exec.CommandContext(ctx, "xz", "-dc", path).Output()
	case ".zst":
		return exec.CommandContext(ctx, "zstd", "-qdc", path).Output()
	}
	builtin, err := os.ReadFile(filepath.Join(k.Modules, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("look for module %s: %w", name, err)
	}
	if bytes.Contains(builtin, []byte("/"+name+".ko\n")) {
		return nil, errBuiltIn
	}
	return nil, fmt.Errorf("look for module %s of kernel %s: %w", name, k.Version, os.ErrNotExist)
}

// Types of files as in st_mode (inode(7)).
const (
	modeFile   = 0o100000
	modeDir    = 0o040000
	modeDevice = 0o020000
)

// archive writes cpio's "newc" format, the only one that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	buf   bytes.Buffer
	inode uint32
}

func (a *archive) add(name string, mode uint32, data []byte) { a.entry(name, mode, data, 0, 0) }

func (a *archive) addDevice(name string, major, minor uint32) {
	a.entry(name, modeDevice|0o600, nil, major, minor)
}

func (a *archive) entry(name string, mode uint32, data []byte, major, minor uint32) {
	a.inode++
	// Magic, then inode, mode, uid, gid, links, time, size, device (2), device file (2), length
	// of the name with its zero, checksum; eight hexadecimal digits each.
	fmt.Fprintf(&a.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	a.buf.WriteString(name)
	a.buf.WriteByte(0)
	a.pad()
	a.buf.Write(data)
	a.pad()
}

// pad aligns to four bytes, as header and content must be.
func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

// bytes closes the archive and returns it.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, nil, 0, 0)
	return a.buf.Bytes()
}
