package dns

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// outgoing are answers that leave together. Those of one length to one client are
// handed to the kernel as one message that it cuts up as late as it can
// (UDP_SEGMENT, udp(7)): the way through routing, rules and bridge, which is most
// of what an answer costs, is then gone once for all of them. A resolver that asks
// much gets such answers; measured, a saturated server needs a third less.
type outgoing struct {
	n     int
	to    [batchSize]unix.RawSockaddrInet6
	toLen [batchSize]uint32
	size  [batchSize]int
	data  [batchSize][packetSize]byte

	// The messages; each is a run of vectors, the vectors are the answers in the
	// order of the messages.
	msgs    [batchSize]mmsghdr
	vecs    [batchSize]unix.Iovec
	control [batchSize]segmentControl
}

// segmentControl is the control message that says how long the pieces are.
type segmentControl struct {
	hdr  unix.Cmsghdr
	size uint16
	_    [6]byte
}

// send sends all and forgets them. What cannot be sent is lost: the client is
// gone or its queue full, it asks again, and the others must not wait for it.
func (o *outgoing) send(fd uintptr) {
	total := o.group()
	for sent := 0; sent < total; {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&o.msgs[sent])), uintptr(total-sent), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			sent += int(n)
		case unix.EINTR:
		default:
			if o.msgs[sent].hdr.Iovlen > 1 {
				o.split(fd, &o.msgs[sent].hdr)
			}
			sent++
		}
	}
	o.n = 0
}

// group makes the messages and returns how many.
func (o *outgoing) group() int {
	var done [batchSize]bool
	msgs, vecs := 0, 0
	for i := range o.n {
		if done[i] {
			continue
		}
		firstVec := vecs
		for j := i; j < o.n; j++ {
			if !done[j] && o.size[j] == o.size[i] && o.to[j] == o.to[i] {
				done[j] = true
				o.vecs[vecs].Base = &o.data[j][0]
				o.vecs[vecs].SetLen(o.size[j])
				vecs++
			}
		}
		h := &o.msgs[msgs].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.to[i])), o.toLen[i]
		h.Iov = &o.vecs[firstVec]
		h.SetIovlen(vecs - firstVec)
		h.Control, h.Controllen = nil, 0
		if vecs-firstVec > 1 {
			c := &o.control[msgs]
			c.hdr.Level, c.hdr.Type = unix.SOL_UDP, unix.UDP_SEGMENT
			c.hdr.SetLen(unix.CmsgLen(2))
			c.size = uint16(o.size[i])
			h.Control = (*byte)(unsafe.Pointer(c))
			h.SetControllen(unix.CmsgSpace(2))
		}
		msgs++
	}
	return msgs
}

// split sends one by one what the kernel will not take in one: pieces must fit
// the link without fragments, and its packets may need their checksums made here.
func (o *outgoing) split(fd uintptr, h *unix.Msghdr) {
	vecs := unsafe.Slice(h.Iov, h.Iovlen)
	for i := range vecs {
		one := unix.Msghdr{Name: h.Name, Namelen: h.Namelen, Iov: &vecs[i]}
		one.SetIovlen(1)
		_, _, _ = unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&one)), unix.MSG_DONTWAIT)
	}
}
