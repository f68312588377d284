package nettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Dial opens a connection from the node. The address must be numeric.
func (n *Node) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, to.String())
		return err
	})
	return c, err
}

// Refusal is an ICMP error that came back for an attempt to connect.
type Refusal struct {
	From       netip.Addr
	Type, Code uint8
	Errno      syscall.Errno // what connect said
	After      time.Duration // from the attempt to the ICMP error
}

// AdminProhibited tells whether somebody said that policy forbids this: ICMP type 3 code 13 (RFC
// 1812, 5.2.7.1) or ICMPv6 type 1 code 1 (RFC 4443, 3.1). Code 10 (host prohibited) is not it.
func (r Refusal) AdminProhibited() bool {
	if r.From.Is4() {
		return r.Type == 3 && r.Code == 13
	}
	return r.Type == 1 && r.Code == 1
}

func (r Refusal) String() string {
	name := fmt.Sprintf("ICMP type %d code %d", r.Type, r.Code)
	if !r.From.Is4() {
		name = fmt.Sprintf("ICMPv6 type %d code %d", r.Type, r.Code)
	}
	if r.AdminProhibited() {
		name += " (administratively prohibited)"
	}
	return fmt.Sprintf("%s from %s after %d ms, connect says %q", name, r.From, r.After.Milliseconds(), r.Errno.Error())
}

// Refused tries to open a TCP connection from the node and returns the ICMP error that came back.
// An attempt that succeeds, is reset or is met with silence until the context ends is an error.
func (n *Node) Refused(ctx context.Context, to netip.AddrPort) (Refusal, error) {
	network := "ip4:icmp"
	if to.Addr().Is6() {
		network = "ip6:ipv6-icmp"
	}
	var icmp net.PacketConn
	err := n.Do(func() (err error) {
		icmp, err = (&net.ListenConfig{}).ListenPacket(ctx, network, "")
		return err
	})
	if err != nil {
		return Refusal{}, fmt.Errorf("listen for ICMP: %w", err)
	}
	defer icmp.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(runLimit)
	}
	if err := icmp.SetReadDeadline(deadline); err != nil {
		return Refusal{}, err
	}
	// The two are awaited side by side: what comes back while connect() still holds the socket is
	// told to the program only with the next attempt, a second later.
	type answer struct {
		Refusal
		err error
	}
	start := time.Now()
	came := make(chan answer, 1)
	go func() {
		r, err := readRefusal(icmp, to)
		r.After = time.Since(start)
		came <- answer{r, err}
	}()
	dialCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	c, dialed := n.Dial(dialCtx, "tcp", to)
	if dialed == nil {
		c.Close()
		return Refusal{}, fmt.Errorf("%s connected to %s, which should have been refused", n.Name, to)
	}
	var errno syscall.Errno
	if !errors.As(dialed, &errno) || errno == syscall.ECONNREFUSED {
		return Refusal{}, fmt.Errorf("%s was not refused by ICMP: %w", n.Name, dialed)
	}
	r := <-came
	if errors.Is(r.err, os.ErrDeadlineExceeded) {
		return Refusal{}, fmt.Errorf("%s saw no ICMP error for %s: %w", n.Name, to, dialed)
	}
	r.Errno = errno
	return r.Refusal, r.err
}

// readRefusal reads messages until one is an error about our TCP packet to the address: behind the
// eight bytes of ICMP the packet that caused it is quoted, from its IP header on.
func readRefusal(icmp net.PacketConn, to netip.AddrPort) (Refusal, error) {
	buf := make([]byte, 2048)
	for {
		size, from, err := icmp.ReadFrom(buf)
		if err != nil {
			return Refusal{}, err
		}
		if size < 8 {
			continue
		}
		quoted, kind := buf[8:size], buf[0]
		var header, at int // length of the quoted IP header, place of its destination
		switch {
		case to.Addr().Is4() && kind == 3 && len(quoted) >= 20:
			header, at = int(quoted[0]&0xf)*4, 16
		case to.Addr().Is6() && kind == 1 && len(quoted) >= 40:
			header, at = 40, 24
		default:
			continue
		}
		width := to.Addr().BitLen() / 8
		if len(quoted) < header+4 || to.Addr() != addrFrom(quoted[at:at+width]) {
			continue
		}
		if int(quoted[header+2])<<8|int(quoted[header+3]) != int(to.Port()) {
			continue
		}
		ip, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		sender, _ := netip.AddrFromSlice(ip.IP)
		return Refusal{From: sender.Unmap(), Type: kind, Code: buf[1]}, nil
	}
}

func addrFrom(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
