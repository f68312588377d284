package nettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/miekg/dns"
)

// serveWho answers every HTTP request on port 80 of a node with "NODE saw ADDRESS".
func serveWho(n *Node) (*http.Server, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", ":80")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("serve HTTP: %w", err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s saw %s\n", n.Name, from.Addr().Unmap())
	})}
	go server.Serve(l) //nolint:errcheck // it ends with ErrServerClosed, by Close
	return server, nil
}

// Upstream is the DNS server that host A is configured with. It knows router.lan.example,
// machine.lan.example and web.beyond.example, A, AAAA and PTR, and no other name.
type Upstream struct {
	servers []*dns.Server
	names   map[string][]string // name and type → records

	mu    sync.Mutex
	asked map[string]int
}

func upstreamNames() map[string][]string {
	names := make(map[string][]string)
	for name, addrs := range map[string][2]string{
		"router.lan.example.":  {Router4, Router6},
		"machine.lan.example.": {Machine4, Machine6},
		"web.beyond.example.":  {Beyond4, Beyond6},
	} {
		for i, kind := range []string{"A", "AAAA"} {
			names[name+" "+kind] = []string{fmt.Sprintf("%s 300 IN %s %s", name, kind, addrs[i])}
			// An address always has a reverse name, so there is no error to see.
			reverse, _ := dns.ReverseAddr(addrs[i])
			names[reverse+" PTR"] = []string{fmt.Sprintf("%s 300 IN PTR %s", reverse, name)}
		}
	}
	return names
}

func serveDNS(n *Node) (*Upstream, error) {
	u := &Upstream{names: upstreamNames(), asked: make(map[string]int)}
	err := n.Do(func() error {
		packets, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", ":53")
		if err != nil {
			return err
		}
		streams, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", ":53")
		if err != nil {
			packets.Close()
			return err
		}
		u.servers = []*dns.Server{{PacketConn: packets, Handler: u}, {Listener: streams, Handler: u}}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("serve DNS: %w", err)
	}
	for _, s := range u.servers {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go s.ActivateAndServe() //nolint:errcheck // it ends by Shutdown
		<-up
	}
	return u, nil
}

// ServeDNS answers one question.
func (u *Upstream) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	m.RecursionAvailable = true
	if len(r.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
	} else {
		u.answer(m, r.Question[0])
	}
	_ = w.WriteMsg(m) // the client asks again
}

func (u *Upstream) answer(m *dns.Msg, q dns.Question) {
	name := dns.CanonicalName(q.Name)
	u.mu.Lock()
	u.asked[name]++
	u.mu.Unlock()
	for _, text := range u.names[name+" "+dns.TypeToString[q.Qtype]] {
		record, err := dns.NewRR(text)
		if err != nil {
			m.Rcode = dns.RcodeServerFailure
			return
		}
		m.Answer = append(m.Answer, record)
	}
	if len(m.Answer) > 0 {
		return
	}
	for _, kind := range []string{" A", " AAAA", " PTR"} {
		if u.names[name+kind] != nil {
			return // the name exists, with other types
		}
	}
	m.Rcode = dns.RcodeNameError
}

// Asked is how often a name (with its final dot) was asked for, whatever the type.
func (u *Upstream) Asked(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[dns.CanonicalName(name)]
}

// Close stops answering.
func (u *Upstream) Close() error {
	var errs []error
	for _, s := range u.servers {
		errs = append(errs, s.Shutdown())
	}
	return errors.Join(errs...)
}
