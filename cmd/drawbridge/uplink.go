package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/hostconf"
	"drawbridge/internal/spec"
)

// manager lets the engine see the host's own network manager in its own words.
type manager struct{ *hostconf.Profiles }

func (m manager) Of(ctx context.Context, link string) (engine.Managed, error) {
	d, err := m.Describe(ctx, link)
	if errors.Is(err, hostconf.ErrNobody) {
		return engine.Managed{Words: "nobody", Notes: []string{"nobody on this host manages " + link + ": after a reboot it is not in the bridge"}}, nil
	}
	if err != nil {
		return engine.Managed{}, err
	}
	if len(d.Cannot) > 0 {
		return engine.Managed{}, &spec.InvalidError{Field: "uplink", Reason: strings.Join(d.Cannot, "; ")}
	}
	words := d.Manager
	if d.Manager == hostconf.None {
		words = "nobody but you, so a boot unit of drawbridge's own will make the bridge at boot"
	}
	if len(d.Evidence) > 0 {
		words += " (" + strings.Join(d.Evidence, ", ") + ")"
	}
	return engine.Managed{Name: d.Manager, Words: words, Notes: d.Notes}, nil
}

func (m manager) Files(ctx context.Context, p host.Profile) []string {
	changes, err := m.Preview(ctx, p)
	if err != nil {
		return nil // it will be seen when it is carried out
	}
	var files []string
	for _, c := range changes {
		files = append(files, c.Path)
	}
	slices.Sort(files)
	return files
}

// hostManager is the host's own network manager, or nil in a network namespace
// other than that of process 1: who manages the host does not manage that.
func (d *running) hostManager() engine.Manager {
	if d.profiles == nil {
		return nil
	}
	return manager{d.profiles}
}

func ownsNetwork() bool {
	theirs, err1 := os.Readlink("/proc/1/ns/net")
	ours, err2 := os.Readlink("/proc/self/ns/net")
	return err1 == nil && err2 == nil && theirs == ours
}

// firewalldRoot is where the files of the firewalld in our network namespace are: the
// host's are of that in the host's.
func (d *running) firewalldRoot() string {
	if d.settings.firewalldFiles == "" && ownsNetwork() {
		return "/"
	}
	return d.settings.firewalldFiles
}
