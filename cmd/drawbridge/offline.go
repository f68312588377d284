package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"drawbridge/internal/guard"
	"drawbridge/internal/rest"
)

// stateDirEnv names the state directory for the commands that work without the
// daemon, where it is not the usual one.
const stateDirEnv = "DRAWBRIDGE_STATE_DIR"

// offline serves the API from this process while no daemon runs, under the lock
// that the daemon would hold, so that plan and change work all the same. Nothing
// on the host is touched by it alone. socket is where the daemon would listen:
// its run directory is beside it.
func offline(ctx context.Context, socket string) (string, func(), error) {
	s := settings{coexist: "on", stateDir: os.Getenv(stateDirEnv), runDir: filepath.Dir(socket)}
	if s.stateDir == "" {
		s.stateDir = defaultStateDir
	}
	log := slog.New(slog.DiscardHandler)
	d, err := assemble(s, guard.Command, log)
	if err != nil {
		return "", nil, err
	}
	if err := d.engine.Load(); err != nil {
		d.close()
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "drawbridge")
	if err != nil {
		d.close()
		return "", nil, err
	}
	path := filepath.Join(dir, "socket")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		d.close()
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("work without the daemon: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		server := rest.New(rest.Config{Engine: d.engine, Log: log, Version: version(), Modes: modes(), Doctor: doctor{Engine: d.engine, linux: d.linux, profiles: d.profiles, zones: d.zones, offline: true}})
		_ = server.Serve(ctx, ln) // ends when stop is called; an error is seen by the client
	}()
	return path, func() {
		cancel()
		<-served
		d.close()
		os.RemoveAll(dir)
	}, nil
}
