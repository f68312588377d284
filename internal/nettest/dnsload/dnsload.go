// Package dnsload measures DNS servers with dnsperf.
//
// It owns how a load is described and how dnsperf's report is read. It does not
// know which server is measured, nor how it was started.
//
// Start reading at Run.
package dnsload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Load is what a server is asked.
type Load struct {
	Server netip.Addr
	// Questions are lines "name type", asked in turn and again from the start.
	Questions []string
	// Duration of the whole run, in whole seconds.
	Duration time.Duration
	// Clients is the number of sockets, Outstanding how many questions may wait for
	// an answer at one time; 0 means 8 and 200, which saturates two cores.
	Clients, Outstanding int
}

// Result is what dnsperf saw.
type Result struct {
	// PerSecond counts answered questions.
	PerSecond float64
	Sent      int
	Lost      int
	Latency   time.Duration // mean
	// Codes are the answers by response code (NOERROR, NXDOMAIN).
	Codes map[string]int
}

// Run asks for the duration and reports. command makes a command that runs where
// the clients are (exec.CommandContext, or a node's Command).
func Run(ctx context.Context, command func(ctx context.Context, name string, args ...string) *exec.Cmd, l Load) (Result, error) {
	if l.Clients == 0 {
		l.Clients = 8
	}
	if l.Outstanding == 0 {
		l.Outstanding = 200
	}
	file, err := os.CreateTemp("", "questions")
	if err != nil {
		return Result{}, fmt.Errorf("write questions: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(strings.Join(l.Questions, "\n") + "\n")
	if err = errors.Join(err, file.Close()); err != nil {
		return Result{}, fmt.Errorf("write questions: %w", err)
	}
	cmd := command(ctx, "dnsperf", "-d", file.Name(), "-s", l.Server.String(), "-l", strconv.Itoa(int(l.Duration.Seconds())),
		"-c", strconv.Itoa(l.Clients), "-q", strconv.Itoa(l.Outstanding), "-W")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return Result{}, fmt.Errorf("run dnsperf: %w: %s%s", err, out, exit.Stderr)
		}
		return Result{}, fmt.Errorf("run dnsperf: %w", err)
	}
	return parse(string(out))
}

var (
	number = regexp.MustCompile(`(?m)^\s*(Queries sent|Queries lost|Queries per second|Average Latency \(s\)):\s+([0-9.]+)`)
	code   = regexp.MustCompile(`([A-Z]+) (\d+) \(`)
)

func parse(report string) (Result, error) {
	r := Result{Codes: map[string]int{}}
	found := 0
	for _, m := range number.FindAllStringSubmatch(report, -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return Result{}, fmt.Errorf("read dnsperf's report: %w", err)
		}
		found++
		switch m[1] {
		case "Queries sent":
			r.Sent = int(v)
		case "Queries lost":
			r.Lost = int(v)
		case "Queries per second":
			r.PerSecond = v
		default:
			r.Latency = time.Duration(v * float64(time.Second))
		}
	}
	_, line, ok := strings.Cut(report, "Response codes:")
	if found != 4 || !ok {
		return Result{}, fmt.Errorf("read dnsperf's report: it is not as known: %q", report)
	}
	line, _, _ = strings.Cut(line, "\n")
	for _, m := range code.FindAllStringSubmatch(line, -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return Result{}, fmt.Errorf("read dnsperf's report: %w", err)
		}
		r.Codes[m[1]] = n
	}
	return r, nil
}
