package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fileKB is what this process has mapped of files, by the kernel's own count.
func fileKB(t *testing.T) (kb int) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, _ := fmt.Sscanf(line, "RssFile: %d kB", &kb); n == 1 {
			return kb
		}
	}
	t.Fatal("no RssFile in /proc/self/status")
	return 0
}

// mapped maps a file of a few pages that is larger than what a test program rests with.
func mapped(t *testing.T, size, prot, flags int) []byte {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, bytes.Repeat([]byte("file"), size/4), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, size, prot, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

func TestWhatIsOnlyReadIsLetGo(t *testing.T) {
	const size = 16 << 20
	database := mapped(t, size, unix.PROT_READ, unix.MAP_SHARED)
	// As the loader leaves a program's relocated data.
	relocated := mapped(t, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	copy(relocated[size/2:], "ours")
	if err := unix.Mprotect(relocated, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("file"), size/4)
	if !bytes.Equal(database, want) {
		t.Fatal("the file is not what was written")
	}
	before := fileKB(t)
	if err := letGo(); err != nil {
		t.Fatal(err)
	}
	if after := fileKB(t); after > before-size/1024 {
		t.Errorf("%d kB of files are mapped, before it were %d kB", after, before)
	}
	if !bytes.Equal(database, want) {
		t.Error("the file reads otherwise than before")
	}
	if got := string(relocated[size/2 : size/2+4]); got != "ours" {
		t.Errorf("a page that was written reads %q", got)
	}
}
