package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"
)

var (
	// errTruncated: the answer is longer than a packet.
	errTruncated = errors.New("truncated answer")
	// errCase: everything fits but the case of the letters. It is a server that
	// does not keep it, or somebody guessing; over TCP nobody can guess.
	errCase = errors.New("answer in other letters")
)

// exchange asks one server, over UDP first.
func (s *Server) exchange(ctx context.Context, f *flight, server netip.AddrPort, patience time.Duration) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := over(ctx, "udp", f, server, true)
	if errors.Is(err, errTruncated) || errors.Is(err, errCase) {
		m, err = over(ctx, "tcp", f, server, true)
	}
	if err == nil && (m.Rcode == mdns.RcodeFormatError || m.Rcode == mdns.RcodeNotImplemented) {
		// It may be too old for EDNS (RFC 6891 section 6.2.2).
		if m, err = over(ctx, "udp", f, server, false); errors.Is(err, errTruncated) || errors.Is(err, errCase) {
			m, err = over(ctx, "tcp", f, server, false)
		}
	}
	return m, err
}

// query packs the question under a random id.
func (f *flight) query(edns bool) []byte {
	b := make([]byte, headerSize, headerSize+len(f.mixed)+4+optSize)
	_, _ = rand.Read(b[:2])
	binary.BigEndian.PutUint16(b[2:], f.q.flags&(flagRD|flagCD))
	b[5] = 1
	b = append(b, f.mixed...)
	b = binary.BigEndian.AppendUint16(b, f.q.typ)
	b = binary.BigEndian.AppendUint16(b, classIN)
	if edns {
		b[11] = 1
		var opt [optSize]byte
		putOPT(opt[:], f.q.do)
		b = append(b, opt[:]...)
	}
	return b
}

// over asks once. Each question has a socket of its own, so that the kernel
// draws a port for each, which together with the id and the case of the letters
// is what somebody off the path would have to guess (RFC 5452). The socket is
// connected: it takes packets of that server alone, and learns at once if
// nobody listens there.
func over(ctx context.Context, network string, f *flight, server netip.AddrPort, edns bool) (*mdns.Msg, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	query := f.query(edns)
	question := query[headerSize : headerSize+len(f.mixed)+4]
	if network == "tcp" {
		return overTCP(conn, query, question)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	var answer [4096]byte
	for {
		n, err := conn.Read(answer[:])
		if err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		m, err := check(answer[:n], query, question)
		switch {
		case errors.Is(err, errCase):
			// Perhaps a forgery, with the true answer still to come; but a server
			// that answers so will send no other, and waiting costs the client time.
			return nil, errCase
		case err != nil:
			continue // a forgery, or late; the true answer may still come
		case m.Truncated:
			return nil, errTruncated
		}
		return m, nil
	}
}

func overTCP(conn net.Conn, query, question []byte) (*mdns.Msg, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	m, err := check(answer, query, question)
	if err != nil && !errors.Is(err, errCase) {
		return nil, err
	}
	if m.Truncated {
		return nil, errTruncated
	}
	return m, nil
}

// check reads an answer and says whether it is one to this query. With errCase
// the answer is returned too.
func check(answer, query, question []byte) (*mdns.Msg, error) {
	if len(answer) < headerSize || answer[0] != query[0] || answer[1] != query[1] || answer[2]&0x80 == 0 {
		return nil, errors.New("not an answer to this question")
	}
	if binary.BigEndian.Uint16(answer[4:]) == 0 && answer[3]&0xf != 0 {
		// A bare header is how very old servers refuse.
		return &mdns.Msg{MsgHdr: mdns.MsgHdr{Rcode: int(answer[3] & 0xf)}}, nil
	}
	if len(answer) < headerSize+len(question) {
		return nil, errors.New("not an answer to this question")
	}
	var err error
	if got := answer[headerSize : headerSize+len(question)]; !bytes.Equal(got, question) {
		if !equalFold(got, question) {
			return nil, errors.New("not an answer to this question")
		}
		err = errCase
	}
	if answer[2]&2 != 0 {
		// What is left of a truncated answer may not be readable, and is not wanted.
		return &mdns.Msg{MsgHdr: mdns.MsgHdr{Truncated: true}}, err
	}
	m, e := unpack(answer)
	if e != nil {
		return nil, fmt.Errorf("read answer: %w", e)
	}
	return m, err
}

// equalFold compares two questions in wire form, letters of the name without
// regard to case (RFC 4343: ASCII only).
func equalFold(a, b []byte) bool {
	name := len(a) - 4
	for i := range a {
		x, y := a[i], b[i]
		if i < name && 'A' <= x && x <= 'Z' {
			x += 'a' - 'A'
		}
		if i < name && 'A' <= y && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}
