package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/nettest"
)

func TestQEMUArguments(t *testing.T) {
	for _, c := range []struct {
		spec         string
		taps, vhosts []int
		want         string
	}{
		{"network=a", []int{3}, nil, "-netdev tap,id=db1,fd=3 -device virtio-net-pci,netdev=db1,mac=M"},
		{"network=a", []int{3}, []int{4}, "-netdev tap,id=db1,fd=3,vhost=on,vhostfd=4 -device virtio-net-pci,netdev=db1,mac=M"},
		{"network=a,queues=2", []int{3, 4}, []int{5, 6}, "-netdev tap,id=db1,fds=3:4,vhost=on,vhostfds=5:6 -device virtio-net-pci,netdev=db1,mac=M,mq=on,vectors=6"},
		{"network=a,queues=3", []int{3, 4, 5}, nil, "-netdev tap,id=db1,fds=3:4:5 -device virtio-net-pci,netdev=db1,mac=M,mq=on,vectors=8"},
		{"network=a,queues=2,model=virtio-net-device", []int{3, 4}, nil, "-netdev tap,id=db1,fds=3:4 -device virtio-net-device,netdev=db1,mac=M,mq=on"},
		{"network=a,model=e1000", []int{3}, []int{4}, "-netdev tap,id=db1,fd=3 -device e1000,netdev=db1,mac=M"},
		{"network=a,model=virtio-net-pci-non-transitional", []int{7}, nil, "-netdev tap,id=db1,fd=7 -device virtio-net-pci-non-transitional,netdev=db1,mac=M"},
	} {
		n, err := parseNIC(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(n.arguments(1, "M", c.taps, c.vhosts), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.spec, got, c.want)
		}
	}
}

func TestNICsOfOneGuestShareItsName(t *testing.T) {
	nics, err := parseNICs([]string{"network=a", "network=b,name=web", "network=c,name=db"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range nics {
		got = append(got, n.request.Guest)
	}
	if want := []string{"web", "web", "db"}; !reflect.DeepEqual(got, want) {
		t.Errorf("names are %q", got)
	}
	for _, bad := range []string{"", "network", "network=", "network=a,network=b", "network=a,queues=0", "network=a,queues=257", "network=a,queues=x", "name=web", "network=a,colour=red", "network=a,model=e1000,queues=4"} {
		if _, err := parseNICs([]string{bad}); err == nil {
			t.Errorf("--nic %q was taken", bad)
		}
	}
}

func TestNameIsGivenOnce(t *testing.T) {
	for args, want := range map[string]string{"-m 1G": "-name web", "-name x": "", "--name guest=x": "", "": "-name web"} {
		if got := strings.Join(nameArguments(strings.Fields(args), "web"), " "); got != want {
			t.Errorf("%q: %q", args, got)
		}
	}
}

// giver hands over pipes, in place of taps, from which their number can be
// read, and writes down what was asked.
func giver(t *testing.T, taps, vhosts int, asked chan<- api.PortRequest) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in api.PortRequest
		d := json.NewDecoder(r.Body)
		if err := d.Decode(&in); err != nil {
			t.Error(err)
		}
		asked <- in
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		var files []*os.File
		for i := range taps + vhosts {
			r, w, err := os.Pipe()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(w, "pipe %d\n", i)
			w.Close()
			defer r.Close()
			files = append(files, r)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		line, _ := json.Marshal(api.Opened{Port: api.Port{Tap: "vnet0", MAC: "52:54:00:00:00:01"}, Taps: taps, Vhosts: vhosts})
		if err := api.SendDescriptors(conn.(*net.UnixConn), line, files); err != nil {
			t.Error(err)
		}
	}
}

// The program becomes the one named after --: it has the descriptors, the
// arguments and the terminal, and its exit code is the caller's.
func TestQEMUGetsDescriptorsAndItsExitCodeIsOurs(t *testing.T) {
	nettest.Need(t, "bash") // dash knows one digit of a descriptor's number
	d := startGiving(t, 2, 2)
	script := `for a; do case $a in tap,*) fds=${a#*fds=}; fds=${fds%%,*}; vfds=${a#*vhostfds=};; esac; done
for fd in $(echo $fds $vfds | tr : ' '); do eval "head -n1 <&$fd"; done; read line; echo "$line"; echo "$@" | sed 's/fds=[0-9:]*/fds=N/g'; exit 7`
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "qemu", "--nic", "network=default,name=web,queues=2", "--", "bash", "-c", script, "bash", "-m", "1G")
	cmd.Env = append(os.Environ(), asMain+"=drawbridge", "DRAWBRIDGE_SOCKET="+d.daemon.socket)
	cmd.Stdin = strings.NewReader("from the console\n")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 7 {
		t.Errorf("exit is %v", err)
	}
	want := "pipe 0\npipe 1\npipe 2\npipe 3\nfrom the console\n" +
		"-m 1G -name web -netdev tap,id=db0,fds=N,vhost=on,vhostfds=N -device virtio-net-pci,netdev=db0,mac=52:54:00:00:00:01,mq=on,vectors=6\n"
	if string(out) != want {
		t.Errorf("it printed\n%s\nwant\n%s", out, want)
	}
	if got, want := <-d.asked, (api.PortRequest{Network: "default", Guest: "web", Queues: 2, Made: "qemu"}); got != want {
		t.Errorf("asked for %+v", got)
	}
}

type giving struct {
	daemon *daemon
	asked  chan api.PortRequest
}

func startGiving(t *testing.T, taps, vhosts int) giving {
	asked := make(chan api.PortRequest, 8)
	return giving{startDaemon(t, map[string]any{"POST /ports/open": giver(t, taps, vhosts, asked)}), asked}
}

func TestSignalsReachQEMU(t *testing.T) {
	d := startGiving(t, 1, 0)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "qemu", "--nic", "network=default", "--", "/bin/sh", "-c", `trap 'exit 9' TERM; echo ready; while :; do read x || sleep 0.05; done`)
	cmd.Env = append(os.Environ(), asMain+"=drawbridge", "DRAWBRIDGE_SOCKET="+d.daemon.socket)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err, ok := cmd.Wait().(*exec.ExitError); !ok || err.ExitCode() != 9 {
		t.Errorf("exit is %v", err)
	}
}

func TestQEMUThatIsNotThereOpensNoPort(t *testing.T) {
	d := startGiving(t, 1, 0)
	r := d.daemon.run(t, "", "qemu", "--nic", "network=default", "--", "no-such-program")
	if r.code != ExitFailed || !strings.Contains(r.stderr, "no-such-program") || len(d.asked) > 0 {
		t.Errorf("%+v, %d ports asked for", r, len(d.asked))
	}
}

// beQEMU starts the helper as QEMU does, and prints what it gets from it.
func beQEMU() int {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return 50
	}
	theirs := os.NewFile(uintptr(fds[1]), "helper")
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"/usr/lib/qemu/" + HelperName, "--use-vnet", "--fd=3", "--br=virbr0"}
	cmd.Env = append(os.Environ(), asMain+"=drawbridge")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return 51
	}
	theirs.Close()
	b, oob := make([]byte, 8), make([]byte, syscall.CmsgSpace(4*4))
	n, oobn, _, _, err := syscall.Recvmsg(fds[0], b, oob, 0)
	if err != nil || n != 1 || b[0] != 0 {
		return 52
	}
	msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return 53
	}
	got, err := syscall.ParseUnixRights(&msgs[0])
	if err != nil || len(got) != 1 {
		return 54
	}
	if _, err := io.Copy(os.Stdout, os.NewFile(uintptr(got[0]), "tap")); err != nil {
		return 55
	}
	return 0
}

func TestBridgeHelperSpeaksQEMUsProtocol(t *testing.T) {
	d := startGiving(t, 1, 0)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args = []string{"qemu-system-x86_64", "-m", "1G", "-name", "guest=Web.1,debug-threads=on"}
	cmd.Env = append(os.Environ(), asMain+"=qemu", "DRAWBRIDGE_SOCKET="+d.daemon.socket)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || string(out) != "pipe 0\n" {
		t.Fatalf("%v, %q, %s", err, out, errs.String())
	}
	if got, want := <-d.asked, (api.PortRequest{Bridge: "virbr0", Guest: "web-1", NoMAC: true, Made: "bridge-helper"}); got != want {
		t.Errorf("asked for %+v, want %+v", got, want)
	}
}

func TestBridgeHelperRefuses(t *testing.T) {
	for _, c := range []struct{ args, why string }{
		{"", "one is missing"}, {"--br=virbr0", "one is missing"}, {"--fd=x --br=a", "not a descriptor"}, {"--bogus", "unknown argument"},
		{"--br=virbr0 --fd=1", "not"}, {"--br=virbr0 --fd=999", "descriptor 999"},
	} {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Args = append([]string{HelperName}, strings.Fields(c.args)...)
		cmd.Env = append(os.Environ(), asMain+"=drawbridge", "DRAWBRIDGE_SOCKET=/nonexistent")
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		exit, ok := err.(*exec.ExitError)
		if !ok || exit.ExitCode() != 1 || c.args != "--br=virbr0 --fd=1" && !strings.Contains(string(out), c.why) || strings.Count(string(out), "\n") > 1 {
			t.Errorf("%s: %v, %s", c.args, err, out)
		}
	}
}

func TestGuestNames(t *testing.T) {
	for args, want := range map[string]string{
		"qemu -name web": "web", "qemu -name guest=Web,process=x": "web", "qemu -name process=x,guest=db": "db", "qemu --name Ünïcode": "n-code",
		"qemu -m 1G": "", "qemu -name": "", "qemu -name ...": "", "qemu -name " + strings.Repeat("a", 80): strings.Repeat("a", 63),
	} {
		if got := guestName(strings.Fields(args)); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}
