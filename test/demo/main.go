// Command demo tells what drawbridge does, with real guests: it builds a LAN and a host in
// namespaces of its own, starts the daemon there, boots two guests with QEMU, and checks every
// sentence of the story from inside the guests and from the LAN.
//
// It owns the story and how it is told. It knows the program only by its command line, and nothing
// of its packages but the form of JSON answers (api).
//
// Start reading at story.go; sandbox.go is how nothing is left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"drawbridge/internal/nettest"
)

func main() {
	if role := os.Getenv(roleEnv); role == "init" {
		os.Exit(beInit())
	}
	os.Exit(run())
}

func run() int {
	binary := flag.String("drawbridge", "./drawbridge", "the program to show")
	fetch := flag.Bool("fetch", false, "only fetch the guests' kernel into the cache, for tests that have no network")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv(roleEnv) == "story" {
		return tellStory(ctx, *binary)
	}
	if *fetch {
		return complain(fetchKernel(ctx, os.Stdout))
	}
	return host(ctx, *binary)
}

// host is the part that runs on the machine itself: it prepares what needs the internet, has the
// story told inside, and compares the machine before and after.
func host(ctx context.Context, binary string) int {
	t := newTelling(os.Stdout, time.Now())
	if os.Geteuid() != 0 {
		return complain(errors.New("the demonstration makes namespaces and needs root: sudo make demo"))
	}
	if _, err := os.Stat(binary); err != nil {
		return complain(fmt.Errorf("find the program to show: %w", err))
	}
	path, err := filepath.Abs(binary)
	if err != nil {
		return complain(err)
	}
	t.step("Looking for the guests' kernel")
	if err := fetchKernel(ctx, io.Discard); err != nil {
		return complain(err)
	}
	before, err := takeTraces()
	if err != nil {
		return complain(err)
	}
	code, inside, err := sandbox(path, t.start)
	if err != nil {
		return complain(err)
	}
	// Also after ^C: what is left behind then is what matters most.
	t.step("Looking for traces on this machine")
	t.expect("the demonstration left no trace: links, namespaces, nft tables, forwarding, processes", func() (string, error) {
		return before.compare(inside)
	})
	if t.failed > 0 {
		code = max(code, 1)
	}
	if ctx.Err() != nil {
		return code
	}
	t.end(code)
	return code
}

func fetchKernel(ctx context.Context, out io.Writer) error {
	cache, err := nettest.CacheDir()
	if err != nil {
		return err
	}
	k, err := nettest.FetchKernel(ctx, cache, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "guest kernel %s is in %s\n", k.Version, cache)
	return nil
}

func complain(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	return 1
}
