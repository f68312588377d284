package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/nettest"
	"drawbridge/internal/nettest/booted"
)

// netplanNIC and netplanBridge are what an operator who knows netplan would write.
const netplanNIC = `network:
  version: 2
  renderer: networkd
  ethernets:
    enp6s18:
      accept-ra: false
      addresses: [%[1]s/24, "%[3]s/64"]
      routes:
        - {to: default, via: %[2]s}
        - {to: default, via: "%[4]s"}
`

const netplanBridge = `network:
  version: 2
  renderer: networkd
  ethernets:
    enp6s18: {accept-ra: false, link-local: []}
  bridges:
    br0:
      interfaces: [enp6s18]
      macaddress: %[5]s
      parameters: {stp: false, forward-delay: 0}
      accept-ra: false
      addresses: [%[1]s/24, "%[3]s/64"]
      routes:
        - {to: default, via: %[2]s}
        - {to: default, via: "%[4]s"}
`

const netplanFile = "/etc/netplan/01-lan.yaml"

func netplanApply() peer {
	const apply = " " + netplanFile + "; netplan apply"
	return peer{name: "netplan apply", in: "cp /etc/netplan/bridge" + apply, out: "cp /etc/netplan/nic" + apply}
}

// bridgedNetplan measures on one whole host under systemd, whose network is netplan's.
func bridgedNetplan(ctx context.Context, b *Bench, in, out, took, tcp *Row) (err error) {
	root := os.Getenv(rootEnv)
	if root == "" {
		return errors.New("there is no root with it (scripts/managers-root)")
	}
	lan, err := newLAN(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lan.Close()) }()
	h, err := bootNetplan(ctx, b, lan, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Off()) }()
	if err := settled(ctx, lan, nettest.HostANIC); err != nil {
		return err
	}
	if _, err := h.Try("sh", "-ec", "systemd-sysusers; systemctl start drawbridge"); err != nil {
		return err
	}
	m := onHost(h, lan)
	defer m.client.Close()
	for range b.runs(10, 1) {
		if err := m.alone(ctx, took); err != nil {
			return err
		}
		if err := m.kept(ctx, 2*pingsEach, in, out, tcp); err != nil {
			return err
		}
	}
	if _, err := h.Try("systemctl", "stop", "drawbridge", "drawbridge-guests"); err != nil {
		return err
	}
	// As it was made by netplan, not by us.
	if _, err := h.Try("netplan", "apply"); err != nil {
		return err
	}
	sh := func(script string) error {
		_, err := h.Try("sh", "-ec", script)
		return err
	}
	return netplanApply().moves(ctx, lan, b.runs(5, 1), sh, in, out, took, tcp)
}

// bootNetplan boots a host in the place of host A, with ours installed and not started.
func bootNetplan(ctx context.Context, b *Bench, lan *nettest.LAN, root string) (*booted.Host, error) {
	src, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.scratch, "netplan")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	h, err := booted.New(src, root, dir)
	if err != nil {
		return nil, err
	}
	mac, err := lan.HostA.Run(ctx, "cat", "/sys/class/net/"+nettest.HostANIC+"/address")
	if err != nil {
		return nil, err
	}
	yaml := func(text string) string {
		return fmt.Sprintf(strings.ReplaceAll(text, "enp6s18", nettest.HostANIC), nettest.HostA4, nettest.Router4, nettest.HostA6, nettest.Router6, strings.TrimSpace(mac))
	}
	for name, content := range map[string]string{
		"/etc/hostname": "host\n", netplanFile: yaml(netplanNIC), "/etc/netplan/nic": yaml(netplanNIC), "/etc/netplan/bridge": yaml(netplanBridge),
		// There is no udev in a container, which netplan would wait for.
		"/usr/local/bin/udevadm": "#!/bin/sh\n",
	} {
		if err := h.Write(name, content); err != nil {
			return nil, err
		}
	}
	err = errors.Join(os.Chmod(h.Upper("/usr/local/bin/udevadm"), 0o755), h.Enable("systemd-networkd"))
	if err != nil {
		return nil, err
	}
	install := exec.CommandContext(ctx, "make", "install", "-o", "build", "VERSION=bench", "BIN="+b.binary, "DESTDIR="+h.Upper(""))
	if text, err := install.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make install: %w: %s", err, text)
	}
	if err := lan.HostA.IP(ctx, "addr flush dev "+nettest.HostANIC); err != nil {
		return nil, err
	}
	// For links that are made later, as by the other peers.
	if _, err := lan.HostA.Run(ctx, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf."+nettest.HostANIC+".accept_dad=0"); err != nil {
		return nil, err
	}
	if _, err := h.Boot(lan.HostA); err != nil {
		return nil, errors.Join(err, h.Off())
	}
	return h, nil
}

// onHost moves the NIC by commands on a host on which ours runs as a service.
func onHost(h *booted.Host, lan *nettest.LAN) mover {
	return mover{lan, api.Dial(h.Path("/run/drawbridge/drawbridge.sock")), func(_ context.Context, args ...string) (time.Duration, error) {
		cmd := h.Command("drawbridge", args...)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		began := time.Now()
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("drawbridge %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
		}
		return time.Since(began), nil
	}}
}
