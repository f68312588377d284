package hostconf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// tree is the host's file system; root is "" but in tests. All paths given to it
// are absolute.
type tree struct{ root string }

func (t tree) path(name string) string { return filepath.Join(t.root, name) }

// read returns a file's content, nil if there is none.
func (t tree) read(name string) ([]byte, error) {
	b, err := os.ReadFile(t.path(name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err == nil && b == nil {
		b = []byte{}
	}
	return b, err
}

// text is read for files of the kernel and of running programs, where "cannot be
// read" and "is not there" come to the same.
func (t tree) text(name string) string {
	b, _ := os.ReadFile(t.path(name))
	return strings.TrimSpace(string(b))
}

// glob lists the paths that match, sorted, as seen from the tree.
func (t tree) glob(pattern string) []string {
	found, _ := filepath.Glob(t.path(pattern)) // the patterns are ours, or interfaces(5)'s: a bad one matches nothing
	for i, f := range found {
		found[i] = "/" + strings.TrimPrefix(strings.TrimPrefix(f, t.root), "/")
	}
	slices.Sort(found)
	return found
}

func (t tree) exists(name string) bool {
	_, err := os.Stat(t.path(name))
	return err == nil
}

func (t tree) isLink(link string) bool { return t.exists("/sys/class/net/" + link) }

// mac and index are the kernel's, "" and 0 where there is no such link.
func (t tree) mac(link string) string { return t.text("/sys/class/net/" + link + "/address") }

func (t tree) index(link string) int {
	n, _ := strconv.Atoi(t.text("/sys/class/net/" + link + "/ifindex"))
	return n
}

// running says whether a process of that name (as in /proc/PID/comm, 15
// characters) runs.
func (t tree) running(comm string) bool {
	for _, p := range t.glob("/proc/[0-9]*/comm") {
		if t.text(p) == comm {
			return true
		}
	}
	return false
}

// write replaces a file as a whole: a crash leaves the old or the new one
// (rename(2)), and after a return it is on disk. Folders are made as needed.
func (t tree) write(name string, content []byte, mode fs.FileMode, uid, gid int) (err error) {
	path := t.path(name)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	tmp, err := os.CreateTemp(dir, ".drawbridge-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	if _, err := tmp.Write(content); err != nil {
		return err
	}
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if uid != os.Getuid() || gid != os.Getgid() {
		if err := tmp.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// remove takes a file away; that it is gone already is success.
func (t tree) remove(name string) error {
	path := t.path(name)
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// own writes a file of the program's own, in a folder that only it may enter.
func (t tree) own(name string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(t.path(name)), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return t.write(name, content, mode, os.Getuid(), os.Getgid())
}

// removeEmpty takes a folder away if nothing is in it.
func (t tree) removeEmpty(name string) { _ = os.Remove(t.path(name)) }
