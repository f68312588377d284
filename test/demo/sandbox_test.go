package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The last sentence of the demonstration must be able to be false.
func TestTracesAreSeen(t *testing.T) {
	before, err := takeTraces()
	if err != nil {
		t.Skipf("no look at this machine: %v", err)
	}
	if evidence, err := before.compare(0); err != nil {
		t.Errorf("nothing happened, but %v (%s)", err, evidence)
	}
	fewer := before
	fewer.links = before.links[1:]
	if _, err := fewer.compare(0); err == nil || !strings.Contains(err.Error(), before.links[0]) {
		t.Errorf("a new link is not seen: %v", err)
	}
	other := before
	other.forwarding = []string{"ipv4/ip_forward 7"}
	if _, err := other.compare(0); err == nil || !strings.Contains(err.Error(), "ip_forward 7") {
		t.Errorf("a changed parameter is not seen: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		t.Fatal(err)
	}
	if _, err := before.compare(st.Ino); err == nil || !strings.Contains(err.Error(), "demo.test") {
		t.Errorf("a process that still runs is not seen: %v", err)
	}
}
