package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

// cable is a veth pair in the test's own namespace; one end is captured on.
type cable struct {
	t      *testing.T
	from   int // a packet socket on the other end
	index  int
	socket *os.File
}

func newCable(t *testing.T) *cable {
	t.Helper()
	nettest.Need(t, nettest.Namespace, "ip", "tcpdump")
	for _, args := range []string{"link add cap0 type veth peer name cap1", "link set cap0 up", "link set cap1 up"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "cap0").Run() })
	bind := func(name string) (*os.File, int) {
		link, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), name), link.Index
	}
	c := &cable{t: t}
	c.socket, c.index = bind("cap0")
	other, index := bind("cap1")
	t.Cleanup(func() { other.Close() })
	c.from = int(other.Fd())
	if err := unix.Bind(c.from, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		t.Fatal(err)
	}
	return c
}

// frame is an Ethernet frame of an experimental type (IEEE 802, 88B5) with a tag
// or none; nobody else on the cable sends such.
func frame(tag []byte, payload string) []byte {
	head := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1}
	return append(append(append(head, tag...), 0x88, 0xb5), payload...)
}

func (c *cable) send(data []byte) {
	c.t.Helper()
	if _, err := unix.Write(c.from, data); err != nil {
		c.t.Fatal(err)
	}
}

const experimental = "ether proto 0x88b5 or (ether[12:2] = 0x8100)"

// dump is what tcpdump reads from a file.
func dump(t *testing.T, file []byte) string {
	t.Helper()
	cmd := exec.Command("tcpdump", "-enXr", "-")
	cmd.Stdin = bytes.NewReader(file)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tcpdump: %v\n%s", err, out)
	}
	return string(out)
}

func TestPacketsAreWrittenAsTheyWereSent(t *testing.T) {
	c := newCable(t)
	var out bytes.Buffer
	o := Options{Index: c.index, Filter: "", Count: 3, About: About{Comment: "two\nlines", Program: "test", OS: "linux", Interface: "cap0", Description: "a cable"}}
	before := time.Now()
	// IPv6 neighbours may speak on the cable too: only ours are counted.
	o.Filter = "ether proto 0x88b5"
	res, err := Run(t.Context(), c.socket, &out, o, func() {
		c.send(frame(nil, "the first packet"))
		c.send(frame(nil, ""))
		c.send(frame(nil, strings.Repeat("x", 1400)))
	})
	if err != nil || res.Packets != 3 || res.Dropped != 0 || res.Gone {
		t.Fatalf("%+v, %v", res, err)
	}
	text := dump(t, out.Bytes())
	if !strings.Contains(text, "the first packet") && !strings.Contains(text, "the.first.packet") || !strings.Contains(text, "length 1414") {
		t.Errorf("tcpdump reads\n%s", text)
	}
	// The first packet's block: its time, in nanoseconds.
	blocks := split(t, out.Bytes())
	var packets [][]byte
	for _, b := range blocks {
		if binary.LittleEndian.Uint32(b) == blockPacket {
			packets = append(packets, b)
		}
	}
	if len(packets) != 3 || len(blocks) != 6 {
		t.Fatalf("%d blocks, %d of packets", len(blocks), len(packets))
	}
	at := time.Unix(0, int64(binary.LittleEndian.Uint32(packets[0][12:]))<<32|int64(binary.LittleEndian.Uint32(packets[0][16:])))
	if at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("the first packet is of %s, sent after %s", at, before)
	}
}

// split takes a file apart; each block says its length at both ends.
func split(t *testing.T, file []byte) [][]byte {
	t.Helper()
	var all [][]byte
	for len(file) > 0 {
		n := int(binary.LittleEndian.Uint32(file[4:]))
		if n < 12 || n%4 != 0 || n > len(file) || int(binary.LittleEndian.Uint32(file[n-4:])) != n {
			t.Fatalf("block %d has length %d", len(all), n)
		}
		all = append(all, file[:n])
		file = file[n:]
	}
	return all
}

// The kernel takes a VLAN tag out of a packet; the file has it again.
func TestVLANTagsAreKept(t *testing.T) {
	c := newCable(t)
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Run(ctx, c.socket, &out, Options{Index: c.index, Count: 1, Filter: "ether src 02:00:00:00:00:01"}, func() {
		c.send(frame([]byte{0x81, 0x00, 0x20, 0x2a}, "tagged"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := dump(t, out.Bytes()); !strings.Contains(text, "vlan 42, p 1") {
		t.Errorf("tcpdump reads\n%s", text)
	}
}

func TestPacketsAreCutAndSaySo(t *testing.T) {
	c := newCable(t)
	var out bytes.Buffer
	_, err := Run(t.Context(), c.socket, &out, Options{Index: c.index, Count: 1, Snap: 20, Filter: "ether proto 0x88b5"}, func() { c.send(frame(nil, strings.Repeat("x", 100))) })
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range split(t, out.Bytes()) {
		if binary.LittleEndian.Uint32(b) == blockPacket {
			if kept, whole := binary.LittleEndian.Uint32(b[20:]), binary.LittleEndian.Uint32(b[24:]); kept != 20 || whole != 114 {
				t.Errorf("%d of %d bytes are kept", kept, whole)
			}
		}
	}
}

// slow holds the first write after the file's head until it is let go.
type slow struct {
	bytes.Buffer
	writes int
	full   chan struct{}
	resume chan struct{}
}

func (s *slow) Write(b []byte) (int, error) {
	if s.writes++; s.writes == 2 {
		close(s.full)
		<-s.resume
	}
	return s.Buffer.Write(b)
}

// What a slow disk loses is counted: what was sent is in the file, or dropped.
func TestDropsAreCounted(t *testing.T) {
	c := newCable(t)
	if err := unix.SetsockoptInt(int(c.socket.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10); err != nil {
		t.Fatal(err)
	}
	out := &slow{full: make(chan struct{}), resume: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	type ended struct {
		Result
		error
	}
	done := make(chan ended, 1)
	ready := make(chan struct{})
	go func() {
		res, err := Run(ctx, c.socket, out, Options{Index: c.index, Filter: "ether proto 0x88b5"}, func() { close(ready) })
		done <- ended{res, err}
	}()
	<-ready
	sent := 0
	more := func(n int) {
		for range n {
			c.send(frame(nil, strings.Repeat("x", 1000)))
			sent++
		}
	}
	for full := false; !full; {
		more(1)
		select {
		case <-out.full:
			full = true
		default:
		}
	}
	more(2000)
	close(out.resume)
	cancel()
	got := <-done
	if got.error != nil || got.Dropped < 100 || int(got.Packets+got.Dropped) != sent {
		t.Fatalf("%+v of %d sent", got, sent)
	}
	if n := strings.Count(dump(t, out.Bytes()), "ethertype Unknown (0x88b5)"); n != int(got.Packets) {
		t.Errorf("the file has %d packets, %d were written", n, got.Packets)
	}
}

// broken takes the file's head and then nothing more.
type broken struct{ left int }

func (b *broken) Write(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestADiskThatIsFullEndsTheCapture(t *testing.T) {
	c := newCable(t)
	_, err := Run(t.Context(), c.socket, &broken{left: 1}, Options{Index: c.index, Filter: "ether proto 0x88b5"}, func() { c.send(frame(nil, "x")) })
	if !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("it ended with %v", err)
	}
}

func TestFilters(t *testing.T) {
	nettest.Need(t, "tcpdump")
	if p, err := Compile(t.Context(), "  "); p != nil || err != nil {
		t.Errorf("no filter: %v %v", p, err)
	}
	if p, err := Compile(t.Context(), experimental+" and host 10.9.0.1"); err != nil || len(p) < 5 {
		t.Errorf("a filter: %v %v", p, err)
	}
	for _, bad := range []string{"tcp port", "-w /tmp/x", "--version", "nonsense 1"} {
		var wrong *FilterError
		if _, err := Compile(t.Context(), bad); !errors.As(err, &wrong) || wrong.Reason == "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Compile(t.Context(), "tcp"); !errors.Is(err, ErrNoCompiler) {
		t.Errorf("without tcpdump: %v", err)
	}
}

func TestWhatIsNoProgramIsRefused(t *testing.T) {
	for _, bad := range []string{"", "x", "0", "-1", "5000\n", "2\n40 0 0 12\n", "1\n40 0 0", "1\n999999 0 0 1", "1\n40 300 0 1"} {
		if p, err := parse(bad); err == nil {
			t.Errorf("%q is %v", bad, p)
		}
	}
	p, err := parse("2\n40 0 0 12\n6 1 2 4294967295\n")
	if err != nil || p[1] != (unix.SockFilter{Code: 6, Jt: 1, Jf: 2, K: 1<<32 - 1}) {
		t.Errorf("%v %v", p, err)
	}
}
