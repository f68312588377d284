package linux

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/ruleset"
)

func TestMachineAnswersAsIPDoes(t *testing.T) {
	r := newRouter(t)
	h, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	m, err := h.Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l := m.Links["b0"]; l.Index != r.index["b0"] || l.Group != 7 || l.Kind != "veth" || l.Type != 1 || !l.Up || !l.Carrier {
		t.Errorf("b0 is %+v", l)
	}
	addr := netip.MustParseAddr
	for _, q := range []diagnose.RouteQuery{
		{Target: addr("10.2.0.5"), Source: addr("10.1.0.5"), In: "a0"}, {Target: addr("10.1.0.1"), Source: addr("10.1.0.5"), In: "a0"},
		{Target: addr("10.2.0.5")}, {Target: addr("fd02::5")}, {Target: addr("fd02::5"), Source: addr("fd01::5"), In: "a0"}, {Target: addr("10.1.0.1")},
		{Target: addr("192.0.2.1")}, {Target: addr("10.1.0.255"), Source: addr("10.1.0.5"), In: "a0"}, {Target: addr("10.2.0.5"), Source: addr("127.0.0.5"), In: "a0"},
	} {
		args := []string{"-j", "route", "get", q.Target.String()}
		if q.In != "" {
			args = append(args, "from", q.Source.String(), "iif", q.In)
		}
		out, err := exec.Command("ip", args...).CombinedOutput()
		said, ok := m.Route(q)
		if !ok {
			t.Errorf("%v is not known", q)
			continue
		}
		if err != nil {
			if said.Type != 7 || said.Why == "" {
				t.Errorf("%v: ip says %s, we say %+v", q, out, said)
			}
			continue
		}
		var routes []struct{ Type, Dev, Prefsrc string }
		if err := json.Unmarshal(out, &routes); err != nil || len(routes) == 0 {
			t.Fatalf("%v: %s", err, out)
		}
		kind := map[string]uint32{"": 1, "unicast": 1, "local": 2, "broadcast": 3}[routes[0].Type]
		if kind != said.Type || kind == 1 && routes[0].Dev != said.Out || routes[0].Prefsrc != "" && said.From != addr(routes[0].Prefsrc) {
			t.Errorf("%v: ip says %s, we say %+v", q, out, said)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/a0/rp_filter", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if said, ok := m.Route(diagnose.RouteQuery{Target: addr("10.2.0.5"), Source: addr("10.2.0.7"), In: "a0"}); !ok || said.Type == 1 || said.Why == "" {
		t.Errorf("a packet from the wrong side: %+v", said)
	}
}

// FuzzRulesDecodeAndWalk: what the kernel gives is another program's, and must
// not stop us, whatever it is.
func FuzzRulesDecodeAndWalk(f *testing.F) {
	nat := put(nil, 1, append([]byte("nat"), 0))
	f.Add(putNest(nil, 1, putNest(nat, 2, putU32(putU32(nil, 1, 1), 2, 2))))
	f.Add(putNest(nil, 1, putNest(put(nil, 1, []byte("match\x00")), 2, put(put(nil, 1, []byte("conntrack\x00")), 3, make([]byte, 40)))))
	f.Add(putNest(nil, 1, putNest(put(nil, 1, []byte("payload\x00")), 2, putU32(putU32(putU32(putU32(nil, 1, 8), 2, 1), 3, 12), 4, 4000))))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &ruleset.Ruleset{}
		table := &ruleset.Table{Family: ruleset.Inet, Name: "t"}
		r.Tables = append(r.Tables, table)
		c := &ruleset.Chain{Name: "c", Type: "filter", Hook: "forward"}
		table.Add(c)
		item := decodeSetItem(b, &slab{})
		set := &ruleset.Set{Table: table, Name: "s", KeyLen: 4, Interval: len(b)%2 == 0}
		set.Elements = joinItems(set, []setItem{item, item})
		c.Rules = []*ruleset.Rule{{Chain: c, Exprs: decodeExprs(b, map[string]*ruleset.Set{"s": set})}}
		for _, p := range []diagnose.Packet{{}, diagnose.NewConnection("a0", netip.MustParseAddr("10.0.0.1"), 6, netip.MustParseAddr("10.0.0.2"), 80), diagnose.NewConnection("a0", netip.MustParseAddr("fd00::1"), 58, netip.MustParseAddr("fd00::2"), 0)} {
			if v := diagnose.Walk(r, nil, diagnose.At{Hook: "forward"}, p); v.Kind == "" {
				t.Error("no verdict")
			}
		}
		_ = c.Rules[0].String()
	})
}
