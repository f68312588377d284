package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

const (
	guestOfDoors = "10.80.0.200"
	inRange      = 45000
	streamPort   = 9
)

// doorScene is a host between a machine on the LAN and a guest that takes every connection.
type doorScene struct {
	host       *Host
	lan, guest *nettest.Node
	listeners  []net.Listener
	streams    net.Listener
}

// newDoorScene is one with ours, with n forwards.
func newDoorScene(ctx context.Context, b *Bench, name string, n int) (*doorScene, error) {
	h, err := newOurs(ctx, b, name)
	if err != nil {
		return nil, err
	}
	s := &doorScene{host: h}
	if err = s.apply(ctx, n, new(Series)); err == nil {
		err = s.people(ctx)
	}
	return s, err
}

// newChainScene is one with a rule for each of n ports.
func newChainScene(ctx context.Context, b *Bench, name string, n int) (*doorScene, error) {
	s := &doorScene{host: &Host{}}
	var err error
	if s.host.node, err = nettest.NewNode(ctx, name, ""); err != nil {
		return s, err
	}
	err = s.host.node.IP(ctx, "link set lo up", "link add enp6s18 type veth peer name lan0", "addr add 192.168.99.66/24 dev enp6s18",
		"link set lan0 up", "link set enp6s18 up", "link add virbr0 type bridge forward_delay 0", "addr add 10.80.0.1/16 dev virbr0", "link set virbr0 up")
	if err == nil {
		_, err = s.host.node.Run(ctx, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	}
	if err == nil {
		err = s.refill(ctx, n, new(Series))
	}
	if err == nil {
		err = s.people(ctx)
	}
	return s, err
}

// people are the guest and the machine on the LAN.
func (s *doorScene) people(ctx context.Context) (err error) {
	h := s.host
	if s.lan, err = nettest.NewNode(ctx, "lan-"+h.node.Name, ""); err != nil {
		return err
	}
	if err := errors.Join(
		h.node.IP(ctx, fmt.Sprintf("link set lan0 netns %d", s.lan.PID())),
		s.lan.IP(ctx, "link set lan0 up", "addr add 192.168.99.1/24 dev lan0")); err != nil {
		return err
	}
	if s.guest, err = newGuest(ctx, h, "virbr0", guestOfDoors+"/16", "10.80.0.1"); err != nil {
		return err
	}
	err = s.guest.Do(func() error {
		for _, port := range []int{80, inRange, streamPort} {
			l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			if port == streamPort {
				s.streams = l
				continue
			}
			s.listeners = append(s.listeners, l)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, l := range s.listeners {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return // closed
				}
				c.Close()
			}
		}()
	}
	return s.wait(ctx)
}

// wait waits until the way is known: neighbours resolved, ports forwarding.
func (s *doorScene) wait(ctx context.Context) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := s.guest.Do(func() error {
			c, err := net.DialTimeout("tcp4", "10.80.0.1:1", time.Second)
			if err == nil {
				c.Close()
			}
			if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EACCES) {
				return nil
			}
			return err
		})
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the guest does not reach its host: %w", err)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func (s *doorScene) Close() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.Close())
	}
	if s.streams != nil {
		errs = append(errs, s.streams.Close())
	}
	for _, n := range []*nettest.Node{s.guest, s.lan} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(append(errs, s.host.Close())...)
}

// apply makes the host have n forwards, and one of the stream's port.
func (s *doorScene) apply(ctx context.Context, n int, took *Series) error {
	var b strings.Builder
	b.WriteString("networks:\n- name: lab\n  mode: nat\n  bridge: virbr0\n  subnets: [10.80.0.0/16]\n  forwards:\n")
	fmt.Fprintf(&b, "  - {listen: %d, guest: %s}\n", streamPort, guestOfDoors)
	for i := range n {
		fmt.Fprintf(&b, "  - listen: %d\n    guest: %s:80\n", firstPort+i, guestOfDoors)
	}
	d, err := s.host.feed(ctx, b.String(), "apply", "-f", "-")
	took.Took(d)
	return err
}

// refill makes a chain with a rule for each of n ports, in place of what it was.
func (s *doorScene) refill(ctx context.Context, n int, took *Series) error {
	var b strings.Builder
	b.WriteString("add table ip linear\nadd chain ip linear doors { type nat hook prerouting priority -100; }\nflush chain ip linear doors\n")
	for i := range n {
		fmt.Fprintf(&b, "add rule ip linear doors tcp dport %d dnat to %s:80\n", firstPort+i, guestOfDoors)
	}
	cmd := s.host.node.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(b.String())
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("fill a chain: %w: %s", err, out)
	}
	took.Took(time.Since(began))
	return nil
}

var lanAddrOfHost = [4]byte{192, 168, 99, 66}

// connects opens n connections from the LAN, and returns the median of the times in
// microseconds.
func (s *doorScene) connects(n int, port func() int) (float64, error) {
	var each Series
	err := s.lan.Do(func() error {
		for range n {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			// Closed by a reset: no port waits for a minute.
			err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			to := &unix.SockaddrInet4{Port: port(), Addr: lanAddrOfHost}
			began := time.Now()
			if err == nil {
				err = unix.Connect(fd, to)
			}
			took := time.Since(began)
			unix.Close(fd)
			if err != nil {
				return fmt.Errorf("connect to port %d: %w", to.Port, err)
			}
			each.Took(took)
		}
		return nil
	})
	return each.Median() * 1000, err
}

// stream is a connection over which numbered words run.
type stream struct {
	client, server net.Conn
	sent           chan uint64
	got            chan received
	stop           chan struct{}
}

type received struct {
	words uint64
	err   error
}

// streamed is what became of a stream.
type streamed struct {
	received, missing uint64
	again             uint32
}

// chunk is written at once, with a pause between: some 20 MB a second, so that the cores are left to
// what is measured.
const (
	chunk      = 64 << 10
	chunkPause = 3 * time.Millisecond
)

func (s *doorScene) startStream() (*stream, error) {
	st := &stream{sent: make(chan uint64, 1), got: make(chan received, 1), stop: make(chan struct{})}
	err := s.lan.Do(func() (err error) {
		st.client, err = net.DialTimeout("tcp4", fmt.Sprintf("192.168.99.66:%d", streamPort), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	if st.server, err = s.streams.Accept(); err != nil {
		return nil, err
	}
	go st.send()
	go st.receive()
	return st, nil
}

func (st *stream) send() {
	var next uint64
	b := make([]byte, chunk)
	for {
		for i := 0; i < len(b); i += 8 {
			binary.BigEndian.PutUint64(b[i:], next)
			next++
		}
		if _, err := st.client.Write(b); err != nil {
			break // the receiver misses it
		}
		select {
		case <-st.stop:
			st.sent <- next
			return
		case <-time.After(chunkPause):
		}
	}
	st.sent <- next
}

func (st *stream) receive() {
	var r received
	b := make([]byte, chunk)
	for {
		if _, err := io.ReadFull(st.server, b); err != nil {
			if !errors.Is(err, io.EOF) {
				r.err = err
			}
			break
		}
		for i := 0; i < len(b); i += 8 {
			if got := binary.BigEndian.Uint64(b[i:]); got != r.words {
				r.err = fmt.Errorf("word %d came as %d", r.words, got)
			}
			r.words++
		}
	}
	st.got <- r
}

// end ends the stream and says what came through.
func (st *stream) end() (streamed, error) {
	var out streamed
	close(st.stop)
	sent := <-st.sent
	raw, err := st.client.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				out.again = info.Total_retrans
			}
		})
	}
	err = errors.Join(err, st.client.(*net.TCPConn).CloseWrite())
	got := <-st.got
	out.received, out.missing = got.words*8, (sent-got.words)*8
	return out, errors.Join(err, got.err, st.client.Close(), st.server.Close())
}
