package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"

	"drawbridge/internal/nettest/dnsload"
)

// mirrorAddr is where the mirror listens on our host, beside the real server.
var mirrorAddr = netip.MustParseAddr("10.64.0.3")

// mirror measures what clients, bridge and kernel leave to any server: one that looks at nothing and
// sends each question back as its own answer.
func (b *Bench) mirror(ctx context.Context, s *server, questions []string) error {
	if err := s.node.IP(ctx, "addr add "+mirrorAddr.String()+"/32 dev virbr0"); err != nil {
		return err
	}
	var conn net.PacketConn
	err := s.node.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", netip.AddrPortFrom(mirrorAddr, 53).String())
		return err
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- sendBack(ipv4.NewPacketConn(conn)) }()
	for _, way := range []struct {
		name string
		run  func(context.Context, dnsload.Load) (dnsload.Result, error)
	}{
		{"dnsperf", func(ctx context.Context, l dnsload.Load) (dnsload.Result, error) {
			return dnsload.Run(ctx, s.guest.Command, l)
		}},
		{"saturated", func(ctx context.Context, l dnsload.Load) (dnsload.Result, error) {
			return dnsload.Saturate(ctx, s.guest.Command, l)
		}},
	} {
		var rate Series
		for range b.runs(3, 1) {
			r, err := way.run(ctx, dnsload.Load{Server: mirrorAddr, Questions: questions, Duration: time.Duration(b.runs(2, 1)) * time.Second})
			if err != nil {
				return errors.Join(err, conn.Close(), <-ended)
			}
			rate.Counted(Rate, r.PerSecond)
		}
		b.add(Row{Work: fmt.Sprintf("DNS, %s, a server that sends questions back unread", way.name), Ours: rate,
			Notes: []string{"what client, bridge and kernel allow on these cores, whatever the server"}})
	}
	return errors.Join(conn.Close(), <-ended)
}

// sendBack returns nil once conn is closed.
func sendBack(conn *ipv4.PacketConn) error {
	const batch = 32
	in := make([]ipv4.Message, batch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 512)}
	}
	out := make([]ipv4.Message, batch)
	for {
		n, err := conn.ReadBatch(in, 0)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("send questions back: %w", err)
		}
		for i := range n {
			data := in[i].Buffers[0][:in[i].N]
			if in[i].N > 2 {
				data[2] |= 0x80 // QR: an answer
			}
			out[i] = ipv4.Message{Buffers: [][]byte{data}, Addr: in[i].Addr}
		}
		if _, err := conn.WriteBatch(out[:n], 0); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("send questions back: %w", err)
		}
	}
}
