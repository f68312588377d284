package diagnose

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func p(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// The hosts that people ask about. What cannot be had on a test machine (Wi-Fi,
// clouds, 802.1X) is recorded: vendors' words of DMI are those of package linux,
// whose sources are named there.
func TestAdvice(t *testing.T) {
	server := Ground{
		Uplink: "enp6s18", Carrier: true, SpeedMbit: 10000, OnlyNIC: true, Operator: "192.168.99.7", Method: "dhcp", Manager: "ifupdown",
		LAN: p("192.168.99.0/24"), Seen: 12, Six: p("2001:db8:99::/64"), Networks: map[string][]string{"nat": {"default"}},
	}
	with := func(edit func(*Ground)) Ground {
		g := server
		edit(&g)
		return g
	}
	for _, c := range []struct {
		name   string
		ground Ground
		ask    Question
		want   string
	}{
		{"server-production", server, Question{For: Production, Wants: []Want{WantInbound, WantMigration}}, "bridged"},
		{"server-development", server, Question{For: Development}, "nat"},
		{"server-development-peer", server, Question{For: Development, Wants: []Want{WantPeer}}, "bridged"},
		{"server-ci", server, Question{For: CI}, "nat"},
		{"server-production-hidden", server, Question{For: Production, Wants: []Want{WantHidden}}, "nat"},
		{"server-no-internet", server, Question{For: CI, Wants: []Want{WantCutOff}}, "isolated"},
		{"server-bridge-already", with(func(g *Ground) { g.Bridge, g.OnlyNIC = "br0", false }), Question{For: Production}, "bridged"},
		{"laptop-wifi", Ground{Uplink: "wlp2s0", Wireless: true, Carrier: true, Battery: true, OnlyNIC: true, Method: "dhcp", Manager: "networkmanager", LAN: p("192.168.1.0/24"), Seen: 5}, Question{For: Laptop, Wants: []Want{WantPeer}}, "nat"},
		{"laptop-cable", with(func(g *Ground) { g.Battery, g.Operator = true, "" }), Question{For: Laptop}, "nat"},
		{"cloud", with(func(g *Ground) { g.Cloud, g.Hypervisor = "Amazon EC2", "Amazon EC2" }), Question{For: Production, Wants: []Want{WantInbound}}, "nat"},
		{"nested-vmware", with(func(g *Ground) { g.Hypervisor = "VMware" }), Question{For: Production}, "bridged"},
		{"8021x", with(func(g *Ground) { g.Port8021X = true }), Question{For: Production, Wants: []Want{WantPeer}}, "nat"},
		{"wireguard-only", with(func(g *Ground) { g.Uplink, g.Kind = "wg0", "wireguard" }), Question{For: Production, Wants: []Want{WantPeer}}, "nat"},
		{"nfs-root", with(func(g *Ground) { g.Root = "NFS from 192.168.99.5" }), Question{For: Production}, "nat"},
		{"crowded-lan", with(func(g *Ground) { g.Seen = 230 }), Question{For: Production}, "bridged"},
		{"docker", with(func(g *Ground) { g.Others = []string{"Docker", "ufw"} }), Question{For: Production}, "bridged"},
		{"no-uplink", Ground{}, Question{For: Production}, "nat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := Advise(c.ground, c.ask)
			if a.Mode != c.want {
				t.Errorf("advises %s, want %s", a.Mode, c.want)
			}
			text := strings.Join(a.Text(), "\n") + "\n"
			file := filepath.Join("testdata", "advise", c.name+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if golden, err := os.ReadFile(file); err != nil || string(golden) != text {
				t.Errorf("not as in %s (%v):\n%s", file, err, text)
			}
		})
	}
}

// Whatever the host and the question, a bridge is never advised where one cannot
// be, there is always a command, and the same question has the same answer.
func TestAdviceIsNeverImpossible(t *testing.T) {
	truth := []bool{false, true}
	for _, purpose := range append(slices.Clone(Purposes), "") {
		for bits := range 1 << len(Wants) {
			var wants []Want
			for i, w := range Wants {
				if bits>>i&1 == 1 {
					wants = append(wants, w)
				}
			}
			for _, wifi := range truth {
				for _, cloud := range []string{"", "Hetzner Cloud"} {
					for _, uplink := range []string{"", "eth0"} {
						g := Ground{Uplink: uplink, Wireless: wifi && uplink != "", Cloud: cloud, Carrier: true}
						q := Question{For: purpose, Wants: wants}
						a := Advise(g, q)
						if a.Mode == "bridged" && (g.Wireless || cloud != "" || uplink == "") {
							t.Fatalf("%+v %+v: %+v", g, q, a)
						}
						if len(a.Commands) == 0 || len(a.Why) == 0 || len(a.Others) != 4 {
							t.Fatalf("%+v %+v: says too little: %+v", g, q, a)
						}
						if strings.Join(a.Text(), "\n") != strings.Join(Advise(g, q).Text(), "\n") {
							t.Fatalf("%+v %+v: two answers", g, q)
						}
					}
				}
			}
		}
	}
}
