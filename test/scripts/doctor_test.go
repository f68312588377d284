package scripts

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/nettest"
	"drawbridge/internal/spec"
	"drawbridge/internal/store"
	"drawbridge/internal/txn"
)

// elsewhere are the faults that only a whole host under systemd can have; each is
// made in a file of test/hosts.
var elsewhere = map[diagnose.Code]string{
	"manager-grabs": "doctor_test.go", "change-unfinished": "doctor_test.go",
}

var (
	marked = regexp.MustCompile(`\[([a-z0-9-]+)\]`)
	// found sees the code, cured sees it no more.
	found = `^(stdout|within \S+) '[^']*%s|^stdout %s`
	cured = `^(db doctor|! stdout '?%s|within \S+ '%s' ! db doctor|within \S+ 'nothing is wrong' db doctor)`
)

// TestEveryFaultIsMade has every check of doctor tested on a fault that is there:
// in a script, in a section that is marked with the code, sees it, and then sees it no
// more. What no machine of tests can make is on diagnose.Recorded, with its source.
func TestEveryFaultIsMade(t *testing.T) {
	sections := map[diagnose.Code]string{}
	for _, pattern := range []string{"testdata/*.txtar", "testdata/guest*/*.txtar"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			readSections(string(text), sections)
		}
	}
	for _, c := range diagnose.Checks() {
		section, made := sections[c.Code]
		source, recorded := diagnose.Recorded[c.Code]
		file, host := elsewhere[c.Code]
		switch {
		case recorded && (made || host):
			t.Errorf("%s is made for real, and recorded too", c.Code)
		case recorded && len(source) < 20:
			t.Errorf("%s is recorded and does not say where from", c.Code)
		case recorded:
		case host:
			text, err := os.ReadFile(filepath.Join("../hosts", file))
			if err != nil || strings.Count(string(text), string(c.Code)) < 2 {
				t.Errorf("%s is not found and cured in test/hosts/%s: %v", c.Code, file, err)
			}
		case !made:
			t.Errorf("no script makes %s, and it is not recorded either", c.Code)
		default:
			for what, pattern := range map[string]string{"sees": found, "sees the end of": cured} {
				pattern = strings.ReplaceAll(pattern, "%s", regexp.QuoteMeta(string(c.Code)))
				if !regexp.MustCompile("(?m)" + pattern).MatchString(section) {
					t.Errorf("the section of %s never %s it:\n%s", c.Code, what, section)
				}
			}
		}
		delete(sections, c.Code)
	}
	for code := range sections {
		t.Errorf("a script has a section about %s, which is no check", code)
	}
}

// readSections finds the parts of a script below a comment with codes in brackets.
func readSections(script string, into map[diagnose.Code]string) {
	var now []diagnose.Code
	was := ""
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "-- ") {
			return // files follow
		}
		if codes := marked.FindAllStringSubmatch(line, -1); strings.HasPrefix(line, "# [") && codes != nil {
			if !strings.HasPrefix(was, "# [") {
				now = nil
			}
			for _, c := range codes {
				now = append(now, diagnose.Code(c[1]))
			}
		}
		for _, c := range now {
			into[c] += line
		}
		was = line
	}
}

// cmdStored writes a reservation into the document of a daemon that does not run,
// unseen by what would refuse it.
func cmdStored(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: stored NETWORK MAC ADDRESS")
	}
	s, err := store.Open(filepath.Join(of(ts).work, "state"))
	ts.Check(err)
	defer s.Close()
	addr, err := netip.ParseAddr(args[2])
	ts.Check(err)
	doc := s.Document().Clone()
	name := spec.NetworkName(args[0])
	doc.Networks[name] = doc.Networks[name].Reserve(spec.Reservation{MAC: args[1], Addr: addr})
	doc.Revision++
	ts.Check(s.Commit(txn.Txn{ID: "0ld0ne00", Title: "by an earlier version", Phase: txn.Confirmed, Doc: doc, Ledger: s.Ledger()}))
}

// TestDoctorInGuest runs testdata/guest-doctor where the clock may be set and the table of
// connections may be full: in a virtual machine.
func TestDoctorInGuest(t *testing.T) {
	nettest.InGuest(t, nettest.Inside{
		Modules: []string{"bridge", "veth", "tun", "nf_tables", "nft_chain_nat", "nft_ct", "nft_masq",
			"nft_nat", "nft_reject_inet", "nft_reject_bridge", "nft_meta_bridge", "nf_conntrack_netlink", "nft_fib_inet", "inet_diag", "tcp_diag", "udp_diag"},
		Programs: []string{"nft", "jq", "setpriv", "ping", "sleep", "sysctl", "socat", "conntrack"},
		Files:    map[string]string{"/drawbridge": program, "/scripts": "testdata/guest-doctor"},
		Env:      []string{programEnv + "=/drawbridge"},
	}, func(t *testing.T) {
		p := params
		p.Dir = "/scripts"
		testscript.Run(t, p)
	})
}
