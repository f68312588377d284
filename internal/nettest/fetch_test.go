package nettest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFetchTriesAgain: a mirror that fails for a moment ends no run, one that is gone does.
func TestFetchTriesAgain(t *testing.T) {
	usual := pauses
	pauses = []time.Duration{0, 0}
	t.Cleanup(func() { pauses = usual })
	for failures, works := range map[int]bool{0: true, 2: true, 3: false} {
		tries := filepath.Join(t.TempDir(), "tries")
		script := fmt.Sprintf("echo try >>%s; [ $(wc -l <%s) -gt %d ] && echo got || { echo no mirror >&2; exit 7; }", tries, tries, failures)
		out, err := Fetch(func() *exec.Cmd { return exec.Command("sh", "-c", script) })
		b, _ := os.ReadFile(tries)
		if n := strings.Count(string(b), "try"); n != min(failures+1, 3) {
			t.Errorf("with %d failures it is tried %d times", failures, n)
		}
		switch {
		case works && (err != nil || string(out) != "got\n"):
			t.Errorf("with %d failures: %q, %v", failures, out, err)
		case !works && (err == nil || !strings.Contains(err.Error(), "no mirror") || !strings.Contains(err.Error(), "exit status 7")):
			t.Errorf("with %d failures: %v", failures, err)
		}
	}
}
