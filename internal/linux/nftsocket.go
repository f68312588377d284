package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftSocket speaks nfnetlink (linux/netfilter/nfnetlink.h) with the kernel's
// nf_tables. Reading is done here and not by github.com/google/nftables,
// because that library leaves out, without a word, every expression it does not
// know: a rule that somebody changed could look unchanged.
type nftSocket struct {
	raw  *askSocket
	conn *netlink.Conn
	// last is the generation that was seen last, and others how often there was
	// one that this socket did not make.
	last, others uint32
}

// nftMessage is one message of a transaction and what it is for, so that an
// error can say which step the kernel refused.
type nftMessage struct {
	kind   uint16
	family byte
	flags  netlink.HeaderFlags
	attrs  []byte
	about  string
}

// nftError is what the kernel says about one message of a transaction.
type nftError struct {
	About string
	Errno error
}

func (e *nftError) Error() string { return fmt.Sprintf("nftables: %s: %v", e.About, e.Errno) }

func (e *nftError) Unwrap() error { return e.Errno }

// isGone says whether err means that what was named is not there.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func dialNFT() (*nftSocket, error) {
	// No copy of what is refused in the answer: it may be 64 KiB of elements.
	// (Explanations, NETLINK_EXT_ACK, cannot be had at the same time: the library
	// does not find them in capped answers, and nf_tables hardly gives any.)
	sock, port, err := openAsk(unix.NETLINK_NETFILTER, unix.NETLINK_CAP_ACK)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	return &nftSocket{raw: sock, conn: netlink.NewConn(sock, port)}, nil
}

func (s *nftSocket) close() error { return s.conn.Close() }

// port is the socket's netlink port, by which the kernel marks our own changes.
func (s *nftSocket) port() uint32 { return s.conn.PID() }

// get asks for one thing, or with netlink.Dump in flags for all of a kind. The
// answers are the messages' attributes, with the family in front.
func (s *nftSocket) get(kind uint16, family byte, flags netlink.HeaderFlags, attrs []byte) ([]nftReply, error) {
	msgs, err := s.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: nftType(kind), Flags: netlink.Request | flags},
		Data:   append(nfgenmsg(family, 0), attrs...),
	})
	if err != nil {
		return nil, err
	}
	replies := make([]nftReply, 0, len(msgs))
	for _, m := range msgs {
		if len(m.Data) >= 4 && uint16(m.Header.Type)>>8 == unix.NFNL_SUBSYS_NFTABLES {
			replies = append(replies, nftReply{family: m.Data[0], attrs: m.Data[4:]})
		}
	}
	return replies, nil
}

type nftReply struct {
	family byte
	attrs  []byte
}

// generation is the number of the last transaction in this network namespace.
func (s *nftSocket) generation() (uint32, error) {
	replies, err := s.get(unix.NFT_MSG_GETGEN, 0, 0, nil)
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	for _, r := range replies {
		for a := range nftAttrs(r.attrs) {
			if a.kind == unix.NFTA_GEN_ID {
				return a.u32(), nil
			}
		}
	}
	return 0, errors.New("read nftables generation: no answer")
}

// byOthers counts the changes that others made, as far as they can be told apart
// from ours: two of theirs between two looks are one.
func (s *nftSocket) byOthers() (uint32, error) {
	now, err := s.generation()
	if err == nil && now != s.last {
		s.others++
		s.last = now
	}
	return s.others, err
}

// transact carries out the messages as one transaction: all of them or none.
func (s *nftSocket) transact(msgs []nftMessage) error {
	if len(msgs) == 0 {
		return nil
	}
	if _, err := s.byOthers(); err != nil {
		return err
	}
	err := s.send(msgs)
	// One step further is what we did; if we were refused, it is what others did.
	if now, genErr := s.generation(); err == nil && genErr == nil && now == s.last+1 {
		s.last = now
	}
	return err
}

func (s *nftSocket) send(msgs []nftMessage) error {
	edge := nfgenmsg(0, unix.NFNL_SUBSYS_NFTABLES)
	batch := make([]netlink.Message, 0, len(msgs)+2)
	size := 64
	batch = append(batch, netlink.Message{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: edge})
	for i, m := range msgs {
		flags := netlink.Request | m.flags
		if i == len(msgs)-1 {
			// One acknowledgement, of the last: by then the kernel has spoken
			// about all the others.
			flags |= netlink.Acknowledge
		}
		data := append(nfgenmsg(m.family, 0), m.attrs...)
		size += len(data) + unix.NLMSG_HDRLEN + unix.NLMSG_ALIGNTO
		batch = append(batch, netlink.Message{Header: netlink.Header{Type: nftType(m.kind), Flags: flags}, Data: data})
	}
	batch = append(batch, netlink.Message{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: edge})
	if err := s.roomFor(size); err != nil {
		return err
	}
	sent, err := s.conn.SendMessages(batch)
	if err != nil {
		return fmt.Errorf("send nftables transaction: %w", err)
	}
	return s.verdict(sent, msgs)
}

// roomFor makes the send buffer large enough for a batch, which the kernel
// takes as one datagram or not at all (netlink_sendmsg, EMSGSIZE).
func (s *nftSocket) roomFor(size int) error {
	have, err := unix.GetsockoptInt(s.raw.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return fmt.Errorf("read netlink send buffer: %w", err)
	}
	if have >= size {
		return nil
	}
	// Beyond net.core.wmem_max for who may, as far as that for others.
	err = unix.SetsockoptInt(s.raw.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size)
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(s.raw.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}
	if err != nil {
		return fmt.Errorf("enlarge netlink send buffer to %d bytes: %w", size, err)
	}
	return nil
}

// verdict reads what the kernel says about a batch. It has said everything by
// the time that sendmsg returns (nfnetlink_rcv_batch), so there is no waiting.
func (s *nftSocket) verdict(sent []netlink.Message, msgs []nftMessage) error {
	begin, last := sent[0].Header.Sequence, sent[len(sent)-2].Header.Sequence
	var first error
	acknowledged := false
	for s.answered() {
		replies, err := s.conn.Receive()
		var op *netlink.OpError
		switch {
		case err == nil:
			for _, r := range replies {
				acknowledged = acknowledged || r.Header.Type == netlink.Error && r.Header.Sequence == last
			}
		case first != nil, errors.Is(err, unix.ENOBUFS):
			// One reason is enough; with more of them than the buffer holds, the
			// first ones are still there.
		case errors.As(err, &op) && op.Sequence != 0:
			first = explain(op, begin, msgs)
		default:
			return fmt.Errorf("read answer to nftables transaction: %w", err)
		}
	}
	if first == nil && !acknowledged {
		return errors.New("nftables transaction: the kernel did not answer")
	}
	return first
}

func explain(op *netlink.OpError, begin uint32, msgs []nftMessage) error {
	e := &nftError{About: "transaction", Errno: op.Err}
	if i := int(op.Sequence-begin) - 1; i >= 0 && i < len(msgs) {
		e.About = msgs[i].about
	}
	return e
}

// answered says whether there is something to read.
func (s *nftSocket) answered() bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.raw.fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

func nftType(kind uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)
}

// nfgenmsg is struct nfgenmsg: family, version 0, resource id.
func nfgenmsg(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, 0}, resource)
}
