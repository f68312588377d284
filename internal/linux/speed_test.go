package linux

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"drawbridge/internal/nettest"
)

// The kernel's own file says the same.
func TestSpeedIsThatOfTheKernel(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	if size := unsafe.Sizeof(ethtoolCmd{}); size != 44 {
		t.Fatalf("struct ethtool_cmd has %d bytes, want 44", size)
	}
	ipText(t, "link", "add", "nic0", "up", "type", "veth", "peer", "name", "far0")
	t.Cleanup(func() { ipText(t, "link", "del", "nic0"); ipText(t, "link", "del", "speedless0") })
	ipText(t, "link", "add", "speedless0", "up", "type", "bridge")
	before, err := h.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if c := before["nic0"]; c.SpeedMbit != 0 || c.Carrier || c.Index == 0 {
		t.Errorf("without a cable: %+v", c)
	}
	ipText(t, "link", "set", "far0", "up")
	after, err := h.Counters()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/sys/class/net/nic0/speed")
	if err != nil {
		t.Fatal(err)
	}
	want, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if c := after["nic0"]; c.SpeedMbit != want || !c.Carrier || strconv.Itoa(c.Index) != strings.TrimSpace(read(t, "/sys/class/net/nic0/ifindex")) {
		t.Errorf("%+v, want %d Mbit/s", c, want)
	}
	if c := after["speedless0"]; c.SpeedMbit != 0 {
		t.Errorf("a bridge has %d Mbit/s", c.SpeedMbit)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
