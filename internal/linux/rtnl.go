package linux

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// rtnl is one socket to the kernel's routing netlink. Raw messages rather than
// a typed library: STP, forward delay, all port flags and the reason text of an
// error go in one message each, and nothing is lost on the way back.
type rtnl struct {
	conn *netlink.Conn
	// dumps is for listing whole tables, so that no other question waits for it.
	dumps *netlink.Conn
	// before is called before each change and may refuse it; tests make the
	// program end there. Nil is no question.
	before func() error
}

// message flags of the ways to ask for something.
const (
	flagChange  = netlink.Request | netlink.Acknowledge
	flagCreate  = flagChange | netlink.Create | netlink.Excl
	flagReplace = flagChange | netlink.Create | netlink.Replace
	flagAppend  = flagChange | netlink.Create | netlink.Append
)

// dumpTries bounds how often an interrupted dump is begun again: any change in
// the meantime, a DAD that ends say, interrupts one.
const dumpTries = 20

// errInterrupted says that a table changed under each of several dumps.
var errInterrupted = errors.New("the table kept changing while it was read")

func dialRtnl() (*rtnl, error) {
	var conns [2]*netlink.Conn
	for i := range conns {
		// The reason for an error in words, and filters in dumps that are obeyed or
		// refused but never overlooked.
		sock, port, err := openAsk(unix.NETLINK_ROUTE, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK)
		if err != nil {
			err = fmt.Errorf("open a netlink socket: %w", err)
			if i > 0 {
				err = errors.Join(err, conns[0].Close())
			}
			return nil, err
		}
		conns[i] = netlink.NewConn(sock, port)
	}
	return &rtnl{conn: conns[0], dumps: conns[1]}, nil
}

func (r *rtnl) close() error { return errors.Join(r.conn.Close(), r.dumps.Close()) }

// attributes adds a message's attributes; nil for none.
type attributes func(*netlink.AttributeEncoder)

// do sends one request and returns the answers without the acknowledgement.
func (r *rtnl) do(typ uint16, flags netlink.HeaderFlags, header []byte, attrs attributes) ([]netlink.Message, error) {
	if r.before != nil && flags&netlink.Acknowledge != 0 {
		if err := r.before(); err != nil {
			return nil, err
		}
	}
	data := header
	if attrs != nil {
		ae := netlink.NewAttributeEncoder()
		attrs(ae)
		b, err := ae.Encode()
		if err != nil {
			return nil, err
		}
		data = append(data, b...)
	}
	conn := r.conn
	if flags&netlink.Dump == netlink.Dump {
		conn = r.dumps
	}
	return conn.Execute(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: flags}, Data: data})
}

// dump lists a table, again and again until it was not changed meanwhile.
func (r *rtnl) dump(typ uint16, header []byte, attrs attributes) ([]netlink.Message, error) {
	for range dumpTries {
		msgs, err := r.do(typ, netlink.Request|netlink.Dump, header[:len(header):len(header)], attrs)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !interrupted(msgs) {
			return msgs, nil
		}
	}
	return nil, errInterrupted
}

func interrupted(msgs []netlink.Message) bool {
	for _, m := range msgs {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return true
		}
	}
	return false
}

// decode walks the attributes after a header of the given length.
func decode(data []byte, header int, each func(ad *netlink.AttributeDecoder)) error {
	if len(data) < header {
		return fmt.Errorf("netlink message of %d bytes is cut short", len(data))
	}
	ad, err := netlink.NewAttributeDecoder(data[header:])
	if err != nil {
		return err
	}
	for ad.Next() {
		each(ad)
	}
	return ad.Err()
}

// nested walks the attributes inside the current one.
func nested(ad *netlink.AttributeDecoder, each func(ad *netlink.AttributeDecoder)) {
	ad.Nested(func(in *netlink.AttributeDecoder) error {
		for in.Next() {
			each(in)
		}
		return in.Err()
	})
}

// nest adds an attribute that holds others.
func nest(ae *netlink.AttributeEncoder, typ uint16, attrs attributes) {
	ae.Nested(typ, func(in *netlink.AttributeEncoder) error {
		attrs(in)
		return nil
	})
}

// isAny says whether err is one of the given errors.
func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
