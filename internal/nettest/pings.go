package nettest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Pings is what became of a row of echo requests.
type Pings struct {
	From string
	To   netip.Addr
	Sent int
	Lost []LostPing
	// Overflowed counts answers that came to us and found our buffer full: they are
	// among the lost, and nobody else's fault.
	Overflowed int
	// Longest is the longest time between two requests: how late we were.
	Longest time.Duration
}

// LostPing is a request without an answer.
type LostPing struct {
	Number int
	// At is the moment of sending, of CLOCK_MONOTONIC.
	At time.Duration
	// Refused is why it was not even sent; nil if it was.
	Refused error
}

// String is one line, with the first of the lost.
func (p Pings) String() string {
	text := fmt.Sprintf("%s to %s: %d of %d lost", p.From, p.To, len(p.Lost), p.Sent)
	if p.Overflowed > 0 {
		text += fmt.Sprintf(" (%d of them by the pinging program)", p.Overflowed)
	}
	for i, l := range p.Lost {
		if i == 10 {
			return text + " …"
		}
		text += fmt.Sprintf("; no. %d at %.6f", l.Number, l.At.Seconds())
		if l.Refused != nil {
			text += " not sent: " + l.Refused.Error()
		}
	}
	return text + fmt.Sprintf("; at most %s between two", p.Longest.Round(100*time.Microsecond))
}

// Pinging sends echo requests at a steady pace.
type Pinging struct {
	sent atomic.Int64
	done chan struct{}
	got  Pings
	err  error
}

// Sent counts the requests so far.
func (p *Pinging) Sent() int { return int(p.sent.Load()) }

// Wait waits for the last answer and says what became of all.
func (p *Pinging) Wait() (Pings, error) {
	<-p.done
	return p.got, p.err
}

// lastAnswer is how long the answer to the last request is waited for.
const lastAnswer = 2 * time.Second

// Ping sends count echo requests, one each interval, at most 2^32; a late one is
// made up for. Cancelling ctx ends it early. Unlike ping(8) it knows answers
// that came to its own full buffer from those that never came.
func (n *Node) Ping(ctx context.Context, to netip.Addr, count int, interval time.Duration) (*Pinging, error) {
	var fd int
	err := n.Do(func() (err error) {
		fd, err = echoSocket(to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: ping %s: %w", n.Name, to, err)
	}
	id := uint16(os.Getpid()) ^ uint16(fd)<<10
	p := &Pinging{done: make(chan struct{}), got: Pings{From: n.Name, To: to}}
	answered := make([]bool, count)
	end := make(chan error, 1)
	last := new(atomic.Int64) // the number of requests, once all are sent; until then -1
	last.Store(-1)
	go func() { end <- p.hear(fd, id, answered, last) }()
	go func() {
		defer close(p.done)
		defer unix.Close(fd)
		refused, at := p.speak(ctx, fd, id, to, count, interval)
		last.Store(int64(len(at)))
		p.err = <-end
		p.got.Sent = len(at)
		for i, when := range at {
			if !answered[i] {
				p.got.Lost = append(p.got.Lost, LostPing{i, when, refused[i]})
			}
		}
	}()
	return p, nil
}

// echoSocket opens a raw ICMP socket that gets echo replies only.
func echoSocket(to netip.Addr) (int, error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if to.Is6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, err
	}
	if to.Is6() {
		filter := unix.ICMPv6Filter{}
		for i := range filter.Data {
			filter.Data[i] = 1<<32 - 1
		}
		filter.Data[echoReply6/32] &^= 1 << (echoReply6 % 32)
		err = unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter)
	} else {
		// A bit for each type that is not wanted; 0 is the reply.
		err = unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, -2)
	}
	patience := unix.NsecToTimeval(int64(50 * time.Millisecond))
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

const (
	echoReply6 = 129 // RFC 4443
	icmpFilter = 1   // ICMP_FILTER of linux/icmp.h
)

// speak sends, and says when each was sent and which were refused.
func (p *Pinging) speak(ctx context.Context, fd int, id uint16, to netip.Addr, count int, interval time.Duration) (map[int]error, []time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	refused, at := map[int]error{}, make([]time.Duration, 0, count)
	begin := monotonicNow()
	for i := range count {
		due := unix.NsecToTimespec(int64(begin + time.Duration(i)*interval))
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &due, nil) == unix.EINTR {
		}
		if ctx.Err() != nil {
			break
		}
		now := monotonicNow()
		if i > 0 {
			p.got.Longest = max(p.got.Longest, now-at[i-1])
		}
		at = append(at, now)
		if err := unix.Sendto(fd, echoRequest(to, id, uint32(i)), 0, sockaddr(to)); err != nil {
			refused[i] = err
		}
		p.sent.Store(int64(i + 1))
	}
	return refused, at
}

// hear notes answers until all came, or none for a while after the last request.
func (p *Pinging) hear(fd int, id uint16, answered []bool, last *atomic.Int64) error {
	buf, oob := make([]byte, 2048), make([]byte, 256)
	var quiet time.Duration
	for {
		if sent := last.Load(); sent >= 0 {
			missing := sent
			for _, ok := range answered[:sent] {
				if ok {
					missing--
				}
			}
			if missing == 0 || quiet > 0 && monotonicNow()-quiet > lastAnswer {
				return nil
			}
			if quiet == 0 {
				quiet = monotonicNow()
			}
		}
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive echo replies: %w", err)
		}
		if dropped, ok := overflow(oob[:oobn]); ok {
			p.got.Overflowed = dropped
		}
		if got, number, ok := echoReply(buf[:n], p.got.To.Is6()); ok && got == id && int(number) < len(answered) {
			answered[number] = true
		}
	}
}

// overflow reads the count of messages for which the socket had no room.
func overflow(oob []byte) (int, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data)), true
		}
	}
	return 0, false
}

func sockaddr(to netip.Addr) unix.Sockaddr {
	if to.Is6() {
		return &unix.SockaddrInet6{Addr: to.As16()}
	}
	return &unix.SockaddrInet4{Addr: to.As4()}
}

// echoRequest is an ICMP echo request with a 32-bit number of our own, since that
// of the protocol has 16 bits. Of IPv6 the kernel fills in the checksum.
func echoRequest(to netip.Addr, id uint16, number uint32) []byte {
	b := make([]byte, 64)
	b[0] = 8 // RFC 792
	if to.Is6() {
		b[0] = 128 // RFC 4443
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], uint16(number))
	binary.BigEndian.PutUint32(b[8:], number)
	if to.Is4() {
		var sum uint32
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		for sum>>16 != 0 {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	}
	return b
}

// echoReply reads an answer; a raw IPv4 socket gives the IP header too.
func echoReply(b []byte, six bool) (id uint16, number uint32, ok bool) {
	if !six && len(b) > 0 {
		b = b[min(len(b), int(b[0]&0xf)*4):]
	}
	if len(b) < 12 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint32(b[8:]), true
}

// monotonicNow reads CLOCK_MONOTONIC, which the kernel's traces have too.
func monotonicNow() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot fail on any kernel that this runs on
	}
	return time.Duration(ts.Nano())
}
