package rest

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"drawbridge/internal/api"
	"drawbridge/internal/spec"
)

var update = flag.Bool("update", false, "write golden files anew")

const full = `networks:
  - name: default
    mode: nat
    mtu: 1400
    subnets:
      - 192.168.122.1/24
      - cidr: fd00:1:2:3::/64
        gateway: fd00:1:2:3::fe
    allow_users: [alice, "no"]
    reservations:
      - {mac: 52-54-00-12-34-57, ip: 192.168.122.9}
      - mac: 52:54:00:12:34:56
        ip: 192.168.122.8
        hostname: Web
  - name: "010"
    mode: isolated
    subnets:
      - {cidr: 10.9.0.0/24, dhcp_range: off, lease_time: 1h30m}
    ipv6: off
    autostart: false
    started: false
    bridge: ~
`

func TestDecodeDocument(t *testing.T) {
	d, err := decodeDocument([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	n := d.Networks["default"]
	want := spec.Network{
		Name: "default", Mode: "nat", MTU: 1400, AllowUsers: []string{"alice", "no"}, Autostart: true, Started: true,
		Subnets: []spec.Subnet{
			{
				Prefix: netip.MustParsePrefix("192.168.122.0/24"), Gateway: netip.MustParseAddr("192.168.122.1"), LeaseSeconds: 3600,
				Range: spec.Range{First: netip.MustParseAddr("192.168.122.2"), Last: netip.MustParseAddr("192.168.122.254")},
			},
			{Prefix: netip.MustParsePrefix("fd00:1:2:3::/64"), Gateway: netip.MustParseAddr("fd00:1:2:3::fe")},
		},
		Reservations: []spec.Reservation{
			{MAC: "52:54:00:12:34:56", Addr: netip.MustParseAddr("192.168.122.8"), Hostname: "web"},
			{MAC: "52:54:00:12:34:57", Addr: netip.MustParseAddr("192.168.122.9")},
		},
	}
	if !n.Equal(want) {
		t.Errorf("default is\n%+v, want\n%+v", n, want)
	}
	o := d.Networks["010"]
	if o.Started || o.Autostart || o.IPv6 != spec.IPv6Off || !o.Subnets[0].Range.IsZero() || o.Subnets[0].LeaseSeconds != 5400 {
		t.Errorf("010 is %+v", o)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ text, where, why string }{
		{"", "document", "empty"},
		{"# nothing\n", "document", "empty"},
		{"{}", "line 1, document", "networks: []"},
		{"networks:\n", "line 1, document", "networks: []"},
		{"- a\n", "line 1, document", "mapping"},
		{"networks: {}\n", "line 1, document.networks", "list"},
		{"network: []\n", "line 1, document", `unknown key "network"`},
		{"networks: []\nnetworks: []\n", "line 2, document", "twice"},
		{"networks: []\n---\nnetworks: []\n", "document", "more than one"},
		{"networks:\n  - name: a\n    colour: red\n", "line 3, networks", `unknown key "colour"`},
		{"networks:\n  - name: a\n    forwrds: []\n", "line 3, networks", `unknown key "forwrds"; is it forwards?`},
		{"networks:\n  - name: a\n    mtu: big\n", "line 3, networks.mtu", "number"},
		{"networks:\n  - name: a\n    mtu: 0x10\n", "line 3, networks.mtu", "number"},
		{"networks:\n  - name: a\n    started: maybe\n", "line 3, networks.started", "true or false"},
		{"networks:\n  - name: A\n", "line 2, networks.name", "a-z"},
		{"networks:\n  - mode: nat\n", "line 2, networks.name", "needs a name"},
		{"networks:\n  - name: a\n  - name: a\n", "line 3, networks", "twice"},
		{"networks:\n  - name: a\n    subnets: [10.0.0.0/33]\n", "line 3, networks.a.subnets.subnet", "10.0.0.0/33"},
		{"networks:\n  - name: a\n    subnets:\n    - cidr: 10.0.0.0/24\n      gateway: 10.0.1.1\n", "line 4, networks.a.subnets.gateway", "10.0.1.1"},
		{"networks:\n  - name: a\n    subnets:\n    - cidr: 10.0.0.2/24\n      gateway: 10.0.0.3\n", "line 4, networks.a.subnets.gateway", "10.0.0.3"},
		{"networks:\n  - name: a\n    subnets:\n    - {cidr: 10.0.0.0/24, dhcp_range: x}\n", "line 4, networks.a.subnets.dhcp-range", `"x"`},
		{"networks:\n  - name: a\n    subnets:\n    - {cidr: 10.0.0.0/24, lease_time: 1.5s}\n", "line 4, networks.a.subnets.lease-time", "1.5s"},
		{"networks:\n  - name: a\n    ipv6: maybe\n", "line 2, networks.ipv6", "maybe"},
		{"networks:\n  - name: a\n    reservations:\n    - {mac: x, ip: 10.0.0.1}\n", "line 4, networks.a.reservations.mac", `"x"`},
		{"networks:\n  - name: a\n    reservations:\n    - {mac: 52:54:00:00:00:01, ip: fe80::1%eth0}\n", "line 4, networks.a.reservations.ip", "eth0"},
		{"networks:\n  - name: a\n    reservations:\n    - {mac: 52:54:00:00:00:01, ip: 10.0.0.1}\n    - {mac: 52-54-00-00-00-01, ip: 10.0.0.2}\n", "line 5, networks.a.reservations", "twice"},
		{"a: &x [1]\nnetworks: *x\n", "line 1, document", "unknown key"},
		{"networks:\n- &n {name: a}\n- *n\n", "line 3, networks", "alias"},
		{"networks: [\n", "document", "line"},
		{"networks:\n\t- name: a\n", "document", "line 2"},
	} {
		_, err := decodeDocument([]byte(c.text))
		invalid, ok := errors.AsType[*spec.InvalidError](err)
		if !ok {
			t.Errorf("%q: error is %v", c.text, err)
			continue
		}
		if invalid.Field != c.where || !strings.Contains(invalid.Reason, c.why) {
			t.Errorf("%q: %s: %s, want %s: …%s…", c.text, invalid.Field, invalid.Reason, c.where, c.why)
		}
	}
}

func TestDecodeTakesJSONWithTabs(t *testing.T) {
	d, err := decodeDocument([]byte("{\n\t\"networks\": [\n\t\t{\"name\": \"a\",\t\"mtu\": 1400, \"subnets\": [{\"cidr\": \"10.0.0.0/24\", \"lease_time\": 600}]}\n\t]\n}\n"))
	if err != nil || d.Networks["a"].MTU != 1400 || d.Networks["a"].Subnets[0].LeaseSeconds != 600 {
		t.Errorf("%+v, %v", d, err)
	}
}

// What is exported and applied again must be the same document, in YAML and
// in JSON, and for every way to write a network.
func TestExportThenApplyIsNothingToDo(t *testing.T) {
	f := newFake()
	socket, c := serve(t, f, nil)
	ch, err := c.Apply(t.Context(), []byte(full), api.Options{})
	if err != nil || ch.NothingToDo || ch.Title != "apply document" {
		t.Fatalf("first apply: %+v, %v", ch, err)
	}
	before := f.doc.Clone()
	for _, accept := range []string{"application/yaml", "application/json"} {
		exported := get(t, socket, "/v1/document", accept)
		// A second opinion on what we write, by a reader that is not ours.
		var anything map[string]any
		if err := yaml.Unmarshal(exported, &anything); err != nil || len(anything["networks"].([]any)) != 2 {
			t.Fatalf("%s: %v in\n%s", accept, err, exported)
		}
		decoded, err := decodeDocument(exported)
		if err != nil || !decoded.Equal(before) {
			t.Fatalf("%s: %v\n%s\nis read as\n%+v\nnot\n%+v", accept, err, exported, decoded, before)
		}
		if ch, err := c.Apply(t.Context(), exported, api.Options{}); err != nil || !ch.NothingToDo {
			t.Errorf("%s: second apply: %+v, %v", accept, ch, err)
		}
	}
	if ch, err := c.Plan(t.Context(), []byte("networks: []\n"), api.Options{}); err != nil || !ch.DryRun || ch.NothingToDo {
		t.Errorf("plan: %+v, %v", ch, err)
	}
	if !f.doc.Equal(before) {
		t.Error("planning changed something")
	}
	_, err = c.Apply(t.Context(), []byte("networks:\n  - name: a\n    oops: 1\n"), api.Options{})
	if p := isProblem(t, err, 422, api.CodeInvalid, `line 3, networks: unknown key "oops"`); p.Field != "line 3, networks" {
		t.Errorf("field is %q", p.Field)
	}
}

func FuzzDecodeDocument(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("{\"networks\":[{\"name\":\"a\",\"subnets\":[\"10.0.0.0/24\"]}]}"))
	f.Add([]byte("networks:\n- &a {name: a}\n- *a\n"))
	f.Add([]byte("networks: []\n---\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := decodeDocument(raw)
		if err != nil {
			if _, ok := errors.AsType[*spec.InvalidError](err); !ok {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		for name, n := range d.Networks {
			if n.Name != name || spec.ValidateName(name) != nil {
				t.Fatalf("network %q is under %q", n.Name, name)
			}
			if n.Validate() != nil {
				delete(d.Networks, name) // refused later, by the engine
			}
		}
		text, err := api.YAML(documentOf(d))
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeDocument(text)
		if err != nil || !again.Equal(d) {
			t.Fatalf("%v: written as\n%s\nread as %+v, not %+v", err, text, again, d)
		}
	})
}

const openAPIFile = "../../docs/openapi.yaml"

func TestOpenAPIFileIsTrue(t *testing.T) {
	socket, _ := serve(t, newFake(), nil)
	served := get(t, socket, "/openapi.yaml", "")
	if *update {
		if err := os.WriteFile(openAPIFile, served, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(file) != string(served) {
		t.Errorf("%s is not what is served; go test ./internal/rest -update writes it anew", openAPIFile)
	}
	for _, never := range []string{"ErrorModel", "- \"null\"", "- 'null'", "$schema"} {
		if strings.Contains(string(served), never) {
			t.Errorf("the description has %s", never)
		}
	}
}
