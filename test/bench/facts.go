package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What each section says of its run.
const (
	factDate    = "date"
	factVersion = "drawbridge"
	factLoad    = "load average at the start"
)

// facts says on what and with what is measured. What cannot be found out says so.
func facts(ctx context.Context, b *Bench) ([]Fact, error) {
	version := func(pattern, name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput() // some end with an error after saying it
		m := regexp.MustCompile(pattern).FindSubmatch(out)
		if m == nil {
			return fmt.Sprintf("unknown (%v)", err)
		}
		return string(m[1])
	}
	file := func(path, pattern string) string {
		text, err := os.ReadFile(path)
		m := regexp.MustCompile(pattern).FindSubmatch(text)
		if err != nil || m == nil {
			return "unknown"
		}
		return strings.TrimSpace(string(m[1]))
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, err
	}
	sync, err := fsync(b.scratch)
	if err != nil {
		return nil, err
	}
	return []Fact{
		{factDate, time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{factVersion, version(`(?m)^\S*\s*(\S+)`, b.binary, "version")},
		{"processor", fmt.Sprintf("%s, %d cores", file("/proc/cpuinfo", `model name\s*: (.*)`), runtime.NumCPU())},
		{"memory", file("/proc/meminfo", `MemTotal:\s*(.*)`)},
		{"kernel", unix.ByteSliceToString(uts.Release[:])},
		{"distribution", file("/etc/os-release", `PRETTY_NAME="(.*)"`)},
		{factLoad, file("/proc/loadavg", `^(\S+ \S+ \S+)`) + " (what else the machine did)"},
		{"one durable write of 250 bytes to the disk used", sync.String()},
		{"libvirtd", version(`(\d\S+)`, "libvirtd", "--version")},
		{"its firewall", "iptables " + version(`(v.*)`, "iptables", "--version") + " (Debian's default, unless a row says otherwise)"},
		{"dnsmasq", version(`version (\S+)`, "dnsmasq", "--version")},
		{"perfdhcp", version(`(\d\S+)`, "perfdhcp", "-v")},
		{"dnsperf", version(`[Vv]ersion (\S+)`, "dnsperf", "-h")},
	}, nil
}

// fsync measures what a durable write costs here, which bounds both sides.
func fsync(dir string) (Series, error) {
	var s Series
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return s, err
	}
	defer f.Close()
	for range 51 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 250)); err != nil {
			return s, err
		}
		if err := f.Sync(); err != nil {
			return s, err
		}
		s.Took(time.Since(began))
	}
	return s, nil
}
