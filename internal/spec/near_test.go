package spec

import "testing"

func TestMeant(t *testing.T) {
	there := []string{"default", "lab", "web1", "web2", "web3", "ubuntu-cloud", "db"}
	for name, want := range map[string]string{
		"defalt": "; is it default?", "deafult": "; is it default?", "DEFAULT": "; is it default?", "lob": "; is it lab?", "bd": "; is it db?",
		"ubunut-clod": "; is it ubuntu-cloud?", "web4": "", "web": "", "x": "", "": "", "production": "", "default": "",
	} {
		if got := Meant(name, there); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if got := Meant("wbe1", []string{"web1", "web2"}); got != "; is it web1 or web2?" {
		t.Errorf("of two: %q", got)
	}
}

func TestUnknownNetworkIsSuggested(t *testing.T) {
	d := Document{}.With(Network{Name: "default"}).With(Network{Name: "lab"})
	if _, err := d.Network("defualt"); err == nil || err.Error() != `network "defualt": not found; is it default?` {
		t.Errorf("%v", err)
	}
}
