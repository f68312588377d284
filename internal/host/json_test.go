package host

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"testing"
)

// Whatever a text holds, what is written is JSON as the library would write it,
// and is read back the same.
func TestResourcesAreWrittenAsTheLibraryWould(t *testing.T) {
	const odd = "a\"b\\c\n<&>\u2028é\x00 drawbridge"
	subnet := netip.MustParsePrefix("192.0.2.1/24")
	table := Table{Family: FamilyInet, Name: odd}
	resources := []Resource{
		Link{Name: odd, Alias: odd}, Address{Link: odd, Addr: subnet}, Route{Link: odd, Dst: subnet.Masked()},
		Sysctl{Path: odd, Value: odd}, table, Set{Table: table, Name: odd}, Chain{Table: table, Name: odd, Rules: odd},
		Element{Table: table, Set: odd, Value: odd}, Pool{Bridge: odd, Server: subnet}, Reservation{Bridge: odd, MAC: odd},
		Router{Bridge: odd}, Zone{Bridge: odd, Addr4: subnet}, Guest{Bridge: odd, Name: odd}, Resolver{Link: odd, Domain: odd},
	}
	for _, r := range resources {
		got, err := MarshalResource(r)
		if err != nil {
			t.Fatal(err)
		}
		value, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(tagged{r.Key().Kind, value})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is written\n%s, want\n%s", r.Key().Kind, got, want)
		}
		back, err := UnmarshalResource(got)
		// A null byte survives; an invalid one would become U+FFFD.
		if err != nil || back != r {
			t.Errorf("%s is read back as %#v, %v", r.Key().Kind, back, err)
		}
	}
	state := NewState(resources...)
	b, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	var back State
	if err := json.Unmarshal(b, &back); err != nil || len(back) != len(state) {
		t.Fatalf("a state of %d is read back as one of %d: %v", len(state), len(back), err)
	}
	for k, r := range state {
		if back[k] != r {
			t.Errorf("%s is read back as %#v", k, back[k])
		}
	}
	if b, err := json.Marshal(State{}); err != nil || string(b) != "[]" {
		t.Errorf("an empty state is %s, %v", b, err)
	}
}
