package ra

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

type sent struct {
	at time.Time
	to netip.Addr
	ra *ndp.RouterAdvertisement
}

// fakeConn is a link made of a channel and a list.
type fakeConn struct {
	t    *testing.T
	in   chan Packet
	done chan struct{}
	once sync.Once
	mu   sync.Mutex
	sent []sent
	fail error
}

func (c *fakeConn) Receive() (Packet, error) {
	select {
	case p := <-c.in:
		return p, nil
	case <-c.done:
		return Packet{}, net.ErrClosed
	}
}

func (c *fakeConn) Send(b []byte, to netip.Addr) error {
	m, err := ndp.ParseMessage(b)
	if err != nil {
		c.t.Errorf("our own message: %v", err)
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	c.sent = append(c.sent, sent{time.Now(), to, m.(*ndp.RouterAdvertisement)})
	return nil
}

func (c *fakeConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

// take returns what was sent since it was last called.
func (c *fakeConn) take() []sent {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.sent
	c.sent = nil
	return out
}

func (c *fakeConn) breaks(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

var theRouter = host.Router{
	Bridge: "virbr0", Server: netip.MustParsePrefix("fd00:1::1/64"), Default: true,
	DNS: netip.MustParseAddr("fd00:1::1"), Domain: "default.test", MTU: 1400,
}

func inWorld(t *testing.T, f func(t *testing.T, s *Server, c *fakeConn)) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Log: quiet})
		c := &fakeConn{t: t, in: make(chan Packet, 1000), done: make(chan struct{})}
		apply(t, s, nil, theRouter)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Serve(ctx, "virbr0", c) }()
		synctest.Wait()
		f(t, s, c)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if got := c.take(); len(got) != 0 {
			t.Errorf("the end of the program was advertised: %v", got)
		}
	})
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func apply(t *testing.T, s *Server, before, after host.Resource) {
	t.Helper()
	if err := s.Apply(plan.Step{Before: before, After: after}); err != nil {
		t.Fatal(err)
	}
}

// pass moves the bubble's clock; no time passes outside.
func pass(d time.Duration) { <-time.After(d); synctest.Wait() }

func find[O ndp.Option](m *ndp.RouterAdvertisement) (found O, count int) {
	for _, o := range m.Options {
		if x, ok := o.(O); ok {
			found, count = x, count+1
		}
	}
	return found, count
}

func solicitation(from string) Packet {
	b, err := ndp.MarshalMessage(&ndp.RouterSolicitation{})
	if err != nil {
		panic(err)
	}
	return Packet{Data: b, From: netip.MustParseAddr(from), HopLimit: 255}
}

func TestContent(t *testing.T) {
	inWorld(t, func(t *testing.T, s *Server, c *fakeConn) {
		got := c.take()
		if len(got) != 1 || got[0].to.IsValid() {
			t.Fatalf("sent %v at the start, want one to all", got)
		}
		m := got[0].ra
		if m.RouterLifetime != 30*time.Minute || m.CurrentHopLimit != 64 || m.ManagedConfiguration || m.OtherConfiguration {
			t.Errorf("header %+v", m)
		}
		p, _ := find[*ndp.PrefixInformation](m)
		if p.Prefix.String() != "fd00:1::" || p.PrefixLength != 64 || !p.OnLink || !p.AutonomousAddressConfiguration || p.PreferredLifetime == 0 || p.ValidLifetime < p.PreferredLifetime {
			t.Errorf("prefix %+v", p)
		}
		if o, _ := find[*ndp.MTU](m); o.MTU != 1400 {
			t.Errorf("MTU %v", o)
		}
		if o, _ := find[*ndp.RecursiveDNSServer](m); len(o.Servers) != 1 || o.Servers[0] != theRouter.DNS || o.Lifetime == 0 {
			t.Errorf("DNS %v", o)
		}
		if o, _ := find[*ndp.DNSSearchList](m); len(o.DomainNames) != 1 || o.DomainNames[0] != "default.test" {
			t.Errorf("domain %v", o)
		}

		bare := host.Router{Bridge: "virbr0", Server: theRouter.Server}
		apply(t, s, theRouter, bare)
		got = c.take()
		if len(got) != 2 {
			t.Fatalf("sent %v after a change, want farewell and news", got)
		}
		if o, _ := find[*ndp.RecursiveDNSServer](got[0].ra); o == nil || o.Lifetime != 0 {
			t.Errorf("the DNS server is not taken back: %v", got[0].ra)
		}
		if _, n := find[*ndp.PrefixInformation](got[0].ra); n != 0 {
			t.Error("the prefix is taken back, though it stays")
		}
		if m := got[1].ra; m.RouterLifetime != 0 || len(m.Options) != 1 {
			t.Errorf("not a default router: %+v", m)
		}
	})
}

func TestTimes(t *testing.T) {
	inWorld(t, func(t *testing.T, s *Server, c *fakeConn) {
		pass(4 * time.Hour)
		all := c.take()
		if len(all) < 24 || len(all) > 75 {
			t.Errorf("%d advertisements in 4 h", len(all))
		}
		for i := 1; i < len(all); i++ {
			gap, least, most := all[i].at.Sub(all[i-1].at), minInterval, maxInterval
			if i < initialCount {
				least, most = minDelay, maxInitialInterval
			}
			if gap < least || gap > most {
				t.Errorf("gap %d is %s, want %s to %s", i, gap, least, most)
			}
		}
	})
}

func TestAnswers(t *testing.T) {
	inWorld(t, func(t *testing.T, s *Server, c *fakeConn) {
		pass(time.Minute)
		c.take()
		c.in <- solicitation("fe80::5")
		got := c.take()
		if len(got) != 1 || got[0].to.String() != "fe80::5" || got[0].ra.RouterLifetime == 0 {
			t.Fatalf("answer %v, want one to fe80::5", got)
		}
		// Without an address: to all, and not more often than every three seconds.
		for range 5 {
			c.in <- solicitation("::")
		}
		pass(minDelay - time.Millisecond)
		if got = c.take(); len(got) != 1 || got[0].to.IsValid() {
			t.Fatalf("answer %v, want one to all", got)
		}
		c.in <- solicitation("::")
		pass(time.Second)
		if got = c.take(); len(got) != 1 {
			t.Fatalf("the second answer to all: %v", got)
		}
		for range 500 {
			c.in <- solicitation("fe80::6")
		}
		pass(10 * time.Second)
		got = c.take()
		if len(got) > answerBurst+3 || got[len(got)-1].to.IsValid() {
			t.Errorf("%d answers to a flood of 500, the last to %s", len(got), got[len(got)-1].to)
		}
		if st := s.Stats()[0]; st.Limited == 0 || st.Solicitations != 507 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestAnswerWaitsForAnAddress(t *testing.T) {
	inWorld(t, func(t *testing.T, s *Server, c *fakeConn) {
		pass(time.Minute)
		c.take()
		c.breaks(errors.New("no link-local address"))
		c.in <- solicitation("fe80::5")
		pass(2 * time.Second)
		c.breaks(nil)
		pass(retryDelay)
		if got := c.take(); len(got) != 1 {
			t.Errorf("sent %v, want the answer late", got)
		}
	})
}

func TestRouterGoes(t *testing.T) {
	inWorld(t, func(t *testing.T, s *Server, c *fakeConn) {
		c.take()
		if got := s.Observe(); got[theRouter.Key()] != theRouter || len(got) != 1 || !s.Serving("virbr0") {
			t.Errorf("observed %v", got)
		}
		apply(t, s, theRouter, nil)
		apply(t, s, theRouter, nil)
		got := c.take()
		if len(got) != 1 {
			t.Fatalf("sent %v, want one farewell", got)
		}
		p, _ := find[*ndp.PrefixInformation](got[0].ra)
		if got[0].ra.RouterLifetime != 0 || p.PreferredLifetime != 0 {
			t.Errorf("farewell %+v %+v", got[0].ra, p)
		}
		c.in <- solicitation("fe80::5")
		pass(time.Hour)
		if got := c.take(); len(got) != 0 {
			t.Errorf("still advertised: %v", got)
		}
		if len(s.Observe()) != 0 {
			t.Error("still observed")
		}
	})
}

func TestBadSteps(t *testing.T) {
	s := New(Config{Log: slog.Default()})
	for _, bad := range []host.Resource{
		host.Pool{Bridge: "b"},
		host.Router{Bridge: "b", Server: netip.MustParsePrefix("10.0.0.1/24")},
		host.Router{Bridge: "b", Server: theRouter.Server, Domain: "a..b"},
	} {
		if err := s.Apply(plan.Step{After: bad}); err == nil {
			t.Errorf("%v was applied", bad)
		}
	}
	if got := s.Observe(); len(got) != 0 {
		t.Errorf("observed %v", got)
	}
}

func TestSolicitationsThatAreNotValid(t *testing.T) {
	link, err := ndp.MarshalMessage(&ndp.RouterSolicitation{Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}})
	if err != nil {
		t.Fatal(err)
	}
	good := solicitation("fe80::1")
	for name, p := range map[string]Packet{
		"routed":       {Data: good.Data, From: good.From, HopLimit: 64},
		"short":        {Data: good.Data[:7], From: good.From, HopLimit: 255},
		"code":         {Data: []byte{133, 1, 0, 0, 0, 0, 0, 0}, From: good.From, HopLimit: 255},
		"echo":         {Data: []byte{128, 0, 0, 0, 0, 0, 0, 0}, From: good.From, HopLimit: 255},
		"empty option": {Data: []byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, From: good.From, HopLimit: 255},
		"link of ::":   {Data: link, From: netip.IPv6Unspecified(), HopLimit: 255},
	} {
		if checkSolicitation(p) == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := checkSolicitation(Packet{Data: link, From: good.From, HopLimit: 255}); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func FuzzSolicitation(f *testing.F) {
	f.Add(solicitation("fe80::1").Data)
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1, 31, 2, 0, 0, 0, 0, 0, 9, 3, 'a', 'b', 'c', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkSolicitation(Packet{Data: data, From: netip.MustParseAddr("fe80::1"), HopLimit: 255}) == nil && data[0] != 133 {
			t.Fatal("took a message of another type")
		}
	})
}
