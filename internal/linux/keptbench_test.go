package linux

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"drawbridge/internal/nettest"
)

// manyTaps opens taps on a bridge.
func manyTaps(tb testing.TB, h *Host, n int) {
	tb.Helper()
	nettest.Need(tb, nettest.Tun, "ip")
	ipText(tb, "link", "add", "name", "many0", "type", "bridge", "forward_delay", "0")
	ipText(tb, "link", "set", "many0", "up")
	var files []*os.File
	for i := range n {
		name := fmt.Sprintf("vnet%d", i)
		opened, err := h.OpenTap(name, 1, -1, false)
		if err != nil {
			tb.Fatal(err)
		}
		files = append(files, opened...)
	}
	batch := ""
	for i := range n {
		batch += fmt.Sprintf("link set vnet%d master many0 up\n", i)
	}
	ipBatch(tb, batch)
	tb.Cleanup(func() {
		closeAll(files)
		ipText(tb, "link", "delete", "many0")
	})
}

// BenchmarkLook is what it costs to look at a thousand taps: at all of them, at
// what changed, and at nothing where nothing changed.
func BenchmarkLook(b *testing.B) {
	h := newHost(b)
	manyTaps(b, h, 1000)
	b.Run("observe", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.Observe(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("links", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.rtnl.links(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("nothing changed", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.Look(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one changed", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			ipText(b, "link", "set", "vnet7", "alias", fmt.Sprint(i))
			b.StartTimer()
			if _, err := h.Look(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("counters", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.Counters(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("carriers", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.kept.carriers(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("learned", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.Learned(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	taps, err := h.kept.taps()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("find users", func(b *testing.B) {
		for b.Loop() {
			if _, err := findTapUsers(b.Context(), taps, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	var k holders
	if k.taps, err = findTapUsers(b.Context(), taps, nil); err != nil {
		b.Fatal(err)
	}
	b.Run("users", func(b *testing.B) {
		for b.Loop() {
			k.still(taps)
		}
	})
}

// ipBatch has ip carry out lines.
func ipBatch(tb testing.TB, lines string) {
	tb.Helper()
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("ip: %v: %s", err, out)
	}
}
