// Command drawbridge is the network manager for KVM hosts: daemon, client and
// QEMU's bridge helper in one binary.
//
// It owns nothing but the wiring: which adapter stands behind which interface.
// Start reading at runDaemon in daemon.go.
package main

import (
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"drawbridge/internal/cli"
)

// release is set by the build: the version of a release, or what git describes.
var release string

func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func main() {
	os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr, cli.Extra{
		Version: version(), Commands: []*cobra.Command{daemonCommand(), guestsCommand(), guardCommand(), bootCommand()},
		Offline: offline,
	}))
}
