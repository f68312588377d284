package hosts

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/hostconf"
)

// finding is what doctor says, as monitoring reads it.
type finding struct {
	Code, Severity, Network, Seen string
	Fix                           struct{ Command string }
}

// doctor asks for all findings; the exit code has to agree with them.
func (h *whole) doctor() ([]finding, error) {
	var d struct {
		Healthy  bool
		Findings []finding
	}
	cmd := h.Command("drawbridge", "doctor", "-o", "json")
	out, err := cmd.Output()
	if jsonErr := json.Unmarshal(out, &d); jsonErr != nil {
		return nil, fmt.Errorf("doctor: %w: %w: %s", err, jsonErr, out)
	}
	if d.Healthy != (err == nil) || !d.Healthy && cmd.ProcessState.ExitCode() != 1 {
		return d.Findings, fmt.Errorf("doctor ends with %d and says %s", cmd.ProcessState.ExitCode(), out)
	}
	return d.Findings, nil
}

// healthy wants doctor to find nothing but notes (of an old kernel, say), once what was
// just done is done.
func (h *whole) healthy(t *testing.T, when string) {
	t.Helper()
	within(t, 20*time.Second, func() error {
		found, err := h.doctor()
		for _, f := range found {
			if err == nil && f.Severity != "note" {
				err = fmt.Errorf("%s: %+v", when, found)
			}
		}
		return err
	})
}

// ails wants doctor to find a fault, and returns it.
func (h *whole) ails(t *testing.T, code string) (f finding) {
	t.Helper()
	within(t, 20*time.Second, func() error {
		found, err := h.doctor()
		for _, f = range found {
			if f.Code == code {
				return err
			}
		}
		return fmt.Errorf("no %s in %+v: %w", code, found, err)
	})
	return f
}

// TestDoctor looks at a clean host with systemd-networkd before there is a guest, with
// guests on a NAT network and on the LAN, and makes the two faults that only a host
// with a network manager has.
func TestDoctor(t *testing.T) {
	need(t)
	c := managerCases[0]
	c.files = maps.Clone(c.files)
	maps.Copy(c.files, greedy[hostconf.Networkd])
	h := newBridged(t, c)
	h.healthy(t, "a clean host with an empty network")
	h.pinging(t, "inside", "default", "192.168.122.77", "192.168.122.1")
	h.healthy(t, "a guest on a NAT network")

	t.Run("change-unfinished", func(t *testing.T) {
		id := h.bridge(t, "1m").ID
		if f := h.ails(t, "change-waits"); !strings.Contains(f.Seen, id) {
			t.Errorf("%+v", f)
		}
		// The daemon may not pass by permissions (CAP_DAC_OVERRIDE).
		h.sh(t, "chmod 555 /etc/systemd/network")
		out, err := h.Try("drawbridge", "change", "confirm", id)
		f := h.ails(t, "change-unfinished")
		if !strings.Contains(f.Seen, "/etc/systemd/network") {
			t.Errorf("%+v, after %v: %s", f, err, out)
		}
		h.sh(t, "chmod 755 /etc/systemd/network")
		h.healthy(t, "the files can be written")
		h.sh(t, "test -e /etc/systemd/network/05-drawbridge-br0.network")
	})
	h.pinging(t, "outside", "lan", "192.168.99.77", "192.168.99.1")
	h.healthy(t, "a guest on the LAN")

	t.Run("manager-grabs", func(t *testing.T) {
		// While the daemon runs it puts the file back that says what is none of networkd's.
		h.sh(t, "systemctl stop drawbridge; rm /run/systemd/network/06-drawbridge.network")
		f := h.ails(t, "manager-grabs")
		if !strings.Contains(f.Seen, "would take virbr0, vnet*") {
			t.Errorf("%+v", f)
		}
		h.sh(t, f.Fix.Command)
		found, err := h.doctor()
		for _, f := range found {
			if err != nil || f.Code == "manager-grabs" {
				t.Errorf("after %s: %+v, %v", f.Fix.Command, f, err)
			}
		}
		h.wantUnmanaged(t, hostconf.Networkd, "virbr0", "vnet0", "vnet1")
		h.sh(t, "rm /etc/systemd/network/05-guests.network; systemctl start drawbridge")
		h.healthy(t, "the daemon runs again")
		h.wantUnmanaged(t, hostconf.Networkd, "virbr0", "vnet0", "vnet1")
	})
}
