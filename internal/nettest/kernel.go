package nettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// kernelPackages are the packages that depend on a distribution's newest kernel for virtual
// machines: Debian's, then Ubuntu's. The first one that apt knows is taken.
var kernelPackages = []string{"linux-image-cloud-amd64", "linux-image-virtual"}

// Kernel is a distribution's kernel, unpacked but never installed: nothing below /boot or
// /lib/modules of this machine is touched and no boot loader hears of it.
type Kernel struct {
	Version string // such as 6.1.0-56-cloud-amd64
	Image   string // the bzImage
	Modules string // the folder lib/modules/VERSION
}

// CacheDir is the folder that survives a run: $DRAWBRIDGE_CACHE, else .cache of the source tree
// above the working directory, else the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("DRAWBRIDGE_CACHE"); dir != "" {
		return dir, nil
	}
	if wd, err := os.Getwd(); err == nil {
		for dir := wd; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				return filepath.Join(dir, ".cache"), nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache folder: %w", err)
	}
	return filepath.Join(dir, "drawbridge"), nil
}

// FetchKernel returns the newest guest kernel that apt knows, downloading and unpacking it into
// cache once (27 MB, 106 MB unpacked). A kernel already there is used without asking apt, so that
// a second run needs no package lists and no network.
func FetchKernel(ctx context.Context, cache string, log *slog.Logger) (Kernel, error) {
	dir := filepath.Join(cache, "kernel")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("make the kernel cache: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	if k, err := findKernel(filepath.Join(dir, "root")); err == nil {
		return k, nil
	}
	packages, err := kernelDebs(ctx)
	if err != nil {
		return Kernel{}, err
	}
	log.Info("downloading the guest kernel", "packages", packages)
	if err := unpackKernel(ctx, dir, packages); err != nil {
		return Kernel{}, err
	}
	return findKernel(filepath.Join(dir, "root"))
}

// lockDir holds an exclusive lock, so that two runs do not unpack on top of each other.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// findKernel looks for one unpacked kernel below root.
func findKernel(root string) (Kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return Kernel{}, fmt.Errorf("look for a kernel: %w", err)
	}
	for _, image := range images {
		version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
			modules := filepath.Join(root, lib, version)
			if _, err := os.Stat(modules); err == nil {
				return Kernel{Version: version, Image: image, Modules: modules}, nil
			}
		}
	}
	return Kernel{}, fmt.Errorf("look for a kernel in %s: %w", root, os.ErrNotExist)
}

// kernelDebs resolves the metapackage to the packages with the kernel and its modules.
func kernelDebs(ctx context.Context) ([]string, error) {
	for _, meta := range kernelPackages {
		out, err := exec.CommandContext(ctx, "apt-cache", "depends", "--recurse", "--important",
			"--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances",
			meta).Output()
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // apt-cache exits with 100 when it does not know the package
		}
		if debs := versioned(string(out), meta); len(debs) > 0 {
			return debs, nil
		}
	}
	return nil, fmt.Errorf("find a guest kernel: apt knows none of %s (apt-get update helps if its lists are empty)",
		strings.Join(kernelPackages, ", "))
}

// versioned picks the real packages out of `apt-cache depends --recurse`: those whose names start
// with linux-image- or linux-modules- and carry a version.
func versioned(depends, meta string) []string {
	var debs []string
	for _, line := range strings.Split(depends, "\n") {
		// A package's own entry starts in the first column; its dependencies are indented.
		if line == "" || line[0] == ' ' || line == meta {
			continue
		}
		for _, prefix := range []string{"linux-image-", "linux-modules-"} {
			rest, ok := strings.CutPrefix(line, prefix)
			if ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
				debs = append(debs, line)
			}
		}
	}
	return debs
}

// unpackKernel downloads the packages into dir and unpacks them as dir/root, which appears whole
// or not at all.
func unpackKernel(ctx context.Context, dir string, packages []string) error {
	tmp, err := os.MkdirTemp(dir, "unpack-")
	if err != nil {
		return fmt.Errorf("unpack the guest kernel: %w", err)
	}
	defer os.RemoveAll(tmp)
	// apt drops to the user _apt for downloads, who may not write here.
	_, err = Fetch(func() *exec.Cmd {
		get := exec.CommandContext(ctx, "apt-get", append([]string{"-qq", "-o", "APT::Sandbox::User=root", "download"}, packages...)...)
		get.Dir = tmp
		return get
	})
	if err != nil {
		return fmt.Errorf("download the guest kernel: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("download the guest kernel: apt-get left no package: %w", errors.Join(err, os.ErrNotExist))
	}
	root := filepath.Join(tmp, "root")
	for _, deb := range debs {
		if err := runQuiet(exec.CommandContext(ctx, "dpkg-deb", "-x", deb, root)); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "root")); err != nil {
		return fmt.Errorf("unpack the guest kernel: %w", err)
	}
	if err := os.Rename(root, filepath.Join(dir, "root")); err != nil {
		return fmt.Errorf("unpack the guest kernel: %w", err)
	}
	return nil
}

// runQuiet runs a command and puts what it said into the error.
func runQuiet(cmd *exec.Cmd) error {
	var out bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}
