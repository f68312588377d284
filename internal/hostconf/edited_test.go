package hostconf

import (
	"strings"
	"testing"

	"drawbridge/internal/host"
)

// What an operator writes into a manager's file while the bridge stands is his, and
// stays; what was put in for the bridge goes.
func TestWhatWasEditedSinceStays(t *testing.T) {
	const etc = "/etc/network/interfaces"
	for _, c := range []struct {
		name, file, before string
		m                  manager
		d                  Description
		from, to           string // the edit
		want               string // afterwards
	}{
		{
			name: "ifupdown", file: etc, m: ifupdown{}, d: Description{Link: "eth0", Files: []string{etc}},
			before: "auto eth0\niface eth0 inet static\n\taddress 192.0.2.5/24\n\tgateway 192.0.2.1\n\nauto lo\niface lo inet loopback\n",
			from:   "\tgateway 192.0.2.1\n", to: "\tgateway 192.0.2.1\n\tdns-nameservers 192.0.2.7\n",
			want: "auto eth0\niface eth0 inet static\n\taddress 192.0.2.5/24\n\tgateway 192.0.2.1\n\tdns-nameservers 192.0.2.7\n\nauto lo\niface lo inet loopback\n",
		},
		{
			name: "ifupdown2", file: etc, m: ifupdown2{}, d: Description{Link: "eth0", Files: []string{etc}},
			before: "auto eth0\niface eth0\n    address 192.0.2.5/24\n    gateway 192.0.2.1\n",
			from:   "address 192.0.2.5/24", to: "address 192.0.2.6/24",
			want: "auto eth0\niface eth0\n    address 192.0.2.6/24\n    gateway 192.0.2.1\n",
		},
		{
			name: "netplan", file: "/etc/netplan/01.yaml", m: netplan{}, d: Description{Link: "eth0", Definition: "eth0", Files: []string{"/etc/netplan/01.yaml"}},
			before: "# mine\nnetwork:\n    version: 2\n    ethernets:\n        eth0:\n            addresses: [192.0.2.5/24]\n            nameservers:\n                addresses: [192.0.2.1]\n",
			from:   "addresses: [192.0.2.1]\n", to: "addresses: [192.0.2.1, 192.0.2.7]\n",
			want: "# mine\nnetwork:\n    version: 2\n    ethernets:\n        eth0:\n            addresses: [192.0.2.5/24]\n            nameservers:\n                addresses: [192.0.2.1, 192.0.2.7]\n",
		},
		{
			name: "networkmanager", file: nmEtc + "lan.nmconnection", m: networkManager{},
			d: Description{Link: "eth0", Connection: "11111111-2222-3333-4444-555555555555", RouteMetric: 100, Files: []string{nmEtc + "lan.nmconnection"},
				Generated: "# mine\n[connection]\nid=lan\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\n\n[ipv4]\nmethod=manual\naddress1=192.0.2.5/24\n# the router\ndns=192.0.2.1;\n"},
			before: "# mine\n[connection]\nid=lan\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\n\n[ipv4]\nmethod=manual\naddress1=192.0.2.5/24\n# the router\ndns=192.0.2.1;\n",
			// nmcli writes all of it anew.
			from: "", to: "[connection]\nid=office\nuuid=11111111-2222-3333-4444-555555555555\ntype=bridge\ninterface-name=br0\n\n[ethernet]\n\n[bridge]\nforward-delay=0\nmac-address=52:54:00:AA:BB:01\nstp=true\n\n[ipv4]\naddress1=192.0.2.5/24\ndns=192.0.2.7;\nmethod=manual\nroute-metric=100\n\n[ipv6]\nmethod=disabled\n",
			want: "# mine\n[connection]\nid=office\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\n\n[ipv4]\nmethod=manual\naddress1=192.0.2.5/24\n# the router\ndns=192.0.2.7;\n\n[ipv6]\nmethod=disabled\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, edit := range []bool{false, true} {
				tr := filesIn(t, map[string]string{c.file: c.before})
				files, err := c.m.permanent(tr, host.Profile{Bridge: "br0", Uplinks: "eth0", MAC: "52:54:00:aa:bb:01", MTU: 1500}, c.d)
				if err != nil {
					t.Fatal(err)
				}
				for i := range files {
					if err := tr.lookBefore(&files[i]); err != nil {
						t.Fatal(err)
					}
				}
				if err := tr.put(files); err != nil {
					t.Fatal(err)
				}
				with := tr.text(c.file) + "\n"
				if !strings.Contains(with, "br0") {
					t.Fatalf("no bridge in\n%s", with)
				}
				want := c.before
				if edit {
					want = c.want
					after := c.to
					if c.from != "" {
						if !strings.Contains(with, c.from) {
							t.Fatalf("%q is not in\n%s", c.from, with)
						}
						after = strings.Replace(with, c.from, c.to, 1)
					}
					if err := tr.write(c.file, []byte(after), 0o600, 0, 0); err != nil {
						t.Skip(err) // only root gives files away
					}
				}
				var told []string
				foretold := tr.edited(files, "/attic")
				if err := tr.restore(files, "/attic", func(s string) { told = append(told, s) }); err != nil {
					t.Fatal(err)
				}
				if got, _ := tr.read(c.file); string(got) != want {
					t.Errorf("edited %v: it is\n%s\nwanted:\n%s", edit, got, want)
				}
				if (len(told) == 1) != edit || strings.Join(told, "") != strings.Join(foretold, "") || edit && !strings.Contains(told[0], "only what was put in for the bridge is taken out") {
					t.Errorf("edited %v: told %q, and before that %q", edit, told, foretold)
				}
			}
		})
	}
}

// Files that another program writes anew from its own, as netplan does with
// NetworkManager's at every daemon-reload, are put back without a word.
func TestPassingFilesAreNobodysEdits(t *testing.T) {
	const was, fresh = nmRun + "netplan-eth0.nmconnection", nmRun + "netplan-br0.nmconnection"
	for _, now := range []map[string]string{{}, {was: "anew"}, {was: "ours", fresh: "anew"}} {
		tr := filesIn(t, now)
		files := []file{{Path: was, Before: []byte("before"), After: []byte("ours"), Passing: true}, {Path: fresh, After: []byte("ours"), Passing: true}}
		if !tr.allThere(files) {
			t.Errorf("%v: something is missing", now)
		}
		tell := func(note string) { t.Errorf("%v: %s", now, note) }
		if err := tr.restore(files, "/attic", tell); err != nil {
			t.Fatal(err)
		}
		if tr.text(was) != "before" || tr.exists(fresh) {
			t.Errorf("%v: it is %q, and the other there: %v", now, tr.text(was), tr.exists(fresh))
		}
	}
}
