package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"drawbridge/internal/api"
	"drawbridge/internal/nettest"
)

// devices: "ip addr, bridge link, brctl show show exactly the devices described".
func (s *story) devices() error {
	s.step("Looking at the devices")
	s.expect("a tap for each guest is plugged into virbr0, and there are no other devices", func() (string, error) {
		links, err := s.onA("ip", "-brief", "link")
		if err != nil {
			return links, err
		}
		ports, err := s.onA("bridge", "link")
		if err != nil {
			return links + ports, err
		}
		return links + "$ bridge link\n" + ports, s.linksAre(map[string]string{"lo": "", nettest.HostANIC: "", "virbr0": "", "vnet0": "virbr0", "vnet1": "virbr0"})
	})
	s.expect("brctl show says the same", func() (string, error) {
		out, err := s.onA("brctl", "show")
		if err != nil {
			return out, err
		}
		// Name, id, STP and first port are one line; further ports follow on lines of their own.
		var fields []string
		for i, line := range strings.Split(out, "\n") {
			if i > 0 {
				fields = append(fields, strings.Fields(line)...)
			}
		}
		if len(fields) != 5 || fields[0] != "virbr0" || fields[3] != "vnet0" || fields[4] != "vnet1" {
			err = fmt.Errorf("want one bridge virbr0 with ports vnet0 and vnet1, got %q", fields)
		}
		return out, err
	})
	s.expect("drawbridge knows which guest each tap belongs to", func() (string, error) {
		out, err := s.drawbridge("port", "ls")
		if err != nil {
			return out, err
		}
		var ports []api.Port
		if err := s.ask(&ports, "port", "ls"); err != nil {
			return out, err
		}
		owners := map[string]string{}
		for _, p := range ports {
			owners[p.Tap] = p.Guest
		}
		if len(ports) != 2 || owners["vnet0"] != first || owners["vnet1"] != second {
			return out, fmt.Errorf("the taps belong to %v", owners)
		}
		return out, nil
	})
	return nil
}

// linksAre compares host A's links and their masters with what they should be.
func (s *story) linksAre(want map[string]string) error {
	out, err := s.onA("ip", "-j", "link")
	if err != nil {
		return err
	}
	var links []struct{ Ifname, Master string }
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return fmt.Errorf("read links: %w", err)
	}
	var errs []error
	for _, l := range links {
		master, ok := want[l.Ifname]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("there is a link %s", l.Ifname))
		case master != l.Master:
			errs = append(errs, fmt.Errorf("%s is plugged into %q, want %q", l.Ifname, l.Master, master))
		}
	}
	if len(errs) == 0 && len(links) != len(want) {
		errs = append(errs, fmt.Errorf("there are %d links, want %d", len(links), len(want)))
	}
	return errors.Join(errs...)
}

// leases: "the guest gets a lease and a name".
func (s *story) leases() error {
	s.step("Waiting for the guests' addresses")
	for _, name := range []string{first, second} {
		got := s.expect(fmt.Sprintf("%s has a lease for an address of the network, known under its name", name), func() (string, error) {
			return s.lookAtLease(name)
		})
		if !got {
			return errStop
		}
	}
	for _, name := range []string{first, second} {
		s.expect(name+" has made itself an IPv6 address from the router advertisement", func() (string, error) {
			ctx, cancel := context.WithTimeout(s.ctx, patience)
			defer cancel()
			a, err := s.vms[name].Addr6(ctx)
			if err != nil {
				return "", err
			}
			s.addr6[name] = a
			if want := netip.PrefixFrom(s.gateway6, 64).Masked(); !want.Contains(a) {
				return a.String(), fmt.Errorf("it is not in %s", want)
			}
			return a.String(), nil
		})
	}
	return nil
}

func (s *story) lookAtLease(name string) (string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	l, err := s.vms[name].Lease(ctx)
	if err != nil {
		return "", err
	}
	a := l.Address.Addr()
	s.addr4[name] = a
	evidence := fmt.Sprintf("inside: %s, router %s, DNS %s, domain %s, for %d s", l.Address, l.Router, join(l.DNS), l.Domain, l.Seconds)
	var leases []api.Lease
	if err := s.ask(&leases, "lease", "ls"); err != nil {
		return evidence, err
	}
	i := slices.IndexFunc(leases, func(l api.Lease) bool { return l.Address == a.String() })
	if i < 0 {
		return evidence, fmt.Errorf("drawbridge lease ls does not know %s", a)
	}
	evidence += fmt.Sprintf("\nlease ls: %s %s %s", leases[i].Address, leases[i].MAC, leases[i].Guest)
	switch {
	case l.Address.Masked() != s.subnet || l.Router != s.gateway || !slices.Contains(l.DNS, s.gateway):
		return evidence, fmt.Errorf("want an address in %s, with %s as router and DNS server", s.subnet, s.gateway)
	case leases[i].Guest != name || leases[i].Network != "default":
		return evidence, fmt.Errorf("the lease is %q's on %q", leases[i].Guest, leases[i].Network)
	}
	return evidence, nil
}

func join(addrs []netip.Addr) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

// outward: "it reaches the LAN and beyond with the host's address as source".
func (s *story) outward() error {
	s.step("Reaching out from %s", first)
	for _, c := range []struct{ sentence, target, source string }{
		{"it reaches the LAN with host A's address as source", nettest.Machine4, nettest.HostA4},
		{"it reaches an internet address beyond the router in the same way", nettest.Beyond4, nettest.HostA4},
		{"the same in IPv6: the LAN", nettest.Machine6, nettest.HostA6},
		{"and beyond", nettest.Beyond6, nettest.HostA6},
	} {
		s.expect(c.sentence, func() (string, error) { return s.sourceSeen(first, c.target, c.source) })
	}
	return nil
}

// sourceSeen has a guest ask a web server which address it sees, and compares that with those that
// are right.
func (s *story) sourceSeen(guest, target string, sources ...string) (string, error) {
	url := "http://" + bracket(target) + "/"
	out, err := s.in(guest, "timeout 5 wget -qO- "+url)
	if err != nil {
		return "", err
	}
	evidence := url + " says: " + strings.TrimSpace(out)
	_, source, _ := strings.Cut(strings.TrimSpace(out), " saw ")
	if !slices.Contains(sources, source) {
		return evidence, fmt.Errorf("want %s as source", strings.Join(sources, " or "))
	}
	return evidence, nil
}

func bracket(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// names: "the host resolves the guest's name", and guests resolve each other and the world.
func (s *story) names() error {
	s.step("Asking for names")
	full := first + "." + s.network.Domain
	s.expect("the host resolves the guest's name, forward and back", func() (string, error) {
		forward, err := s.lookup(s.gateway, full, dns.TypeA)
		if err != nil {
			return "", err
		}
		reverse, err := dns.ReverseAddr(s.addr4[first].String())
		if err != nil {
			return "", err
		}
		back, err := s.lookup(s.gateway, reverse, dns.TypePTR)
		evidence := fmt.Sprintf("@%s %s: %s; back: %s", s.gateway, full, forward, back)
		if err == nil && (forward != s.addr4[first].String() || back != full+".") {
			err = fmt.Errorf("want %s and %s", s.addr4[first], full)
		}
		return evidence, err
	})
	s.expect("the guest's IPv6 address has the name too", func() (string, error) {
		var got string
		// It is not given out by the host but seen, so it is known by event.
		err := eventually(s.ctx, func() (err error) {
			got, err = s.lookup(s.gateway, full, dns.TypeAAAA)
			if err == nil && got != s.addr6[first].String() {
				err = fmt.Errorf("want %s", s.addr6[first])
			}
			return err
		})
		return "AAAA " + got, err
	})
	s.expect("guests resolve each other's short names", func() (string, error) {
		return s.sourceSeen(second, first, s.addr4[second].String(), s.addr6[second].String())
	})
	s.expect("and names of the world, by way of the host's own DNS server", func() (string, error) {
		evidence, err := s.sourceSeen(first, "web.beyond.example", nettest.HostA4)
		if n := s.lan.DNS.Asked("web.beyond.example."); err == nil && n == 0 {
			err = errors.New("the host's DNS server was never asked")
		}
		return evidence, err
	})
	return nil
}

// lookup asks a DNS server from host A for one record.
func (s *story) lookup(server netip.Addr, name string, kind uint16) (string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	c, err := s.lan.HostA.Dial(ctx, "udp", netip.AddrPortFrom(server, 53))
	if err != nil {
		return "", err
	}
	defer c.Close()
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	answer, _, err := new(dns.Client).ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: c})
	if err != nil {
		return "", fmt.Errorf("ask %s for %s: %w", server, name, err)
	}
	for _, r := range answer.Answer {
		switch r := r.(type) {
		case *dns.A:
			return r.A.String(), nil
		case *dns.AAAA:
			return r.AAAA.String(), nil
		case *dns.PTR:
			return r.Ptr, nil
		}
	}
	return "", fmt.Errorf("ask %s for %s: %s without an answer", server, name, dns.RcodeToString[answer.Rcode])
}

// refusals: "the LAN cannot open connections to it (clear ICMP refusal, not silence)".
func (s *story) refusals() error {
	s.step("Knocking from the LAN: the other machine gets routes to the guests by way of host A")
	prefix6 := netip.PrefixFrom(s.gateway6, 64).Masked()
	if err := s.lan.Machine.IP(s.ctx, "route add "+s.subnet.String()+" via "+nettest.HostA4,
		"route add "+prefix6.String()+" via "+nettest.HostA6); err != nil {
		return err
	}
	for _, c := range []struct {
		sentence string
		to       netip.Addr
	}{
		{"the LAN cannot open a connection to the guest's web server, and is told so at once", s.addr4[first]},
		{"the same in IPv6", s.addr6[first]},
	} {
		s.expect(c.sentence, func() (string, error) {
			ctx, cancel := context.WithTimeout(s.ctx, patience)
			defer cancel()
			r, err := s.lan.Machine.Refused(ctx, netip.AddrPortFrom(c.to, 80))
			if err != nil {
				return "", err
			}
			switch {
			case !r.AdminProhibited():
				err = errors.New("that is not the refusal of a policy")
			case r.After > time.Second:
				err = errors.New("that took long")
			}
			return r.String(), err
		})
	}
	return nil
}

// neighbours: "guests reach each other and the host".
func (s *story) neighbours() error {
	s.step("Reaching each other")
	s.expect("guests reach each other, with their own addresses", func() (string, error) {
		return s.sourceSeen(second, s.addr4[first].String(), s.addr4[second].String())
	})
	s.expect("in IPv6 too", func() (string, error) {
		return s.sourceSeen(second, s.addr6[first].String(), s.addr6[second].String())
	})
	s.expect("guests reach the host", func() (string, error) {
		out, err := s.in(first, "ping -c 2 -W 2 "+s.gateway.String())
		return lastLines(out, 2), err
	})
	s.expect("the host reaches the guests", func() (string, error) {
		out, err := get(s.ctx, s.lan.HostA, s.addr4[first].String())
		if err == nil && !strings.HasSuffix(out, " saw "+s.gateway.String()) {
			err = fmt.Errorf("want %s as source", s.gateway)
		}
		return out, err
	})
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// get asks a web server from a node and returns what it says.
func get(ctx context.Context, from *nettest.Node, host string) (string, error) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "", err
	}
	return getAt(ctx, from, netip.AddrPortFrom(addr, 80))
}

func getAt(ctx context.Context, from *nettest.Node, at netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return from.Dial(ctx, network, at)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/", nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 4096))
	return strings.TrimSpace(string(body)), err
}

// pictures shows what an operator would look at.
func (s *story) pictures() error {
	s.step("drawbridge status")
	s.expect("nothing is wrong and nothing is pending", func() (string, error) {
		out, err := s.drawbridge("status")
		if err != nil {
			return out, err
		}
		var status api.Status
		if err := s.ask(&status, "status"); err != nil {
			return out, err
		}
		if len(status.Problems) > 0 || len(status.Changes) > 0 || status.Ports != 2 {
			return out, fmt.Errorf("%d problems, %d changes, %d ports; want 0, 0, 2", len(status.Problems), len(status.Changes), status.Ports)
		}
		return out, nil
	})
	s.step("drawbridge topology")
	s.expect("the picture has the LAN, the NIC, the bridge, both taps and both guests", func() (string, error) {
		out, err := s.drawbridge("topology")
		for _, word := range []string{"192.168.99.0/24", nettest.HostANIC, "virbr0", "vnet0", "vnet1", first, second} {
			if err == nil && !strings.Contains(out, word) {
				err = fmt.Errorf("%s is not in the picture", word)
			}
		}
		return out, err
	})
	return nil
}

// guestsEnd: "when the guest stops, vnet0 is gone".
func (s *story) guestsEnd() error {
	s.step("Stopping the guests")
	s.expect(first+" powers off, and vnet0 is gone", func() (string, error) {
		ctx, cancel := context.WithTimeout(s.ctx, patience)
		defer cancel()
		if err := s.vms[first].Stop(ctx); err != nil {
			return "", err
		}
		out, err := s.onA("bridge", "link")
		return out, errors.Join(err, s.linksAre(map[string]string{"lo": "", nettest.HostANIC: "", "virbr0": "", "vnet1": "virbr0"}))
	})
	s.expect(second+"'s QEMU is killed, and vnet1 is gone too", func() (string, error) {
		s.vms[second].Kill()
		return "", s.linksAre(map[string]string{"lo": "", nettest.HostANIC: "", "virbr0": ""})
	})
	s.expect("drawbridge port ls is empty", func() (string, error) {
		return "", eventually(s.ctx, func() error {
			var ports []api.Port
			if err := s.ask(&ports, "port", "ls"); err != nil {
				return err
			}
			if len(ports) > 0 {
				return fmt.Errorf("%d ports are left", len(ports))
			}
			return nil
		})
	})
	return nil
}

// networkEnds: what the network made goes with it.
func (s *story) networkEnds() error {
	s.step("Stopping the network: drawbridge network stop default")
	s.expect("the bridge is gone, and no rule of ours is about it any more", func() (string, error) {
		if out, err := s.drawbridge("network", "stop", "default"); err != nil {
			return out, err
		}
		links, err := s.onA("ip", "-brief", "link")
		if err != nil {
			return links, err
		}
		rules, err := s.onA("nft", "list", "ruleset")
		if err == nil && strings.Contains(rules, "virbr0") {
			err = fmt.Errorf("nft still speaks of virbr0: %s", rules)
		}
		return links, errors.Join(err, s.linksAre(map[string]string{"lo": "", nettest.HostANIC: ""}))
	})
	s.expect("the daemon ends when told to, with exit code 0", func() (string, error) { return "", s.stopDaemon() })
	return nil
}

// eventually repeats a look at something that follows by event, until it is as wanted.
func eventually(ctx context.Context, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

func splitLines(r io.Reader, each func(string)) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		each(lines.Text())
	}
}
