package nettest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// pauses are how long is waited before a fetch is tried again: mirrors have hiccups.
var pauses = []time.Duration{5 * time.Second, 20 * time.Second}

// Fetch runs a program that gets what tests need from the network, up to three times,
// and returns what it printed. What it complained of goes to this program's errors while
// it runs, and into the error if it fails for good. make makes the command, for each try.
func Fetch(make func() *exec.Cmd) ([]byte, error) {
	for try := 0; ; try++ {
		cmd := make()
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaints
		err := cmd.Run()
		_, _ = os.Stderr.Write(complaints.Bytes())
		if err == nil {
			return out.Bytes(), nil
		}
		if try == len(pauses) {
			return nil, fmt.Errorf("%s, tried %d times: %w\n%s%s", cmd, try+1, err, out.Bytes(), complaints.Bytes())
		}
		fmt.Fprintf(os.Stderr, "%s: %v; again in %s\n", cmd, err, pauses[try])
		time.Sleep(pauses[try])
	}
}
