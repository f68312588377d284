package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoCompiler says that there is nothing that understands filters.
var ErrNoCompiler = errors.New("a filter needs tcpdump, which compiles it: apt install tcpdump (or leave the filter out)")

// FilterError says what is wrong with a filter, in tcpdump's words.
type FilterError struct{ Filter, Reason string }

// Error quotes the filter.
func (e *FilterError) Error() string { return fmt.Sprintf("filter %q: %s", e.Filter, e.Reason) }

// maxProgram is BPF_MAXINSNS (linux/bpf_common.h).
const maxProgram = 4096

// Compile turns the text of a filter (pcap-filter(7)) into the kernel's program;
// "" is no program. It asks `tcpdump -ddd`: there the whole language is understood
// exactly as people know it, by the only implementation that everybody uses, while
// those in pure Go know a part of it. tcpdump runs as whoever captures, opens no
// interface, and sees no packet.
func Compile(ctx context.Context, filter string) ([]unix.SockFilter, error) {
	if strings.TrimSpace(filter) == "" {
		return nil, nil
	}
	program, err := exec.LookPath("tcpdump")
	if err != nil {
		return nil, ErrNoCompiler
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "-y", "EN10MB", "-ddd", "--", filter)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		reason := strings.TrimSpace(errs.String())
		if i := strings.LastIndex(reason, "tcpdump: "); i >= 0 {
			reason = reason[i+len("tcpdump: "):]
		}
		if reason == "" {
			reason = err.Error()
		}
		return nil, &FilterError{filter, strings.ReplaceAll(reason, "\n", "; ")}
	}
	return parse(out.String())
}

// parse reads what tcpdump -ddd prints: the number of instructions, and a line of
// four numbers for each.
func parse(text string) ([]unix.SockFilter, error) {
	in := strings.NewReader(text)
	var n int
	if _, err := fmt.Fscan(in, &n); err != nil || n < 1 || n > maxProgram {
		return nil, fmt.Errorf("compile filter: tcpdump printed %d instructions (%v)", n, err)
	}
	all := make([]unix.SockFilter, n)
	for i := range all {
		f := &all[i]
		if _, err := fmt.Fscan(in, &f.Code, &f.Jt, &f.Jf, &f.K); err != nil {
			return nil, fmt.Errorf("compile filter: instruction %d of %d: %w", i+1, n, err)
		}
	}
	return all, nil
}
