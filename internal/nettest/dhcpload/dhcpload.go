// Package dhcpload measures DHCPv4 servers with many clients at once.
//
// It owns a client that keeps a number of guests in flight over one link, each
// with a hardware address of its own, from DHCPDISCOVER to DHCPACK. It does not
// know which server is measured, nor how it was started.
//
// Start reading at Open and Run; the packets are in packet.go.
package dhcpload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Load is what a server is given to do.
type Load struct {
	// Clients is the number of guests, each with its own MAC; they come in turn
	// and again from the start.
	Clients int
	// First is the number of the first of them; the number decides the MAC.
	First int
	// Broadcast asks for answers by broadcast (RFC 2131, section 2, flag B). A
	// server that answers by unicast through the kernel needs a neighbour entry
	// for each guest, of which Linux keeps 1024 unless told otherwise.
	Broadcast bool
	// InFlight is how many of them wait for an answer at one time.
	InFlight int
	// Rate is how many exchanges begin in a second, at even distances, whether or
	// not earlier ones have ended, as far as InFlight allows; 0 begins one as soon
	// as another ends. A server of any speed is given the same then.
	Rate float64
	// Duration ends the run, or Exchanges does, whichever comes first; 0 is no limit.
	Duration  time.Duration
	Exchanges int
	// Retry is after how long an unanswered message is sent again; 0 means 1 s.
	Retry time.Duration
}

// Result is what the clients saw. An exchange is DISCOVER, OFFER, REQUEST, ACK.
type Result struct {
	Exchanges int
	Elapsed   time.Duration
	PerSecond float64
	// Latency of whole exchanges, retries included.
	P50, P90, P99, Max time.Duration
	// Retries counts messages that were sent again, Naks requests refused.
	Retries, Naks int
	// Twice counts addresses acknowledged to more than one guest.
	Twice int
	// Addrs is what each guest, by number, got last.
	Addrs map[int]netip.Addr
}

// Client sends and receives frames on one link.
type Client struct {
	fd, index int
}

// Open opens a link, in the network namespace of the calling thread. It needs
// CAP_NET_RAW. The link hears frames for any MAC (a veth does). Close it.
func Open(link string) (*Client, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", link, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", link, err)
	}
	wait := unix.NsecToTimeval((20 * time.Millisecond).Nanoseconds())
	err = errors.Join(
		onlyReplies(fd),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: ifi.Index})) // ETH_P_IP in network order
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", link, err), unix.Close(fd))
	}
	return &Client{fd: fd, index: ifi.Index}, nil
}

// Close closes the link.
func (c *Client) Close() error { return unix.Close(c.fd) }

// onlyReplies filters IPv4, UDP, to port 68, without IP options.
func onlyReplies(fd int) error {
	const load8, load16, equal, ret = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load8, K: 14}, {Code: equal, K: 0x45, Jf: 5},
		{Code: load8, K: 23}, {Code: equal, K: 17, Jf: 3},
		{Code: load16, K: 36}, {Code: equal, K: 68, Jf: 1},
		{Code: ret, K: 2048}, {Code: ret, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// slot is one guest in flight.
type slot struct {
	guest      int
	xid        uint32
	asking     bool // the offer came, the request is out
	message    []byte
	began, out time.Time
}

// run is the state of a Run.
type run struct {
	c         *Client
	load      Load
	next      int
	xid       uint32
	byXID     map[uint32]*slot
	idle      []*slot
	begun     int
	latencies []time.Duration
	owner     map[netip.Addr]int
	result    Result
}

// Run drives the load until it ends or ctx is done, and reports. A Client does
// one Run at a time.
func (c *Client) Run(ctx context.Context, l Load) (Result, error) {
	if l.Retry == 0 {
		l.Retry = time.Second
	}
	r := &run{
		c: c, load: l, xid: uint32(time.Now().UnixNano()), byXID: map[uint32]*slot{}, owner: map[netip.Addr]int{},
		result: Result{Addrs: map[int]netip.Addr{}},
	}
	began := time.Now()
	for range min(l.InFlight, l.Clients) {
		r.idle = append(r.idle, &slot{})
	}
	buf := make([]byte, 2048)
	for looked := began; ; {
		now := time.Now()
		if ctx.Err() != nil || (l.Duration > 0 && now.Sub(began) > l.Duration) || (l.Exchanges > 0 && r.result.Exchanges >= l.Exchanges) {
			break
		}
		if now.Sub(looked) > l.Retry/10 {
			looked = now
			if err := r.retry(now); err != nil {
				return Result{}, err
			}
		}
		if err := r.beginDue(began, now); err != nil {
			return Result{}, err
		}
		if !r.readable(began, now) {
			continue
		}
		n, err := unix.Read(c.fd, buf)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			continue
		case err != nil:
			return Result{}, fmt.Errorf("receive: %w", err)
		}
		if err := r.receive(buf[:n]); err != nil {
			return Result{}, err
		}
	}
	return r.report(time.Since(began)), ctx.Err()
}

// due is when the next exchange begins, if there is a rate.
func (r *run) due(began time.Time) time.Time {
	return began.Add(time.Duration(float64(r.begun) / r.load.Rate * float64(time.Second)))
}

// beginDue begins the exchanges whose time has come.
func (r *run) beginDue(began, now time.Time) error {
	for len(r.idle) > 0 && (r.load.Rate == 0 || !now.Before(r.due(began))) {
		s := r.idle[len(r.idle)-1]
		r.idle = r.idle[:len(r.idle)-1]
		if err := r.begin(s); err != nil {
			return err
		}
	}
	return nil
}

// readable waits until there is something to read, but not beyond the beginning
// of the next exchange.
func (r *run) readable(began, now time.Time) bool {
	if r.load.Rate == 0 || len(r.idle) == 0 {
		return true // a read waits as long as it may
	}
	wait := unix.NsecToTimespec(max(0, r.due(began).Sub(now)).Nanoseconds())
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(r.c.fd), Events: unix.POLLIN}}, &wait, nil)
	return err == nil && n > 0
}

// ended takes the exchange's slot back.
func (r *run) ended(s *slot) error {
	delete(r.byXID, s.xid)
	r.idle = append(r.idle, s)
	if r.load.Rate > 0 {
		return nil
	}
	return r.beginDue(time.Time{}, time.Time{})
}

// begin takes the next guest, which is not in flight already.
func (r *run) begin(s *slot) error {
	r.xid++
	r.begun++
	*s = slot{guest: r.load.First + r.next, xid: r.xid, began: time.Now()}
	r.next = (r.next + 1) % r.load.Clients
	r.byXID[s.xid] = s
	s.message = r.flagged(discover(s.guest, s.xid))
	return r.send(s)
}

func (r *run) flagged(message []byte) []byte {
	if r.load.Broadcast {
		message[dhcpOff+10] |= 0x80
	}
	return message
}

func (r *run) send(s *slot) error {
	s.out = time.Now()
	to := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: r.c.index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	err := unix.Sendto(r.c.fd, s.message, 0, to)
	if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("send: %w", err)
	}
	return nil // what was not sent is sent again later
}

func (r *run) retry(now time.Time) error {
	for _, s := range r.byXID {
		if now.Sub(s.out) > r.load.Retry {
			r.result.Retries++
			if err := r.send(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) receive(frame []byte) error {
	m, ok := parseReply(frame)
	if !ok {
		return nil
	}
	s := r.byXID[m.xid]
	if s == nil || m.mac != macOf(s.guest) {
		return nil
	}
	switch {
	case m.kind == offerType && !s.asking:
		s.asking = true
		s.message = r.flagged(request(s.guest, s.xid, m.addr, m.server))
		return r.send(s)
	case m.kind == ackType && s.asking:
		r.latencies = append(r.latencies, time.Since(s.began))
		r.result.Exchanges++
		if other, ok := r.owner[m.addr]; ok && other != s.guest {
			r.result.Twice++
		}
		r.owner[m.addr] = s.guest
		r.result.Addrs[s.guest] = m.addr
		return r.ended(s)
	case m.kind == nakType && s.asking:
		r.result.Naks++
		return r.ended(s)
	}
	return nil
}

func (r *run) report(elapsed time.Duration) Result {
	out := r.result
	out.Elapsed = elapsed
	out.PerSecond = float64(out.Exchanges) / elapsed.Seconds()
	if n := len(r.latencies); n > 0 {
		slices.Sort(r.latencies)
		at := func(percent int) time.Duration { return r.latencies[min(n*percent/100, n-1)] }
		out.P50, out.P90, out.P99, out.Max = at(50), at(90), at(99), r.latencies[n-1]
	}
	return out
}

// String is one line for people.
func (r Result) String() string {
	return fmt.Sprintf("%.0f exchanges/s (%d in %s), p50 %s p90 %s p99 %s max %s, %d retries, %d NAKs, %d addresses twice",
		r.PerSecond, r.Exchanges, r.Elapsed.Round(time.Millisecond), r.P50.Round(time.Microsecond), r.P90.Round(time.Microsecond),
		r.P99.Round(time.Microsecond), r.Max.Round(time.Microsecond), r.Retries, r.Naks, r.Twice)
}
