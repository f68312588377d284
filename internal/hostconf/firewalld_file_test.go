package hostconf

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// firewalldTree is a host with a firewalld that owns its table.
func firewalldTree(t *testing.T, files map[string]string) tree {
	t.Helper()
	dir := tree{t.TempDir()}
	stock, err := os.ReadFile("../../packaging/firewalld/zone.xml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{zoneThatComes: string(stock), firewalldConf: "# NftablesTableOwner=no\nDefaultZone=public\nNftablesTableOwner=yes\n"}
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		if err := os.MkdirAll(filepath.Dir(dir.path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir.path(name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir.path(ownZones), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (t tree) mustBind(on *testing.T, bridge string, in bool) {
	on.Helper()
	if err := t.bind(bridge, in); err != nil {
		on.Fatal(err)
	}
}

// inFile says which bridges the file of our zone names, by its text.
func inFile(t tree) (links []string) {
	for _, part := range strings.Split(t.text(zoneFile), `<interface name="`)[1:] {
		links = append(links, part[:strings.Index(part, `"`)])
	}
	return links
}

func TestFileOfZoneComesAndGoesWithItsBridges(t *testing.T) {
	dir := firewalldTree(t, nil)
	stock := dir.text(zoneThatComes)
	for _, b := range []string{"virbr1", "virbr0", "virbr0"} {
		dir.mustBind(t, b, true)
	}
	if got := inFile(dir); !slices.Equal(got, []string{"virbr0", "virbr1"}) {
		t.Errorf("there are %v", got)
	}
	for line := range strings.Lines(stock) {
		if !strings.Contains(dir.text(zoneFile), strings.TrimSpace(line)) {
			t.Errorf("of the zone that comes with drawbridge is missing: %s", line)
		}
	}
	// A later drawbridge brings another zone.
	if err := os.WriteFile(dir.path(zoneThatComes), []byte(strings.Replace(stock, "</zone>", "  <service name=\"ntp\"/>\n</zone>\n", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if z, err := dir.readZones(); err != nil || z.stands("virbr0") {
		t.Errorf("the file of an earlier zone is taken as it is: %v", err)
	}
	dir.mustBind(t, "virbr0", true)
	if z, err := dir.readZones(); err != nil || !z.stands("virbr0") || !z.stands("virbr1") || !strings.Contains(dir.text(zoneFile), "ntp") {
		t.Errorf("%v: %v\n%s", err, z, dir.text(zoneFile))
	}
	dir.mustBind(t, "virbr1", false)
	dir.mustBind(t, "virbr9", false)
	if got := inFile(dir); !slices.Equal(got, []string{"virbr0"}) {
		t.Errorf("there are %v", got)
	}
	dir.mustBind(t, "virbr0", false)
	if dir.exists(zoneFile) {
		t.Errorf("the file stays:\n%s", dir.text(zoneFile))
	}
}

// What the administrator made of our zone is his but for the lines with our bridges,
// also if firewalld wrote the file anew meanwhile.
func TestFileOfAdministratorStaysHis(t *testing.T) {
	his := "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <short>drawbridge</short>\n  <service name=\"ssh\"/>\n  <interface name=\"virbr00\"/>\n</zone>\n"
	dir := firewalldTree(t, map[string]string{zoneFile: his})
	dir.mustBind(t, "virbr0", true)
	dir.mustBind(t, "virbr0", true)
	if got := inFile(dir); !slices.Equal(got, []string{"virbr00", "virbr0"}) {
		t.Errorf("there are %v", got)
	}
	dir.mustBind(t, "virbr0", false)
	if got, _ := dir.read(zoneFile); string(got) != his {
		t.Errorf("it was\n%s\nand is\n%s", his, got)
	}
}

// A link that is named in two zones keeps firewalld from starting.
func TestBridgeOfAnotherZoneIsLeftThere(t *testing.T) {
	for _, other := range []string{ownZones + "/trusted.xml", ownZones + "/work/more.xml", "/usr/lib/firewalld/zones/libvirt.xml"} {
		dir := firewalldTree(t, map[string]string{other: "<zone target=\"ACCEPT\">\n  <interface name=\"virbr0\" />\n</zone>\n"})
		dir.mustBind(t, "virbr0", true)
		dir.mustBind(t, "virbr1", true)
		if got := inFile(dir); !slices.Equal(got, []string{"virbr1"}) {
			t.Errorf("%s: in our zone are %v", other, got)
		}
		if z, err := dir.readZones(); err != nil || !z.stands("virbr0") || dir.expects("virbr0") {
			t.Errorf("%s: it is missed in our zone: %v", other, err)
		}
	}
}

func TestFirewalldIsExpectedToStopGuests(t *testing.T) {
	zone := func(target string) string { return "<zone" + target + ">\n  <service name=\"ssh\"/>\n</zone>\n" }
	stock := "/usr/lib/firewalld/zones/public.xml"
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"as it is installed":           {map[string]string{stock: zone("")}, true},
		"all is allowed":               {map[string]string{stock: zone(""), ownZones + "/public.xml": zone(` target="ACCEPT"`)}, false},
		"all is allowed by another":    {map[string]string{stock: zone(""), firewalldConf: "DefaultZone=trusted\nNftablesTableOwner=yes\n", ownZones + "/trusted.xml": zone(` target="ACCEPT"`)}, false},
		"rules of others would do":     {map[string]string{stock: zone(""), firewalldConf: "DefaultZone=public\nNftablesTableOwner=no\n"}, false},
		"before there were such words": {map[string]string{stock: zone(""), firewalldConf: "DefaultZone=public\n"}, false},
	} {
		if dir := firewalldTree(t, c.files); dir.expects("virbr0") != c.want {
			t.Errorf("%s: want %t", name, c.want)
		}
	}
	if (tree{t.TempDir()}).expects("virbr0") {
		t.Error("there is no firewalld")
	}
}
