package ra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openSocket opens the socket of a link as the daemon does.
func openSocket(link string) (*os.File, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return nil, err
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	filter.Data[133/32] &^= 1 << (133 % 32)
	err = errors.Join(
		unix.BindToDevice(fd, link),
		unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &filter),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1),
		unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: netip.MustParseAddr("ff02::2").As16(), Interface: uint32(ifi.Index)}))
	return os.NewFile(uintptr(fd), "ra"), err
}

// TestKernelClient: a guest's kernel configures itself from a bridge that had no
// port, and thereby no link-local address, before the guest came.
func TestKernelClient(t *testing.T) {
	nettest.Need(t, nettest.Root, nettest.Namespace, "ip")
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	var nodes [2]*nettest.Node
	for i, name := range []string{"server", "guest"} {
		n, err := nettest.NewNode(ctx, name, "")
		must(t, err)
		defer n.Close()
		nodes[i] = n
	}
	server, guest := nodes[0], nodes[1]
	must(t, server.IP(ctx, "link add virbr0 type bridge", "link set virbr0 up", "addr add fd00:1::1/64 dev virbr0 nodad"))
	s := New(Config{Log: quiet})
	must(t, s.Apply(plan.Step{After: theRouter}))
	var conn Conn
	must(t, server.Do(func() error {
		f, err := openSocket("virbr0")
		if err != nil {
			return err
		}
		conn, err = NewConn(f)
		return err
	}))
	// source asks the kernel in the thread's namespace, so serve there.
	ended := make(chan error, 1)
	serving, stop := context.WithCancel(ctx)
	defer stop()
	go func() { ended <- s.Serve(serving, "virbr0", inNode{conn, server}) }()

	_, err := guest.Run(ctx, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/accept_ra")
	must(t, err)
	must(t, server.IP(ctx, fmt.Sprintf("link add vnet0 type veth peer name eth0 netns %d", guest.PID()), "link set vnet0 master virbr0 up"))
	must(t, guest.IP(ctx, "link set eth0 up"))

	route := untilTrue(t, ctx, func() (string, bool) {
		out, err := guest.Run(ctx, "ip", "-j", "-6", "route", "show", "default")
		must(t, err)
		var routes []struct {
			Gateway, Dev, Protocol string
			Metrics                []struct{ MTU int }
		}
		must(t, json.Unmarshal([]byte(out), &routes))
		return out, len(routes) == 1 && routes[0].Protocol == "ra" && strings.HasPrefix(routes[0].Gateway, "fe80:")
	})
	t.Log("default route:", route)
	addr := untilTrue(t, ctx, func() (string, bool) {
		out, err := guest.Run(ctx, "ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "global")
		must(t, err)
		a := addresses(t, out)
		return out, len(a) == 1 && a[0].Dynamic && strings.HasPrefix(a[0].Local, "fd00:1:") && a[0].Prefixlen == 64 && a[0].Preferred > 600000
	})
	t.Log("address:", addr)
	out, err := guest.Run(ctx, "cat", "/proc/sys/net/ipv6/conf/eth0/mtu")
	must(t, err)
	if strings.TrimSpace(out) != "1400" {
		t.Errorf("the guest's IPv6 MTU is %s, want 1400", out)
	}

	must(t, server.Do(func() error { return s.Apply(plan.Step{Before: theRouter}) }))
	untilTrue(t, ctx, func() (string, bool) {
		routes, err := guest.Run(ctx, "ip", "-j", "-6", "route", "show", "default")
		must(t, err)
		out, err := guest.Run(ctx, "ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "global")
		must(t, err)
		a := addresses(t, out)
		return routes + out, strings.TrimSpace(routes) == "[]" && len(a) == 1 && a[0].Preferred == 0
	})
	if st := s.Stats()[0]; st.Solicitations == 0 || st.Malformed != 0 {
		t.Errorf("stats %+v", st)
	}

	must(t, s.Apply(plan.Step{After: theRouter}))
	must(t, server.IP(ctx, "link del virbr0"))
	must(t, s.Apply(plan.Step{Before: theRouter})) // sends, and thereby notices
	select {
	case err := <-ended:
		if !errors.Is(err, ErrGone) {
			t.Errorf("serve ended with %v, want ErrGone", err)
		}
	case <-ctx.Done():
		t.Error("serve goes on without a bridge")
	}
}

type address struct {
	Local     string
	Prefixlen int
	Dynamic   bool
	Preferred int `json:"preferred_life_time"`
}

func addresses(t *testing.T, out string) []address {
	t.Helper()
	var links []struct {
		Addrs []address `json:"addr_info"`
	}
	must(t, json.Unmarshal([]byte(out), &links))
	var all []address
	for _, l := range links {
		for _, a := range l.Addrs {
			if a.Local != "" { // ip leaves an empty place for addresses of other scopes
				all = append(all, a)
			}
		}
	}
	return all
}

// untilTrue asks every 50 ms until the answer is right or the test's time is over.
func untilTrue(t *testing.T, ctx context.Context, ask func() (string, bool)) string {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		out, ok := ask()
		if ok {
			return out
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it never came to be: %s", out)
		case <-tick.C:
		}
	}
}

// inNode sends in a node's namespace, where Conn finds its source address.
type inNode struct {
	Conn
	n *nettest.Node
}

func (c inNode) Send(b []byte, to netip.Addr) error {
	return c.n.Do(func() error { return c.Conn.Send(b, to) })
}
