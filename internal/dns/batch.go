package dns

import (
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many packets one system call receives or sends. With one
// call for each packet the calls themselves are a third of the work.
const batchSize = 32

// packetSize is the longest question and the longest answer over UDP. A longer
// question is cut off and thereby malformed.
const packetSize = ednsSize

// mmsghdr is struct mmsghdr of recvmmsg(2), which golang.org/x/sys lacks.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// batch is the room for packets in both directions. It is large, so idle sockets
// hold none: it is taken when packets have arrived.
type batch struct {
	in     [batchSize]mmsghdr
	inVec  [batchSize]unix.Iovec
	from   [batchSize]unix.RawSockaddrInet6 // has room for IPv4 too
	inData [batchSize][packetSize]byte
	out    outgoing
	worker worker
}

func newBatch() *batch {
	b := new(batch)
	for i := range batchSize {
		b.inVec[i].Base = &b.inData[i][0]
		b.inVec[i].SetLen(packetSize)
		h := &b.in[i].hdr
		h.Iov = &b.inVec[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.from[i]))
	}
	return b
}

// receiver reads packets from one socket without allocating.
type receiver struct {
	raw  syscall.RawConn
	pool *sync.Pool
	b    *batch
	n    int
	err  error
	// The callbacks are made once, since a closure for each call would be allocated.
	receive, transmit func(fd uintptr) bool
}

func newReceiver(raw syscall.RawConn, pool *sync.Pool) *receiver {
	r := &receiver{raw: raw, pool: pool}
	r.receive = func(fd uintptr) bool {
		if r.b == nil {
			r.b = r.pool.Get().(*batch)
		}
		for i := range r.b.in {
			r.b.in[i].hdr.Namelen = unix.SizeofSockaddrInet6
		}
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			r.n, r.err = int(n), nil
			return true
		case unix.EAGAIN:
			r.release()
			return false
		case unix.EINTR, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH:
			r.n, r.err = 0, nil // about a packet that we sent; nothing is wrong with the socket
			return true
		}
		r.n, r.err = 0, errno
		return true
	}
	r.transmit = func(fd uintptr) bool {
		r.b.out.send(fd)
		return true
	}
	return r
}

func (r *receiver) release() {
	if r.b != nil {
		r.pool.Put(r.b)
		r.b = nil
	}
}

// wait blocks until packets have arrived and returns how many.
func (r *receiver) wait() (int, error) {
	if err := r.raw.Read(r.receive); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// packet is the i-th packet received; a cut-off one is nil.
func (r *receiver) packet(i int) []byte {
	if r.b.in[i].hdr.Flags&unix.MSG_TRUNC != 0 {
		return nil
	}
	return r.b.inData[i][:r.b.in[i].len]
}

// room is where the next answer is to be written.
func (r *receiver) room() []byte { return r.b.out.data[r.b.out.n][:] }

// put sends the size bytes in room to whoever sent packet i, with the next flush.
func (r *receiver) put(i, size int) {
	o := &r.b.out
	o.to[o.n], o.toLen[o.n], o.size[o.n] = r.b.from[i], r.b.in[i].hdr.Namelen, size
	o.n++
}

func (r *receiver) flush() error {
	if r.b.out.n == 0 {
		return nil
	}
	return r.raw.Write(r.transmit)
}

// sender is the address that packet i came from; invalid for other families
// than IP and for addresses that need a scope.
func (r *receiver) sender(i int) netip.AddrPort {
	from := &r.b.from[i]
	port := *(*[2]byte)(unsafe.Pointer(&from.Port))
	number := uint16(port[0])<<8 | uint16(port[1])
	switch from.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), number)
	case unix.AF_INET6:
		if from.Scope_id == 0 {
			return netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), number)
		}
	}
	return netip.AddrPort{}
}
