package rest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
)

// listenEnv makes this test's binary listen (TestMain): the number of listeners,
// in another process, so that their own work is not counted.
const listenEnv = "DRAWBRIDGE_TEST_LISTENERS"

// beListeners listens until standard input is closed, and prints a line for each
// listener that is there.
func beListeners(n int, socket string) {
	ctx, cancel := context.WithCancel(context.Background())
	for range n {
		go func() {
			first := true
			_, _ = api.Dial(socket).Watch(ctx, api.WatchOptions{}, func(api.Event) error {
				if first {
					first = false
					fmt.Println("listening")
				}
				return nil
			})
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
}

// BenchmarkListeners tells a thousand events a second for three seconds and says
// how much of one core the server used, with a hundred listeners and with none.
//
//	go test ./internal/rest -run - -bench Listeners -benchtime 1x
func BenchmarkListeners(b *testing.B) {
	for _, n := range []int{0, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := newFake()
			socket, _ := serve(b, f, nil)
			told := 0
			tell := func() {
				f.tell(engine.Event{Time: time.Now(), Kind: engine.LeaseEvent, Action: "bound", Network: "default", Object: "192.168.122.32",
					Text: "192.168.122.32 leased to 52:54:00:69:69:da on network default", Who: "dhcp"})
				told++
			}
			stop := startListeners(b, n, socket, tell)
			defer stop()
			var used, during time.Duration
			for range b.N {
				began, before := time.Now(), processTime(b)
				told = 0
				tick := time.NewTicker(time.Millisecond)
				for time.Since(began) < 3*time.Second {
					for want := int(time.Since(began) / time.Millisecond); told < want; {
						tell()
					}
					<-tick.C
				}
				tick.Stop()
				used, during = used+processTime(b)-before, during+time.Since(began)
			}
			b.ReportMetric(used.Seconds()/during.Seconds()*100, "%core")
			b.ReportMetric(float64(told)/3, "events/s")
		})
	}
}

func startListeners(b *testing.B, n int, socket string, tell func()) (stop func()) {
	if n == 0 {
		return func() {}
	}
	cmd := exec.Command("/proc/self/exe", socket)
	cmd.Env = append(os.Environ(), listenEnv+"="+strconv.Itoa(n))
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	lines := make(chan int)
	go func() {
		buf := make([]byte, 4096)
		for {
			got, err := out.Read(buf)
			if err != nil {
				return
			}
			lines <- got
		}
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for got := 0; got < n*len("listening\n"); {
		select {
		case more := <-lines:
			got += more
		case <-tick.C:
			tell()
		}
	}
	return func() {
		in.Close()
		_ = cmd.Wait()
	}
}

func processTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
