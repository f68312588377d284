package rest

import (
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

func TestWhatIsCapturedByName(t *testing.T) {
	lab := network(t, "lab")
	lab.Bridge = "virbr0"
	off := network(t, "off")
	off.Bridge = "virbr9"
	v := engine.View{
		Document: spec.Document{}.With(lab).With(off),
		State:    host.NewState(host.Link{Name: "virbr0", Type: host.TypeBridge}),
		Ports: []engine.Port{
			{Network: "lab", Bridge: "virbr0", Tap: "vnet0", Guest: "web", MAC: "52:54:00:00:00:01", Addresses: []string{"192.168.122.5"}},
			{Network: "lab", Bridge: "virbr0", Tap: "vnet1", Guest: "two"}, {Network: "off", Bridge: "virbr9", Tap: "vnet2", Guest: "two"},
			{Network: "lab", Bridge: "virbr0", Tap: "vnet3", Guest: "lab"},
		},
	}
	for target, want := range map[string]string{"web": "port vnet0", "vnet0": "port vnet0", "vnet2": "port vnet2", "lab": "port vnet3"} {
		p, err := capturePoint(v, target)
		if err != nil || p.Kind+" "+p.Link != want {
			t.Errorf("%s is %+v, %v", target, p, err)
		}
	}
	v.Ports = v.Ports[:3]
	p, err := capturePoint(v, "lab")
	if err != nil || p.Kind != "network" || p.Link != "virbr0" || !reflect.DeepEqual(p.Addresses, []string{"192.168.122.0/24"}) {
		t.Errorf("network is %+v, %v", p, err)
	}
	for target, want := range map[string]string{"two": "two has 2 NICs; name one: vnet1 (on lab), vnet2 (on off)", "off": "is not running", "enp6s18": "there is no guest, port or network"} {
		if _, err := capturePoint(v, target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", target, err, want)
		}
	}
}

func TestASocketForPacketsIsHandedOverOnce(t *testing.T) {
	f := newFake()
	f.doc = f.doc.With(network(t, "lab"))
	f.ports["vnet0"] = engine.Port{Network: "lab", Bridge: "virbr0", Tap: "vnet0", Guest: "web"}
	var opened []string
	var inode uint64
	socket, c := serve(t, f, func(c *Config) {
		c.OpenCapture = func(link string) (*os.File, int, error) {
			opened = append(opened, link)
			file, err := os.Open(t.TempDir())
			var st unix.Stat_t
			if err == nil {
				err = unix.Fstat(int(file.Fd()), &st)
			}
			inode = st.Ino
			return file, 7, err
		}
	})
	point, file, err := c.OpenCapture(t.Context(), api.CaptureRequest{Target: "web"})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil || st.Ino != inode {
		t.Errorf("another descriptor came: %v", err)
	}
	if point.Link != "vnet0" || point.Index != 7 || point.Guest != "web" || len(opened) != 1 || opened[0] != "vnet0" {
		t.Errorf("point is %+v, opened %q", point, opened)
	}
	_, _, err = c.OpenCapture(t.Context(), api.CaptureRequest{Target: "db"})
	isProblem(t, err, 404, api.CodeNotFound, `no guest, port or network "db"`)
	resp, err := unixClient(socket).Post("http://drawbridge/v1/captures/open", "application/json", strings.NewReader(`{"target":"web"}`))
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without an upgrade: %v %v", resp.StatusCode, err)
	}
	resp.Body.Close()
	if len(opened) != 1 {
		t.Errorf("opened %q", opened)
	}
}
