package hostconf

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"drawbridge/internal/host"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestFilesOfUplinks compares what becomes of managers' files with golden ones, where
// the uplink is a bond, a VLAN, or somebody else's to describe. The first line
// of testdata/uplinks/*.txtar names manager, uplink, and the file that its daemon
// would say that it has the uplink with. What the managers' own programs say of
// these files is asked in test/hosts.
func TestFilesOfUplinks(t *testing.T) {
	files, err := filepath.Glob("testdata/uplinks/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) { testUplink(t, f) })
	}
}

func testUplink(t *testing.T, golden string) {
	a, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(a.Comment), "\n")
	words := append(strings.Fields(first), "")
	manager, link, source := words[0], words[1], words[2]
	before := map[string]string{"/sys/class/net/" + link + "/address": "52:54:00:aa:bb:01\n", "/sys/class/net/" + link + "/ifindex": "3\n"}
	for _, f := range a.Files {
		if name, ok := strings.CutPrefix(f.Name, "before"); ok {
			before[name] = string(f.Data)
		}
	}
	switch manager {
	case IfUpDown2:
		before[ifupdown2Program] = ""
	case Networkd, Netplan:
		before["/proc/77/comm"] = "systemd-network\n"
		before[networkdState+"/links/3"] = "ADMIN_STATE=configured\nNETWORK_FILE=" + source + "\n"
	}
	tr := filesIn(t, before)
	m, err := managerOf(manager)
	if err != nil {
		t.Fatal(err)
	}
	d := Description{Link: link, Manager: manager}
	if manager == NetworkManager || manager == NetplanNM {
		d.hasKeyfile(source, before[source], nmDevice{connection: "11111111-2222-3333-4444-555555555555"})
		if manager == NetplanNM {
			d.Definition, _ = keyfileID(source)
			if err := readNetplanFiles(tr, &d); err != nil {
				t.Fatal(err)
			}
		}
	} else if has, err := m.describe(t.Context(), tr, &d); err != nil || !has {
		t.Fatalf("described: %v, %v", has, err)
	}
	if len(d.Cannot) > 0 || !d.hasMethod() {
		t.Fatalf("described as %+v", d)
	}
	p := host.Profile{Bridge: "br0", Uplinks: link, MAC: "52:54:00:aa:bb:01", MTU: 1500}
	got := &txtar.Archive{Comment: a.Comment, Files: slices.DeleteFunc(slices.Clone(a.Files), func(f txtar.File) bool { return !strings.HasPrefix(f.Name, "before") })}
	for _, stage := range []struct {
		name  string
		files func(tree, host.Profile, Description) ([]file, error)
	}{{"meanwhile", m.runtime}, {"after", m.permanent}} {
		made, err := stage.files(tr, p, d)
		if err != nil {
			t.Fatalf("%s: %v", stage.name, err)
		}
		for _, f := range made {
			got.Files = append(got.Files, txtar.File{Name: stage.name + f.Path, Data: f.After})
		}
	}
	b := txtar.Format(got)
	if *update {
		if err := os.WriteFile(golden, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(b, txtar.Format(a)) && !*update {
		t.Errorf("%s is:\n%s", golden, b)
	}
}
