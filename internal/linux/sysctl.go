package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

const sysctlRoot = "/proc/sys"

// sysctlFile is the file of a parameter. A path that would leave the tree is
// refused: it can come from a file that a person edits.
func sysctlFile(path string) (string, error) {
	if !filepath.IsLocal(path) {
		return "", fmt.Errorf("parameter %q is not below %s", path, sysctlRoot)
	}
	return filepath.Join(sysctlRoot, path), nil
}

func observeSysctls(seen host.State, keys []host.Key) error {
	for _, k := range keys {
		file, err := sysctlFile(k.Name)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read parameter: %w", err)
		}
		seen.Add(host.Sysctl{Path: k.Name, Value: strings.TrimSpace(string(b)), Link: sysctlLink(k.Name)})
	}
	return nil
}

// sysctlLink is the link that a parameter belongs to, or "".
func sysctlLink(path string) string {
	parts := strings.Split(path, "/")
	if len(parts) != 5 || parts[0] != "net" || parts[2] != "conf" && parts[2] != "neigh" {
		return ""
	}
	if parts[3] == "all" || parts[3] == "default" {
		return ""
	}
	return parts[3]
}

// applySysctls writes parameters. One that is to be deleted is left alone: a
// parameter goes only with its link or its kernel module.
func applySysctls(steps []plan.Step) error {
	for _, s := range steps {
		if s.After == nil {
			continue
		}
		want := s.After.(host.Sysctl)
		file, err := sysctlFile(want.Path)
		if err != nil {
			return err
		}
		// Written only if it differs: some parameters act on every write, also
		// one of the same value.
		if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == want.Value {
			continue
		}
		// Not os.WriteFile: a parameter that is missing must not look as if it
		// could be created.
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("set parameter: %w", err)
		}
		_, err = f.WriteString(want.Value + "\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("set parameter to %q: %w", want.Value, err)
		}
	}
	return nil
}
