package cli

import (
	"os/exec"
	"strings"
	"testing"

	"drawbridge/internal/engine"
	"drawbridge/internal/nettest"
)

// The help and the completion of "network set" name what the engine
// understands, no more and no less.
func TestSettingsAreThoseOfTheEngine(t *testing.T) {
	a := &app{}
	set := a.networkSet()
	words, _ := a.completeSettings(set, []string{"default"}, "")
	if len(words) != len(engine.Settings) {
		t.Errorf("%d settings are completed, the engine has %d", len(words), len(engine.Settings))
	}
	for i, s := range engine.Settings {
		if !strings.Contains(set.Long, s.Name+"=") {
			t.Errorf("the help does not name %s", s.Name)
		}
		if i < len(words) && words[i] != s.Name+"=" {
			t.Errorf("completion %d is %s, not %s", i, words[i], s.Name)
		}
	}
}

func TestCompletionScriptsAreWhole(t *testing.T) {
	nettest.Need(t, "bash")
	r := startDaemon(t, nil).run(t, "", "completion", "bash")
	cmd := exec.CommandContext(t.Context(), "bash", "-n")
	cmd.Stdin = strings.NewReader(r.stdout)
	if out, err := cmd.CombinedOutput(); err != nil || r.code != 0 || len(r.stdout) < 1000 {
		t.Errorf("%v, %d, %s", err, r.code, out)
	}
	for _, shell := range []string{"zsh", "fish"} {
		if r := startDaemon(t, nil).run(t, "", "completion", shell); r.code != 0 || !strings.Contains(r.stdout, "drawbridge") {
			t.Errorf("%s: %d, %s", shell, r.code, r.stderr)
		}
	}
	if r := startDaemon(t, nil).run(t, "", "completion", "csh"); r.code != ExitUsage {
		t.Errorf("csh: %d, %s", r.code, r.stdout)
	}
}
