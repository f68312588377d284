package linux

import (
	"errors"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
	"drawbridge/internal/spec"
)

// attached asks the kernel how many programs a link has in one direction.
func attached(link int, where uint32) (int, error) {
	const query = 16 // BPF_PROG_QUERY
	attr := struct {
		link, where, flags, attachFlags uint32
		ids                             uint64
		count, _                        uint32
		rest                            [5]uint64
	}{link: uint32(link), where: where}
	_, err := bpfCall(query, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return int(attr.count), err
}

// TestDetoursGo: a program stays for a moment for the next move, and is then
// detached; one whose bridge went is no hindrance to the next one.
func TestDetoursGo(t *testing.T) {
	m := onLAN(t)
	m.do(t, func() error {
		nic := m.h.Index(nettest.HostANIC)
		for range 2 {
			in, _, err := m.think(t.Context(), spec.Document{}.Clone(), lanDocument())
			if err != nil {
				return err
			}
			if err := m.h.Apply(t.Context(), in.Steps); err != nil {
				return err
			}
			n, err := attached(nic, tcxIngress)
			if err != nil {
				return err
			}
			if n != 1 {
				t.Errorf("right after the move the NIC has %d programs", n)
			}
			if err := m.undo(t.Context(), in); err != nil {
				return err
			}
		}
		ticks := time.NewTicker(10 * time.Millisecond)
		defer ticks.Stop()
		for limit := time.Now().Add(30 * time.Second); ; <-ticks.C {
			n, err := attached(nic, tcxIngress)
			if err != nil || n == 0 {
				return err
			}
			if time.Now().After(limit) {
				t.Errorf("the NIC still has %d programs", n)
				return nil
			}
		}
	})
}
