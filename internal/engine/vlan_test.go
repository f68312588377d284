package engine_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// vlansOf are the VLANs of a link of the fake host, and whether it filters.
func (m *machine) vlansOf(link string) (string, bool) {
	m.t.Helper()
	l, there := m.state()[host.LinkKey(link)].(host.Link)
	if !there {
		return "not there", false
	}
	return l.VLANs, l.Filter
}

func (m *machine) wantVLANs(want map[string]string) {
	m.t.Helper()
	for link, text := range want {
		if got, _ := m.vlansOf(link); got != text {
			m.t.Errorf("%s is in %q, want %q", link, got, text)
		}
	}
}

func TestPortsInVLANs(t *testing.T) {
	s := scenario{before: []engine.Command{bridgedLAN()}}
	m, e := s.prepared(t)
	ctx := t.Context()
	attach := func(guest string, tags spec.Tags) string {
		t.Helper()
		p, err := e.AttachPort(ctx, engine.PortRequest{Network: "lan", Guest: guest, Tags: tags, Owner: -1, Made: "attach"})
		if err != nil {
			t.Fatal(err)
		}
		return p.Tap
	}
	plain := attach("plain", spec.Tags{})
	if _, filters := m.vlansOf("br0"); filters {
		t.Error("the bridge filters although nobody has a VLAN")
	}
	forty := attach("forty", spec.Tags{VLAN: 40})
	fw := attach("fw", spec.Tags{VLAN: 1, Trunk: "50-51"})
	m.wantVLANs(map[string]string{plain: "", forty: "40 pvid untagged", fw: "1 pvid untagged, 50-51", "enp6s18": "1 pvid untagged, 40, 50-51", "br0": ""})
	if _, filters := m.vlansOf("br0"); !filters {
		t.Error("the bridge does not filter")
	}
	// The network's VLAN is that of ports that have none of their own.
	if _, err := e.Do(ctx, engine.SetNetwork{Name: "lan", Settings: map[string]string{"vlan": "30"}}, engine.Options{}); err != nil {
		t.Fatal(err)
	}
	after := map[string]string{plain: "30 pvid untagged", forty: "40 pvid untagged", fw: "1 pvid untagged, 50-51", "enp6s18": "1 pvid untagged, 30, 40, 50-51"}
	m.wantVLANs(after)

	// A tap of another program is put into it; one that chose a VLAN is left there.
	other := host.Link{Name: "libvirt0", Type: host.TypeTap, MAC: "fe:00:00:00:00:09", MTU: 1500, Up: true, Master: "br0"}
	chosen := other
	chosen.Name, chosen.VLANs = "libvirt1", "42 pvid untagged"
	// What others undo is put back by a daemon that was not there meanwhile.
	nic := m.state()[host.LinkKey("enp6s18")].(host.Link)
	undone := nic
	undone.VLANs = "1 pvid untagged, 99"
	br := m.state()[host.LinkKey("br0")].(host.Link)
	off := br
	off.Filter = false
	tap := m.state()[host.LinkKey(forty)].(host.Link)
	stray := tap
	stray.VLANs = ""
	if err := m.fake.Outside(plan.Step{After: other}, plan.Step{After: chosen}, plan.Step{Before: nic, After: undone}, plan.Step{Before: br, After: off}, plan.Step{Before: tap, After: stray}); err != nil {
		t.Fatal(err)
	}
	e = m.start(m.fake)
	engine.RepairNow(ctx, e)
	after["enp6s18"], after["libvirt0"], after["libvirt1"] = "1 pvid untagged, 30, 40, 50-51, 99", "30 pvid untagged", "42 pvid untagged"
	m.wantVLANs(after)
	if _, filters := m.vlansOf("br0"); !filters {
		t.Error("the bridge does not filter any more")
	}
	v, err := e.View(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(v.Ports, func(p engine.Port) bool { return p.Tap == fw })
	if i < 0 || v.Ports[i].Tags != (spec.Tags{VLAN: 1, Trunk: "50-51"}) {
		t.Errorf("ports %+v", v.Ports)
	}
}

func TestPortsThatCannotBeInVLANs(t *testing.T) {
	s := scenario{before: []engine.Command{network("default")}}
	m, e := s.prepared(t)
	before := m.state()
	for name, r := range map[string]engine.PortRequest{
		"VLANs are the LAN's": {Network: "default", Tags: spec.Tags{VLAN: 30}},
		"is no VLAN":          {Network: "default", Tags: spec.Tags{VLAN: 5000}},
	} {
		_, err := e.AttachPort(t.Context(), r)
		var bad *spec.InvalidError
		if !errors.As(err, &bad) || !strings.Contains(bad.Reason, name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if steps := plan.Diff(before, m.state()); len(steps) != 0 {
		t.Errorf("%d things changed", len(steps))
	}
}
