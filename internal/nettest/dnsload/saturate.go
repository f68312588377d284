package dnsload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/net/ipv4"
)

// childEnv marks the client process, which reads its load from standard input.
const childEnv = "DRAWBRIDGE_DNSLOAD"

// Child runs the client of Saturate and does not return if this process was
// started as one. Call it first in main or TestMain of what calls Saturate.
func Child() {
	if os.Getenv(childEnv) == "" {
		return
	}
	var l Load
	err := json.NewDecoder(os.Stdin).Decode(&l)
	var r Result
	if err == nil {
		r, err = saturate(l)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dnsload:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Saturate asks as fast as the server answers, with less work for a question
// than dnsperf does: where client and server share two cores dnsperf takes the
// most of them, and measures itself. Codes and Latency are not filled in.
func Saturate(ctx context.Context, command func(ctx context.Context, name string, args ...string) *exec.Cmd, l Load) (Result, error) {
	self, err := os.Executable()
	if err != nil {
		return Result{}, fmt.Errorf("saturate: %w", err)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return Result{}, fmt.Errorf("saturate: %w", err)
	}
	cmd := command(ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"=client")
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return Result{}, fmt.Errorf("saturate: %w: %s", err, exit.Stderr)
		}
		return Result{}, fmt.Errorf("saturate: %w", err)
	}
	var r Result
	if err := json.Unmarshal(out, &r); err != nil {
		return Result{}, fmt.Errorf("saturate: read result: %w", err)
	}
	return r, nil
}

func saturate(l Load) (Result, error) {
	if l.Clients == 0 {
		l.Clients = 16
	}
	if l.Outstanding == 0 {
		l.Outstanding = 512
	}
	packets, err := pack(l.Questions)
	if err != nil {
		return Result{}, err
	}
	var sent, answered atomic.Int64
	errs := make([]error, l.Clients)
	began := time.Now()
	end := began.Add(l.Duration)
	var all sync.WaitGroup
	for i := range l.Clients {
		all.Go(func() {
			errs[i] = client(l, packets, i*len(packets)/l.Clients, end, &sent, &answered)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return Result{}, err
	}
	n := answered.Load()
	return Result{PerSecond: float64(n) / time.Since(began).Seconds(), Sent: int(sent.Load()), Lost: int(sent.Load() - n)}, nil
}

// client keeps its share of questions outstanding over one socket.
func client(l Load, packets [][]byte, next int, end time.Time, sent, answered *atomic.Int64) error {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.Server, 53)))
	if err != nil {
		return err
	}
	defer conn.Close()
	window := max(1, l.Outstanding/l.Clients)
	raw := ipv4.NewPacketConn(conn)
	out, in := make([]ipv4.Message, window), make([]ipv4.Message, window)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 1500)}
		out[i].Buffers = make([][]byte, 1)
	}
	outstanding := 0
	for time.Now().Before(end) {
		for i := range window - outstanding {
			out[i].Buffers[0] = packets[next]
			next = (next + 1) % len(packets)
		}
		for todo := out[:window-outstanding]; len(todo) > 0; {
			n, err := raw.WriteBatch(todo, 0)
			if err != nil {
				return fmt.Errorf("send: %w", err)
			}
			sent.Add(int64(n))
			todo = todo[n:]
		}
		outstanding = window
		// What has not come after this time will not come.
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		n, err := raw.ReadBatch(in, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			outstanding = 0
			continue
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		for _, m := range in[:n] {
			if m.N < 12 || m.Buffers[0][3]&0xf != 0 {
				return fmt.Errorf("answer without success: %x", m.Buffers[0][:m.N])
			}
		}
		answered.Add(int64(n))
		outstanding -= n
	}
	return nil
}

func pack(questions []string) ([][]byte, error) {
	packets := make([][]byte, len(questions))
	for i, q := range questions {
		name, typ, ok := strings.Cut(q, " ")
		if !ok || mdns.StringToType[typ] == 0 {
			return nil, fmt.Errorf("question %q is not \"name type\"", q)
		}
		m := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), mdns.StringToType[typ])
		m.Id = uint16(i)
		var err error
		if packets[i], err = m.Pack(); err != nil {
			return nil, fmt.Errorf("question %q: %w", q, err)
		}
	}
	return packets, nil
}
