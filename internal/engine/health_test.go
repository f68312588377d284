package engine

import "testing"

func TestPortsThatNobodyNamedAreCalledAsTheirLeases(t *testing.T) {
	const network = "default"
	ports := []Port{
		{Network: network, Tap: "vnet0", Guest: "db", MAC: "52:54:00:00:00:01"},
		{Network: network, Tap: "tap-web", Guest: "tap-web", MAC: "52:54:00:00:00:02"},
		{Network: network, Tap: "tap-evil", Guest: "tap-evil", MAC: "52:54:00:00:00:03"},
		{Network: network, Tap: "tap-one", Guest: "tap-one", MAC: "52:54:00:00:00:04"},
		{Network: network, Tap: "tap-two", Guest: "tap-two", MAC: "52:54:00:00:00:05"},
		{Network: network, Tap: "tap-new", Guest: "tap-new"},
	}
	namePorts(ports, []Lease{
		{Network: network, MAC: "52:54:00:00:00:02", Guest: "web"},
		{Network: network, MAC: "52:54:00:00:00:03", Guest: "db"}, // another guest's
		{Network: network, MAC: "52:54:00:00:00:04", Guest: "twin"},
		{Network: network, MAC: "52:54:00:00:00:05", Guest: "twin"},
		{Network: "other", MAC: "52:54:00:00:00:06", Guest: "far"},
	})
	for i, want := range []string{"db", "web", "tap-evil", "tap-one", "tap-two", "tap-new"} {
		if ports[i].Guest != want {
			t.Errorf("%s is called %s, want %s", ports[i].Tap, ports[i].Guest, want)
		}
	}
}
