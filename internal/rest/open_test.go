package rest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/spec"
)

// pipes makes n read ends; from the i-th, "i" can be read and then the end.
func pipes(t *testing.T, n int) []*os.File {
	var out []*os.File
	for i := range n {
		r, w, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return nil
		}
		fmt.Fprint(w, i)
		w.Close()
		out = append(out, r)
	}
	return out
}

func TestDescriptorsArriveInOrder(t *testing.T) {
	for _, c := range []struct{ taps, vhosts int }{{1, 0}, {1, 1}, {4, 4}, {126, 127}, {256, 256}} {
		t.Run(fmt.Sprintf("%d+%d", c.taps, c.vhosts), func(t *testing.T) {
			f := newFake()
			f.taps, f.vhosts, f.files = c.taps, c.vhosts, func(n int) []*os.File { return pipes(t, n) }
			_, client := serve(t, f, nil)
			before := openFiles(t)
			opened, taps, vhosts, err := client.OpenPort(t.Context(), api.PortRequest{Network: "default", Guest: "web", Queues: c.taps})
			if err != nil {
				t.Fatal(err)
			}
			if len(taps) != c.taps || len(vhosts) != c.vhosts || opened.Port.Tap != "vnet0" || opened.Port.MAC != "52:54:00:01:02:03" {
				t.Fatalf("%d taps, %d vhosts, %+v", len(taps), len(vhosts), opened)
			}
			for _, files := range [][]*os.File{taps, vhosts} {
				for i, file := range files {
					flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, file.Fd(), syscall.F_GETFD, 0)
					if errno != 0 || flags&syscall.FD_CLOEXEC == 0 {
						t.Errorf("descriptor %d is not close-on-exec (%v)", i, errno)
					}
					got, err := io.ReadAll(file)
					if err != nil || string(got) != fmt.Sprint(i) {
						t.Errorf("descriptor %d reads %q, %v", i, got, err)
					}
					file.Close()
				}
			}
			f.set(func() {
				if f.request.Owner != -1 || f.request.Guest != "web" || f.request.Queues != c.taps || f.request.Made != "qemu" {
					t.Errorf("engine was asked for %+v", f.request)
				}
			})
			// The server, in this very process, must keep none; its end of the
			// connection closes a moment after ours.
			within(t, func() bool { return openFiles(t) <= before })
		})
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// within polls until ok, for ten seconds at most.
func within(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not become true in ten seconds")
		}
	}
}

// When the client is gone before its descriptors come, none may stay open: the
// tap would outlive the guest.
func TestDescriptorsOfALostClientAreClosed(t *testing.T) {
	f := newFake()
	asked, answer := make(chan struct{}), make(chan struct{})
	f.taps, f.vhosts = 2, 0
	f.files = func(n int) []*os.File {
		if n == 0 {
			return nil
		}
		close(asked)
		<-answer
		return pipes(t, n)
	}
	before := openFiles(t)
	_, client := serve(t, f, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, _, _, err := client.OpenPort(ctx, api.PortRequest{Network: "default"})
		ended <- err
	}()
	<-asked
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Errorf("client ended with %v", err)
	}
	close(answer)
	within(t, func() bool { return openFiles(t) <= before })
}

func TestRefusedPortIsAProblem(t *testing.T) {
	f := newFake()
	f.fail = fmt.Errorf("plug a guest into network \"x\": %w", spec.ErrNotFound)
	_, client := serve(t, f, nil)
	_, _, _, err := client.OpenPort(t.Context(), api.PortRequest{Network: "x"})
	isProblem(t, err, 404, api.CodeNotFound, `network "x"`)
	f.set(func() { f.fail = nil })
	for _, r := range []api.PortRequest{{}, {Network: "a", Bridge: "b"}, {Network: "a", Queues: 257}, {Network: "a", MAC: "01:00:00:00:00:00"}} {
		_, _, _, err := client.OpenPort(t.Context(), r)
		isProblem(t, err, 422, api.CodeInvalid, "")
	}
}

func TestAttachAndDetach(t *testing.T) {
	f := newFake()
	_, client := serve(t, f, nil)
	p, err := client.AttachPort(t.Context(), api.PortRequest{Network: "default", Guest: "web", User: "nobody"})
	if err != nil || p.Tap != "vnet0" || p.Owner == nil || *p.Owner != nobody || p.Made != "attach" {
		t.Fatalf("attached %+v, %v", p, err)
	}
	_, err = client.AttachPort(t.Context(), api.PortRequest{Network: "default", User: "no-such-user"})
	isProblem(t, err, 422, api.CodeInvalid, "no-such-user")
	f.ports["vnet1"] = engine.Port{Network: "default", Tap: "vnet1", Guest: "web", Owner: -1, Addresses: []string{"192.168.122.9"}}
	guests, err := client.Guests(t.Context())
	if err != nil || len(guests) != 1 || len(guests[0].NICs) != 2 || guests[0].NICs[1].Addresses[0] != "192.168.122.9" {
		t.Errorf("guests are %+v, %v", guests, err)
	}
	if err := client.DetachPort(t.Context(), "vnet0"); err != nil {
		t.Error(err)
	}
	isProblem(t, client.DetachPort(t.Context(), "vnet0"), 404, api.CodeNotFound, "vnet0")
}

// A server that speaks nonsense must neither hang the client nor leak.
func TestClientBelievesNoServer(t *testing.T) {
	for _, answer := range []string{
		"", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n{}\n",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n{\"taps\":1,\"vhosts\":0}\n",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n{\"taps\":-1,\"vhosts\":2}\n",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n{\"taps\":100000000,\"vhosts\":2}\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 500 Oops\r\n\r\n<html>",
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, answer)
			c.Close()
		}()
		if _, _, _, err := api.Dial(socket).OpenPort(t.Context(), api.PortRequest{Network: "x"}); err == nil {
			t.Errorf("%q was believed", answer)
		}
		l.Close()
	}
}
