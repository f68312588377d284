package linux

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/diagnose"
)

// probeID is the identifier of a ping that is a probe, probeText what a probe
// carries.
const (
	probeID   = 0xdb1d
	probeText = "drawbridge why --probe"
)

// probeLinks is a pair of links that is there for the time of one probe.
const probeLinkA, probeLinkB = "dbprobe0", "dbprobe1"

// Probe sends one packet as it was described, and follows it by nftables'
// tracing: one that the host sends itself, or (p.In is a link) one that seems to
// come in there, from a guest or the wire. frame is the port of a bridge that it
// comes in at, where that is not p.In. What is needed for it is gone afterwards,
// also if this process dies meanwhile, but for the connection that is tracked until
// it times out.
func (h *Host) Probe(ctx context.Context, p diagnose.Packet, port, toMAC string) ([]diagnose.TraceStep, error) {
	t, err := newTracer(p)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if port == "" {
		err = sendRaw(p)
	} else {
		err = h.inject(p, port, toMAC)
	}
	if err != nil {
		return nil, fmt.Errorf("send a probe: %w", err)
	}
	return t.follow(ctx)
}

// sendRaw sends a packet of the host's own with the header that is described.
func sendRaw(p diagnose.Packet) error {
	domain, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{})
	if p.Target.Is6() {
		domain, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: p.Target.As16()}
	} else {
		to = &unix.SockaddrInet4{Addr: p.Target.As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, ipPacket(p), 0, to)
}

// inject makes a packet come in at a link: it is sent into a cable of which the
// other end hands all to that link, as received there.
func (h *Host) inject(p diagnose.Packet, port, toMAC string) error {
	l, err := h.rtnl.linkBy(0, port)
	if err != nil {
		return err
	}
	if err := h.makeProbeLinks(); err != nil {
		return err
	}
	defer h.dropProbeLinks()
	a, err := h.rtnl.linkBy(0, probeLinkA)
	if err != nil {
		return err
	}
	b, err := h.rtnl.linkBy(0, probeLinkB)
	if err != nil {
		return err
	}
	end, err := divert(b.index, tcxIngress, detourProgram(l.index, intoIngress))
	if err != nil {
		return fmt.Errorf("it needs Linux 6.6: %w", err)
	}
	defer end()
	destination := toMAC
	if destination == "" {
		destination = l.MAC
	}
	to, err := net.ParseMAC(destination)
	if err != nil {
		return fmt.Errorf("the hardware address of the next hop is not known")
	}
	from, err := net.ParseMAC(p.EtherSource)
	if err != nil {
		// Nobody's: locally administered.
		from = net.HardwareAddr{2, 0xdb, 0, 0, 0, 1}
	}
	kind := []byte{8, 0}
	if p.Source.Is6() {
		kind = []byte{0x86, 0xdd}
	}
	frame := append(append(append(append([]byte{}, to...), from...), kind...), ipPacket(p)...)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(kind), Ifindex: a.index, Halen: 6})
}

// makeProbeLinks makes the cable, in place of one that a probe left which was
// killed.
func (h *Host) makeProbeLinks() error {
	h.dropProbeLinks()
	attrs := func(name string) attributes {
		return func(ae *netlink.AttributeEncoder) { ae.String(unix.IFLA_IFNAME, name) }
	}
	_, err := h.rtnl.do(unix.RTM_NEWLINK, flagCreate, linkHeader(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		attrs(probeLinkA)(ae)
		nest(ae, unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.IFLA_INFO_KIND, "veth")
			nest(ae, unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) {
				peer := netlink.NewAttributeEncoder()
				attrs(probeLinkB)(peer)
				b, err := peer.Encode()
				if err == nil {
					ae.Bytes(1|unix.NLA_F_NESTED /* VETH_INFO_PEER */, append(linkHeader(0, 0, 0), b...))
				}
			})
		})
	})
	if err != nil {
		return fmt.Errorf("make a cable for the probe: %w", err)
	}
	for _, name := range []string{probeLinkA, probeLinkB} {
		l, err := h.rtnl.linkBy(0, name)
		if err != nil {
			return err
		}
		if _, err := h.rtnl.do(unix.RTM_NEWLINK, flagChange, linkHeader(l.index, unix.IFF_UP, unix.IFF_UP), nil); err != nil {
			return fmt.Errorf("raise the cable of the probe: %w", err)
		}
	}
	return nil
}

func (h *Host) dropProbeLinks() {
	l, err := h.rtnl.linkBy(0, probeLinkA)
	if err != nil || l.Name != probeLinkA {
		return
	}
	if _, err := h.rtnl.do(unix.RTM_DELLINK, flagChange, linkHeader(l.index, 0, 0), nil); err != nil {
		h.log.Warn("the cable of a probe is left", "link", probeLinkA, "err", err)
	}
}

// ipPacket writes a packet that is described: header, transport and a text.
func ipPacket(p diagnose.Packet) []byte {
	var l4 []byte
	sum := 0
	switch p.Protocol {
	case unix.IPPROTO_TCP:
		l4 = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.SourcePort), p.TargetPort)
		l4 = append(l4, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, p.TCPFlags, 0xff, 0xff, 0, 0, 0, 0)
		sum = 16
	case unix.IPPROTO_UDP:
		l4 = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.SourcePort), p.TargetPort)
		l4 = append(binary.BigEndian.AppendUint16(l4, uint16(8+len(probeText))), 0, 0)
		l4 = append(l4, probeText...)
		sum = 6
	default:
		l4 = append(binary.BigEndian.AppendUint16([]byte{p.ICMPType, 0, 0, 0}, probeID), 0, 1)
		l4 = append(l4, probeText...)
		sum = 2
	}
	pseudo := append(append([]byte{}, p.Source.AsSlice()...), p.Target.AsSlice()...)
	pseudo = append(pseudo, 0, p.Protocol, byte(len(l4)>>8), byte(len(l4)))
	if p.Protocol == unix.IPPROTO_ICMP {
		pseudo = nil
	}
	binary.BigEndian.PutUint16(l4[sum:], internetSum(append(pseudo, l4...)))
	if p.Source.Is6() {
		ip := append([]byte{0x60, 0, 0, 0, byte(len(l4) >> 8), byte(len(l4)), p.Protocol, 64}, p.Source.AsSlice()...)
		return append(append(ip, p.Target.AsSlice()...), l4...)
	}
	length := 20 + len(l4)
	ip := append([]byte{0x45, 0, byte(length >> 8), byte(length), 0xdb, 0x1d, 0x40, 0, 64, p.Protocol, 0, 0}, p.Source.AsSlice()...)
	ip = append(ip, p.Target.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], internetSum(ip))
	return append(ip, l4...)
}

// internetSum is the checksum of RFC 1071.
func internetSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
