package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	errEnded = errors.New("ended")
	errGone  = errors.New("the interface is gone")
)

// maxSnap is more than any packet: one of GSO has 512 KiB (GSO_MAX_SIZE).
const maxSnap = 512 << 10

// socket is a packet socket that receives.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	snap int
	data []byte
	oob  []byte
	// watching: the interface was down once; lost: it was removed.
	watching sync.Once
	lost     atomic.Bool
}

// listen sets the socket up and binds it last: nothing comes before the filter is
// in place.
func listen(f *os.File, o Options, program []unix.SockFilter) (*socket, error) {
	s := &socket{file: f, snap: maxSnap, oob: make([]byte, 256)}
	if o.Snap > 0 {
		s.snap = min(o.Snap, maxSnap)
	}
	s.data = make([]byte, s.snap+vlanTag)
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	// Only a file made of a descriptor that does not block can be waited for.
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	s.file = os.NewFile(uintptr(dup), f.Name())
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(dup, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(dup, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	if err == nil && len(program) > 0 {
		err = unix.SetsockoptSockFprog(dup, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	}
	if err == nil && o.Promiscuous {
		err = unix.SetsockoptPacketMreq(dup, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(o.Index), Type: unix.PACKET_MR_PROMISC})
	}
	if err == nil {
		err = unix.Bind(dup, &unix.SockaddrLinklayer{Protocol: binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)), Ifindex: o.Index})
	}
	if err != nil {
		return nil, fmt.Errorf("capture: set up the socket: %w", errors.Join(err, s.file.Close()))
	}
	return s, nil
}

// interrupt makes next return errEnded.
func (s *socket) interrupt() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// next waits for a packet. idle is called before it waits longer than a moment.
func (s *socket) next(idle func() error) (p packet, err error) {
	var inner error
	waited := false
	err = s.raw.Read(func(fd uintptr) bool {
		p, inner = s.receive(int(fd))
		if errors.Is(inner, unix.EAGAIN) {
			if !waited {
				waited = true
				if inner = idle(); inner != nil {
					return true
				}
			}
			return false
		}
		return true
	})
	switch {
	case inner != nil && !errors.Is(inner, unix.EAGAIN):
		return p, inner
	case errors.Is(err, os.ErrDeadlineExceeded) && s.lost.Load():
		return p, errGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return p, errEnded
	}
	return p, err
}

// drain takes what came before the capture was ended.
func (s *socket) drain(res *Result, count uint64, write func(packet) error) error {
	ended := time.Now()
	var inner error
	if err := s.raw.Control(func(fd uintptr) {
		for count == 0 || res.Packets < count {
			p, err := s.receive(int(fd))
			if err != nil || p.at.After(ended) {
				return // nothing more, or the interface is gone
			}
			if inner = write(p); inner != nil {
				return
			}
			res.Packets++
		}
	}); err != nil {
		return err
	}
	return inner
}

// vlanTag is the length of an 802.1Q tag; addresses are what comes before it.
const (
	vlanTag   = 4
	addresses = 12
)

func (s *socket) receive(fd int) (packet, error) {
	for {
		n, oobn, _, from, err := unix.Recvmsg(fd, s.data[vlanTag:], s.oob, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENETDOWN):
			// Set down, and perhaps about to be removed, of which the socket says nothing.
			s.watching.Do(func() { go s.watch() })
			continue
		case err != nil:
			return packet{}, err
		}
		p := packet{at: time.Now(), length: n, data: s.data[vlanTag:][:min(n, s.snap)]}
		if l, ok := from.(*unix.SockaddrLinklayer); ok {
			p.outbound = l.Pkttype == unix.PACKET_OUTGOING
		}
		return p, s.control(&p, s.oob[:oobn])
	}
}

// goneTick is how soon it is noticed that the interface is gone.
const goneTick = 100 * time.Millisecond

// watch ends the capture when the interface is removed.
func (s *socket) watch() {
	tick := time.NewTicker(goneTick)
	defer tick.Stop()
	for range tick.C {
		is := false
		if s.raw.Control(func(fd uintptr) { is = gone(int(fd)) }) != nil {
			return // closed
		}
		if is {
			s.lost.Store(true)
			s.interrupt()
			return
		}
	}
}

// gone says whether the interface that the socket is bound to was removed: then
// the kernel sets the index to -1 (packet_notifier in net/packet/af_packet.c).
func gone(fd int) bool {
	at, err := unix.Getsockname(fd)
	l, ok := at.(*unix.SockaddrLinklayer)
	return err != nil || !ok || l.Ifindex <= 0
}

// control reads the time and, for a packet with a VLAN tag, puts back the tag that
// the kernel took out of it.
func (s *socket) control(p *packet, oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("read control message: %w", err)
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			p.at = time.Unix(ts.Unix())
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= int(unsafe.Sizeof(unix.TpacketAuxdata{})):
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
			if aux.Status&unix.TP_STATUS_VLAN_VALID == 0 || len(p.data) < addresses {
				continue
			}
			tpid := uint16(unix.ETH_P_8021Q)
			if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
				tpid = aux.Vlan_tpid
			}
			// There is room for the tag before the packet.
			whole := s.data[:vlanTag+len(p.data)]
			copy(whole, whole[vlanTag:vlanTag+addresses])
			binary.BigEndian.PutUint16(whole[addresses:], tpid)
			binary.BigEndian.PutUint16(whole[addresses+2:], aux.Vlan_tci)
			p.data, p.length = whole[:min(len(whole), s.snap)], p.length+vlanTag
		}
	}
	return nil
}

// dropped asks how many packets there was no room for, and closes the socket.
func (s *socket) dropped() (uint64, error) {
	defer s.file.Close()
	st, err := unix.GetsockoptTpacketStats(int(s.file.Fd()), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("capture: ask what was dropped: %w", err)
	}
	return uint64(st.Drops), nil
}
