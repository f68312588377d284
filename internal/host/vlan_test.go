package host

import (
	"maps"
	"testing"
)

func TestVLANText(t *testing.T) {
	for _, c := range []struct {
		pvid int
		set  VLANSet
		want string
	}{
		{1, VLANSet{1: PVID | Untagged}, ""},
		{0, VLANSet{}, ""},
		{1, VLANSet{}, "none"},
		{5, VLANSet{1: PVID | Untagged}, "1 pvid untagged"},
		{1, VLANSet{1: PVID | Untagged, 30: 0, 40: 0, 41: 0}, "1 pvid untagged, 30, 40-41"},
		{1, VLANSet{30: PVID | Untagged}, "30 pvid untagged"},
		{1, VLANSet{29: 0, 30: PVID, 31: PVID, 4094: Untagged}, "29, 30 pvid, 31 pvid, 4094 untagged"},
	} {
		got := c.set.Text(c.pvid)
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.set, got, c.want)
		}
		if back, err := ParseVLANs(got, c.pvid); err != nil || !maps.Equal(back, c.set) {
			t.Errorf("%q read again: %v, %v", got, back, err)
		}
	}
	for _, bad := range []string{"0", "4095", "5-4", "5 tagged", "x", "5,6", "-", "1-"} {
		if s, err := ParseVLANs(bad, 1); err == nil {
			t.Errorf("%q is read as %v", bad, s)
		}
	}
}
