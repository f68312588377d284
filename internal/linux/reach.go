package linux

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// This file gathers the evidence that a host is reached and reaches others. What
// follows from it is decided elsewhere.

// Operator finds the TCP connections by which a process is reached from another
// machine: those that the nearest of its ancestors accepted, sshd's say. If there
// are several, the one that SSH_CONNECTION names in the environment of one of
// them (ssh(1)) is it. Where no ancestor holds one, as below tmux, a connection of
// that name counts if the kernel still knows it. None found is no error.
//
// Connections that this host opened itself do not count, as nobody knows who is
// at their other end; nor do those within the host, which prove nothing.
func (h *Host) Operator(ctx context.Context, pid int) ([]host.Connection, error) {
	local, err := h.LocalAddrs(ctx)
	if err != nil {
		return nil, err
	}
	all, listening, err := connections()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s tcpSocket) bool {
		from := s.Remote.Addr()
		return from.IsLoopback() || from == s.Local.Addr() || local[from]
	})
	line := ancestors(pid)
	named, isNamed := sshConnection(line)
	var hinted []host.Connection
	for _, s := range all {
		if isNamed && s.Local == named.Local && s.Remote == named.Remote {
			hinted = append(hinted, s.Connection)
		}
	}
	for _, process := range line {
		inodes := socketsOf(process)
		var theirs []host.Connection
		for _, s := range all {
			if inodes[s.inode] && listening[s.Local.Port()] {
				theirs = append(theirs, s.Connection)
			}
		}
		if len(theirs) == 0 {
			continue
		}
		if i := slices.IndexFunc(theirs, func(c host.Connection) bool { return slices.Contains(hinted, c) }); i >= 0 {
			return theirs[i : i+1], nil
		}
		return theirs, nil
	}
	return hinted, nil
}

// tcpSocket is an entry of the kernel's list of TCP sockets.
type tcpSocket struct {
	host.Connection
	inode uint32
}

// Numbers of linux/inet_diag.h, net/tcp_states.h and linux/tcp.h.
const (
	tcpEstablished = 1
	tcpCloseWait   = 8 // the other end has no more to say, and still listens
	inetDiagInfo   = 2 // INET_DIAG_INFO: struct tcp_info
	// bytesAckedAt is where tcpi_bytes_acked is in struct tcp_info (since 4.1).
	bytesAckedAt = 120
	cookieAt     = 44
)

// connections lists the TCP connections of this network namespace, and the ports
// that somebody listens on.
func connections() (open []tcpSocket, listening map[uint16]bool, err error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("list connections: %w", err)
	}
	defer conn.Close()
	listening = map[uint16]bool{}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		req := make([]byte, inetDiagReqSize)
		req[0], req[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(req[4:], 1<<tcpEstablished|1<<tcpCloseWait|1<<tcpListen)
		msgs, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: req,
		})
		if errors.Is(err, unix.ENOENT) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list connections: %w", err)
		}
		for _, m := range msgs {
			s, state, ok := parseTCP(m.Data)
			switch {
			case !ok:
			case state == tcpListen:
				listening[s.Local.Port()] = true
			default:
				open = append(open, s)
			}
		}
	}
	return open, listening, nil
}

// parseTCP reads struct inet_diag_msg.
func parseTCP(b []byte) (s tcpSocket, state byte, ok bool) {
	if len(b) < inetDiagMsgSize {
		return s, 0, false
	}
	addr := func(at int) netip.Addr {
		if b[0] == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[at : at+4]))
		}
		return netip.AddrFrom16([16]byte(b[at : at+16])).Unmap()
	}
	s.Local = netip.AddrPortFrom(addr(8), binary.BigEndian.Uint16(b[4:]))
	s.Remote = netip.AddrPortFrom(addr(24), binary.BigEndian.Uint16(b[6:]))
	s.Cookie = binary.NativeEndian.Uint64(b[cookieAt:])
	s.inode = binary.NativeEndian.Uint32(b[68:])
	return s, b[1], true
}

// Traffic says what went over a connection; fs.ErrNotExist if it is closed.
func (h *Host) Traffic(_ context.Context, c host.Connection) (host.Traffic, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return host.Traffic{}, fmt.Errorf("look at connection %s: %w", c, err)
	}
	defer conn.Close()
	req := make([]byte, inetDiagReqSize)
	req[0], req[1], req[2] = unix.AF_INET6, unix.IPPROTO_TCP, 1<<(inetDiagInfo-1)
	if c.Local.Addr().Is4() {
		req[0] = unix.AF_INET
	}
	// struct inet_diag_sockid
	binary.BigEndian.PutUint16(req[8:], c.Local.Port())
	binary.BigEndian.PutUint16(req[10:], c.Remote.Port())
	copy(req[12:28], c.Local.Addr().AsSlice())
	copy(req[28:44], c.Remote.Addr().AsSlice())
	binary.NativeEndian.PutUint64(req[48:], c.Cookie)
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request}, Data: req,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
		return host.Traffic{}, fmt.Errorf("connection %s is closed: %w", c, fs.ErrNotExist)
	}
	if err != nil || len(msgs) != 1 {
		return host.Traffic{}, fmt.Errorf("look at connection %s: %d answers: %w", c, len(msgs), err)
	}
	b := msgs[0].Data
	_, state, ok := parseTCP(b)
	if !ok || state != tcpEstablished && state != tcpCloseWait {
		return host.Traffic{}, fmt.Errorf("connection %s is closed: %w", c, fs.ErrNotExist)
	}
	info, ok := find(b[inetDiagMsgSize:], inetDiagInfo)
	if !ok || len(info.data) < bytesAckedAt+8 {
		return host.Traffic{}, fmt.Errorf("look at connection %s: the kernel does not count what is acknowledged (Linux 4.1)", c)
	}
	acked := binary.NativeEndian.Uint64(info.data[bytesAckedAt:])
	// idiag_wqueue is what was written and is not acknowledged (tcp_diag_get_info).
	return host.Traffic{Acked: acked, Written: acked + uint64(binary.NativeEndian.Uint32(b[60:]))}, nil
}

// maxAncestors bounds how far up a line of processes is followed.
const maxAncestors = 32

// ancestors lists a process and those that started it, nearest first, without
// process 1.
func ancestors(pid int) []int {
	var line []int
	for pid > 1 && len(line) < maxAncestors {
		line = append(line, pid)
		pid = parentOf(pid)
	}
	return line
}

// socketsOf lists the inodes of the sockets that a process holds.
func socketsOf(pid int) map[uint32]bool {
	inodes := map[uint32]bool{}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	fds, _ := os.ReadDir(dir) // it may have ended
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if n, isSocket := strings.CutPrefix(target, "socket:["); err == nil && isSocket {
			if n, err := strconv.ParseUint(strings.TrimSuffix(n, "]"), 10, 32); err == nil {
				inodes[uint32(n)] = true
			}
		}
	}
	return inodes
}

// sshConnection reads SSH_CONNECTION, "client port server port", from the first
// process of a line that was started with it. sudo takes it away from those that
// it starts.
func sshConnection(line []int) (c host.Connection, ok bool) {
	for _, pid := range line {
		environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		if err != nil {
			continue
		}
		for v := range bytes.SplitSeq(environ, []byte{0}) {
			if value, is := bytes.CutPrefix(v, []byte("SSH_CONNECTION=")); is {
				return parseSSHConnection(string(value))
			}
		}
	}
	return c, false
}

func parseSSHConnection(s string) (c host.Connection, ok bool) {
	f := strings.Fields(s)
	if len(f) != 4 {
		return c, false
	}
	var err1, err2 error
	c.Remote, err1 = netip.ParseAddrPort(net.JoinHostPort(f[0], f[1]))
	c.Local, err2 = netip.ParseAddrPort(net.JoinHostPort(f[2], f[3]))
	unmap := func(a netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	}
	c.Remote, c.Local = unmap(c.Remote), unmap(c.Local)
	return c, err1 == nil && err2 == nil
}

// maxPeers bounds how many gateways, and how many resolvers, are asked.
const maxPeers = 4

// Peers lists the gateways of the host's default routes and the servers that its
// resolver asks (resolv.conf(5); behind systemd-resolved those that it asks).
func (h *Host) Peers(ctx context.Context) ([]host.Peer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	hops, err := h.defaultHops()
	if err != nil {
		return nil, err
	}
	var peers []host.Peer
	for _, hop := range hops {
		if p := (host.Peer{Role: host.RoleGateway, Addr: hop.gateway}); !slices.Contains(peers, p) && len(peers) < maxPeers {
			peers = append(peers, p)
		}
	}
	most := len(peers) + maxPeers
	for _, file := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		for _, a := range nameservers(file) {
			if p := (host.Peer{Role: host.RoleResolver, Addr: a}); !slices.Contains(peers, p) && len(peers) < most {
				peers = append(peers, p)
			}
		}
	}
	return peers, nil
}

// nameservers reads those of a file that are other machines: a resolver of the
// host's own answers from memory what proves nothing.
func nameservers(file string) []netip.Addr {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var servers []netip.Addr
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil && !a.IsLoopback() && !a.IsUnspecified() {
			servers = append(servers, a.Unmap())
		}
	}
	return servers
}

// hop is where a default route leads.
type hop struct {
	gateway netip.Addr
	link    string
}

func (h *Host) defaultHops() ([]hop, error) {
	seen := host.State{}
	names, err := h.allLinks(seen)
	if err == nil {
		err = h.allRoutes(seen, names)
	}
	if err != nil {
		return nil, fmt.Errorf("look for gateways: %w", err)
	}
	var hops []hop
	for _, k := range seen.Keys() {
		r, ok := seen[k].(host.Route)
		if !ok || r.Dst.Bits() != 0 || r.Type != unix.RTN_UNICAST {
			continue
		}
		if r.Gateway.IsValid() && r.Link != "" {
			hops = append(hops, hop{r.Gateway, r.Link})
		}
		for one := range strings.SplitSeq(r.Hops, "; ") {
			f := strings.Fields(one)
			if len(f) < 4 || f[0] != "via" || f[2] != "dev" {
				continue
			}
			if a, err := netip.ParseAddr(f[1]); err == nil {
				hops = append(hops, hop{a, f[3]})
			}
		}
	}
	return hops, nil
}

// Answers asks a peer, again and again until ctx ends, and says why if it does
// not answer: a gateway by ARP or neighbour discovery on the link that its route
// has now, a resolver by DNS.
func (h *Host) Answers(ctx context.Context, p host.Peer) error {
	if p.Role == host.RoleResolver {
		return askResolver(ctx, p.Addr)
	}
	hops, err := h.defaultHops()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(hops, func(hop hop) bool { return hop.gateway == p.Addr })
	if i < 0 {
		return fmt.Errorf("no default route leads to %s any more", p.Addr)
	}
	link := hops[i].link
	nic, err := net.InterfaceByName(link)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", p.Addr, err)
	}
	if len(nic.HardwareAddr) != ethernetLength {
		return nil // a tunnel: nobody there can be asked
	}
	if p.Addr.Is4() {
		return h.askARP(ctx, nic, p.Addr)
	}
	return askND(ctx, nic, p.Addr)
}

const (
	ethernetLength = 6
	// askPause is after how long a question is sent again.
	askPause = 200 * time.Millisecond
)

// askARP is RFC 826.
func (h *Host) askARP(ctx context.Context, nic *net.Interface, target netip.Addr) error {
	from := [4]byte{} // unknown: a probe (RFC 5227)
	err := h.rtnl.addresses(nic.Index, func(a host.Address, _ int) {
		if a.Addr.Addr().Is4() && (from == [4]byte{} || a.Addr.Contains(target)) {
			from = a.Addr.Addr().As4()
		}
	})
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", target, err)
	}
	defer unix.Close(fd)
	everybody := &unix.SockaddrLinklayer{
		Protocol: bigEndian16(unix.ETH_P_ARP), Ifindex: nic.Index, Halen: ethernetLength, Addr: [8]byte{255, 255, 255, 255, 255, 255},
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ARP), Ifindex: nic.Index}); err != nil {
		return fmt.Errorf("ask for %s on %s: %w", target, nic.Name, err)
	}
	// Ethernet, IPv4, lengths, request.
	question := append([]byte{0, 1, 8, 0, ethernetLength, 4, 0, 1}, nic.HardwareAddr...)
	question = append(append(question, from[:]...), make([]byte, ethernetLength)...)
	question = append(question, target.AsSlice()...)
	want := target.As4()
	return converse(ctx, fd, target.String()+" on "+nic.Name, func() error { return unix.Sendto(fd, question, 0, everybody) },
		func(b []byte) bool { return len(b) >= 28 && b[7] == 2 && bytes.Equal(b[14:18], want[:]) })
}

// askND is RFC 4861, 4.3 and 4.4.
func askND(ctx context.Context, nic *net.Interface, target netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", target, err)
	}
	defer unix.Close(fd)
	const solicitation, advertisement = 135, 136
	err = errors.Join(
		unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, onlyICMPv6(advertisement)),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.BindToDevice(fd, nic.Name),
	)
	if err != nil {
		return fmt.Errorf("ask for %s on %s: %w", target, nic.Name, err)
	}
	a := target.As16()
	question := append([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0}, a[:]...) // the kernel puts in the checksum
	question = append(append(question, 1, 1), nic.HardwareAddr...)         // our own address
	asked := &unix.SockaddrInet6{ZoneId: uint32(nic.Index), Addr: [16]byte{0xff, 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}}
	return converse(ctx, fd, target.String()+" on "+nic.Name, func() error { return unix.Sendto(fd, question, 0, asked) },
		func(b []byte) bool { return len(b) >= 24 && b[0] == advertisement && bytes.Equal(b[8:24], a[:]) })
}

// converse sends until an answer is right or ctx ends.
func converse(ctx context.Context, fd int, whom string, send func() error, right func([]byte) bool) error {
	buffer := make([]byte, 2048)
	for {
		last := send()
		for next := time.Now().Add(askPause); time.Until(next) > 0; {
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(next)/time.Millisecond)+1)
			if errors.Is(err, unix.EINTR) || ready == 0 {
				continue
			}
			if err != nil {
				return fmt.Errorf("ask for %s: %w", whom, err)
			}
			n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
			if err == nil && right(buffer[:n]) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("no answer from %s", whom), last)
		}
	}
}

// askResolver asks for the root's name servers (RFC 1035, 4.1): every answer
// counts, whatever it says.
func askResolver(ctx context.Context, server netip.Addr) error {
	var id [2]byte
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails since Go 1.24
	question := []byte{id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(server, 53).String())
	if err != nil {
		return fmt.Errorf("ask resolver %s: %w", server, err)
	}
	defer conn.Close()
	answer := make([]byte, 4096)
	var last error
	for ctx.Err() == nil {
		_, last = conn.Write(question)
		_ = conn.SetReadDeadline(time.Now().Add(askPause)) // fails only on a closed connection
		n, err := conn.Read(answer)
		switch {
		case err == nil && n >= 12 && answer[0] == id[0] && answer[1] == id[1] && answer[2]&0x80 != 0:
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			// Refused, say: nobody is there who could answer later.
			return fmt.Errorf("ask resolver %s: %w", server, err)
		}
	}
	return errors.Join(fmt.Errorf("no answer from resolver %s", server), last)
}
