// Command profile lets a test drive package hostconf on a whole host: it reads
// what to do from its arguments and writes what it found as JSON.
//
// It owns nothing and is no part of the program. It does not know what a test
// expects. Start reading at main.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/hostconf"
	"drawbridge/internal/plan"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run does one of: describe LINK; observe; make PROFILE; drop PROFILE; verify BRIDGE;
// changes STAGE BRIDGE. PROFILE is the resource as JSON.
func run(ctx context.Context, args []string) (any, error) {
	var told []string
	p := hostconf.NewProfiles("/run/drawbridge", "/var/lib/drawbridge", func(note string) { told = append(told, note) })
	if len(args) < 1 {
		return nil, fmt.Errorf("what shall be done?")
	}
	switch args[0] {
	case "describe":
		return p.Describe(ctx, args[1])
	case "observe":
		return p.Observe(ctx)
	case "verify":
		return told, p.Verify(ctx, args[1])
	case "changes":
		return p.Changes(args[1], args[2])
	case "make", "drop":
		var profile host.Profile
		if err := json.Unmarshal([]byte(args[1]), &profile); err != nil {
			return nil, err
		}
		step := plan.Step{After: profile}
		if args[0] == "drop" {
			step = plan.Step{Before: profile}
		}
		return told, p.Apply(ctx, []plan.Step{step})
	}
	return nil, fmt.Errorf("%s is nothing that can be done", args[0])
}
