package linux

import (
	"log/slog"
	"testing"

	"drawbridge/internal/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

// newHost opens the kernel of the test's own namespace.
func newHost(t testing.TB) *Host {
	t.Helper()
	nettest.Need(t, nettest.Namespace)
	h, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}
