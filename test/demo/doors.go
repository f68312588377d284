package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/nettest"
)

// forwards: "one line, follows the guest, and always works from everywhere".
func (s *story) forwards() error {
	const door = "8080"
	s.step("drawbridge forward add %s %s:80", door, first)
	s.expect("the forward is there", func() (string, error) {
		if out, err := s.drawbridge("forward", "add", door, first+":80"); err != nil {
			return out, err
		}
		return s.drawbridge("forward", "ls")
	})
	at := func(host string) netip.AddrPort { return netip.MustParseAddrPort(host + ":" + door) }
	s.expect("the LAN reaches the guest through it, and the guest sees who it is", func() (string, error) {
		out, err := getAt(s.ctx, s.lan.Machine, at(nettest.HostA4))
		if err == nil && !strings.HasSuffix(out, " saw "+nettest.Machine4) {
			err = fmt.Errorf("want %s as source", nettest.Machine4)
		}
		return out, err
	})
	for _, host := range []string{nettest.HostA4, "127.0.0.1"} {
		s.expect("host A itself does, by "+host, func() (string, error) { return getAt(s.ctx, s.lan.HostA, at(host)) })
	}
	for _, guest := range []string{second, first} {
		s.expect(guest+" does, by host A's address", func() (string, error) {
			out, err := s.in(guest, "wget -q -O - http://"+nettest.HostA4+":"+door+"/")
			if err == nil && !strings.Contains(out, first) {
				err = fmt.Errorf("that is not %s", first)
			}
			return out, err
		})
	}
	s.expect("removed, it is closed at once", func() (string, error) {
		if out, err := s.drawbridge("forward", "rm", door); err != nil {
			return out, err
		}
		out, err := getAt(s.ctx, s.lan.Machine, at(nettest.HostA4))
		if err == nil {
			return out, errors.New("it still answers")
		}
		return err.Error(), nil
	})
	return nil
}

// beside is a guest that stands on the LAN itself.
const (
	beside     = "mail-server"
	besideAddr = "192.168.99.67"
)

// bridged: "moves everything to br0 without losing a packet", on trial, and back.
func (s *story) bridged() error {
	links := map[string]string{"lo": "", nettest.HostANIC: "br0", "br0": "", "virbr0": "", "vnet0": "virbr0", "vnet1": "virbr0"}
	s.step("drawbridge network create lan --mode bridged --uplink %s, while the LAN pings host A a thousand times a second", nettest.HostANIC)
	change, ok := s.moved("the NIC is in a bridge, on trial, and no packet was lost", links,
		"network", "create", "lan", "--mode", "bridged", "--uplink", nettest.HostANIC, "--no-wait")
	if !ok {
		return nil
	}
	s.expect("everybody is told that it waits", func() (string, error) {
		out, err := s.drawbridge("change", "ls")
		if err == nil && !strings.Contains(out, "taken back in") {
			err = errors.New("the time left is not said")
		}
		return out, err
	})
	s.expect("confirmed, it stays", func() (string, error) { return s.drawbridge("change", "confirm", change) })
	s.expect("guests of the NAT network reach out as before", func() (string, error) {
		return s.sourceSeen(first, nettest.Machine4, nettest.HostA4)
	})
	s.standBeside()

	delete(links, "br0")
	links[nettest.HostANIC] = ""
	s.step("drawbridge network rm lan")
	change, ok = s.moved("the NIC has everything back, and no packet was lost", links, "network", "rm", "lan", "--no-wait")
	if ok {
		s.expect("confirmed", func() (string, error) { return s.drawbridge("change", "confirm", change) })
	}
	return nil
}

// moved makes a change while host A is pinged, and looks at the links.
func (s *story) moved(sentence string, links map[string]string, command ...string) (change string, ok bool) {
	ok = s.expect(sentence, func() (string, error) {
		var pings []*nettest.Pinging
		for _, to := range []string{nettest.HostA4, nettest.HostA6} {
			p, err := s.lan.Machine.Ping(s.ctx, netip.MustParseAddr(to), 2000, time.Millisecond)
			if err != nil {
				return "", err
			}
			pings = append(pings, p)
		}
		var made api.Change
		begin := time.Now()
		err := s.ask(&made, command...)
		took := time.Since(begin)
		change = made.ID
		if err == nil && made.Phase != "waiting" {
			err = fmt.Errorf("the change is %s", made.Phase)
		}
		evidence := fmt.Sprintf("%s after %d ms\n", made.Phase, took.Milliseconds())
		for _, p := range pings {
			got, pingErr := p.Wait()
			evidence += got.String() + "\n"
			if err = errors.Join(err, pingErr); len(got.Lost) > 0 {
				err = errors.Join(err, errors.New("packets were lost"))
			}
		}
		return evidence, errors.Join(err, s.linksAre(links))
	})
	return change, ok
}

// standBeside boots a guest on the LAN: to it and to all others host A is not there.
func (s *story) standBeside() {
	s.expect("a guest stands on the LAN: "+nettest.Machine4+" reaches it directly, and is seen as itself; its address was learnt from what it sends", func() (string, error) {
		ctx, cancel := context.WithTimeout(s.ctx, bootPatience)
		defer cancel()
		vm, err := s.guests.Boot(ctx, nettest.Spec{Name: beside, Command: func(args []string) *exec.Cmd {
			return s.lan.HostA.Command(context.WithoutCancel(ctx), s.binary, append([]string{
				"--socket", s.socket(), "qemu", "--nic", "network=lan,name=" + beside, "--",
			}, args...)...)
		}})
		if err != nil {
			return "", err
		}
		s.vms[beside] = vm
		if out, err := s.in(beside, "ip addr add "+besideAddr+"/24 dev eth0"); err != nil {
			return out, err
		}
		out, err := get(s.ctx, s.lan.Machine, besideAddr)
		if err == nil && !strings.HasSuffix(out, " saw "+nettest.Machine4) {
			err = fmt.Errorf("want %s as source", nettest.Machine4)
		}
		// Nobody told drawbridge this address: it was heard on the guest's port.
		known, lsErr := s.drawbridge("port", "ls")
		if lsErr == nil && !strings.Contains(known, besideAddr) {
			lsErr = fmt.Errorf("%s is not known to be %s", besideAddr, beside)
		}
		return out + "\n" + known, errors.Join(err, lsErr, vm.Stop(ctx))
	})
}
