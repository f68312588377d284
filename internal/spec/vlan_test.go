package spec

import (
	"fmt"
	"testing"
)

func TestVLANsAsPeopleTypeThem(t *testing.T) {
	for text, want := range map[string]VLANs{
		"": "", "30": "30", "30,40-49": "30,40-49", "49,40-48, 30,41": "30,40-49", "1-4094": "1-4094", "2,1,3": "1-3", "4094": "4094",
	} {
		got, err := ParseVLANs("vlan-trunk", text)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
		if again, err := ParseVLANs("", string(got)); err != nil || again != got {
			t.Errorf("%q read again: %q, %v", got, again, err)
		}
	}
	for _, text := range []string{"0", "4095", "-1", "30-", "-", "40-30", "a", "30,,31", ",", "1.5", "30 31", "+5", "99999999999999999999"} {
		if got, err := ParseVLANs("vlan-trunk", text); err == nil {
			t.Errorf("%q is taken for %q", text, got)
		}
	}
}

func TestTags(t *testing.T) {
	tags, err := ParseTags(30, "1,40-42")
	if err != nil || fmt.Sprint(tags.IDs()) != "[30 40 41 42]" || tags.Validate() != nil {
		t.Errorf("%+v %v: on the LAN %v", tags, err, tags.IDs())
	}
	for _, bad := range []Tags{{VLAN: 30, Trunk: "30"}, {VLAN: 5000}, {VLAN: -1}, {Trunk: "40,30"}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is valid", bad)
		}
	}
}
