package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"drawbridge/internal/host"
)

// Ports keeps one small file for each live port. There is nothing to be
// durable about: the directory is on a tmpfs and the taps die with the kernel.
type Ports struct{ dir string }

// OpenPorts uses the directory "ports" below the run directory.
func OpenPorts(runDir string) (*Ports, error) {
	dir := filepath.Join(runDir, "ports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open ports: %w", err)
	}
	return &Ports{dir}, nil
}

// Save writes or replaces a port.
func (p *Ports) Save(port host.Port) error {
	b, err := json.Marshal(port)
	if err != nil {
		return fmt.Errorf("encode port %s: %w", port.Tap, err)
	}
	tmp := filepath.Join(p.dir, "."+port.Tap)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("save port: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(p.dir, port.Tap)); err != nil {
		return fmt.Errorf("save port: %w", err)
	}
	return nil
}

// Remove forgets a port; one that is not there is no error.
func (p *Ports) Remove(tap string) error {
	if err := os.Remove(filepath.Join(p.dir, tap)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget port: %w", err)
	}
	return nil
}

// Load lists all ports. A file that cannot be read is skipped and returned as
// a joined error beside those that can.
func (p *Ports) Load() ([]host.Port, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, fmt.Errorf("load ports: %w", err)
	}
	var ports []host.Port
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(p.dir, e.Name()))
		var port host.Port
		if err == nil {
			err = json.Unmarshal(b, &port)
		}
		if err == nil && port.Tap != e.Name() {
			err = fmt.Errorf("it names another tap, %q", port.Tap)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("load port %s: %w", e.Name(), err))
			continue
		}
		ports = append(ports, port)
	}
	return ports, errors.Join(errs...)
}
