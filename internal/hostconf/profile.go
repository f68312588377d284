package hostconf

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Profiles is the host's own network manager as the resource host.Profile. It
// implements txn.Host for that kind; every step is idempotent and can be done
// again after a crash anywhere in it.
//
// What was written, and what was there before, is kept beside: for what ends with
// the boot below Run, else below State, in a folder for each bridge.
type Profiles struct {
	tree tree
	run  string
	kept string
	tell func(note string)

	mu sync.Mutex
}

// NewProfiles returns the adapter. run and state are the program's own folders
// (/run/drawbridge, /var/lib/drawbridge). tell is given what an operator has to
// know and no error says, such as a file that could not be put back as it was.
func NewProfiles(run, state string, tell func(note string)) *Profiles {
	return &Profiles{run: run + "/hostconf", kept: state + "/hostconf", tell: tell}
}

// Describe finds out who manages a link and how; nothing is changed. It wraps
// ErrNobody when no manager that is known here has it.
func (p *Profiles) Describe(ctx context.Context, link string) (Description, error) {
	return describe(ctx, p.tree, link)
}

// record is what is kept about one stage of one bridge's profile.
type record struct {
	Profile     host.Profile
	Description Description
	// Done is set when the manager has been told; what is not done is observed as
	// a profile that differs from every wanted one.
	Done  bool
	Files []file
}

func (p *Profiles) folder(key host.Key) (stage, bridge, dir string, err error) {
	stage, bridge, ok := strings.Cut(key.Name, " ")
	if !ok || bridge == "" || strings.ContainsAny(bridge, "/ ") || bridge == "." || bridge == ".." {
		return "", "", "", fmt.Errorf("%s is not a profile's name", key)
	}
	switch stage {
	case host.Reserved, host.Runtime:
		return stage, bridge, p.run + "/" + bridge, nil
	case host.Permanent:
		return stage, bridge, p.kept + "/" + bridge, nil
	}
	return "", "", "", fmt.Errorf("%s is of no known stage", key)
}

// load reads a record, nil if there is none.
func (p *Profiles) load(key host.Key) (*record, error) {
	stage, _, dir, err := p.folder(key)
	if err != nil {
		return nil, err
	}
	b, err := p.tree.read(dir + "/" + stage + ".json")
	if err != nil || b == nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", key, err)
	}
	return &r, nil
}

func (p *Profiles) save(r *record) error {
	stage, _, dir, err := p.folder(r.Profile.Key())
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	// Connections may have keys in them.
	return p.tree.own(dir+"/"+stage+".json", append(b, '\n'), 0o600)
}

func (p *Profiles) forget(key host.Key) error {
	stage, _, dir, err := p.folder(key)
	if err != nil {
		return err
	}
	if err := p.tree.remove(dir + "/" + stage + ".json"); err != nil {
		return err
	}
	p.tree.removeEmpty(dir)
	return nil
}

// Observe reads profiles; see txn.Host. A profile of which a part is missing, or
// whose manager has not been told yet, is seen without a manager, so that it
// differs from what is wanted and can be made whole or deleted. A file that
// others edited is not missing.
func (p *Profiles) Observe(_ context.Context, keys ...host.Key) (host.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(keys) == 0 {
		keys = p.all()
	}
	seen := host.State{}
	for _, key := range keys {
		if key.Kind != host.KindProfile {
			continue
		}
		r, err := p.load(key)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		profile := r.Profile
		if !r.Done || !p.tree.allThere(r.Files) {
			profile.Manager = ""
		}
		seen.Add(profile)
	}
	return seen, nil
}

func (p *Profiles) all() []host.Key {
	var keys []host.Key
	for _, pattern := range []string{p.run + "/*/*.json", p.kept + "/*/*.json"} {
		for _, f := range p.tree.glob(pattern) {
			parts := strings.Split(strings.TrimSuffix(f, ".json"), "/")
			keys = append(keys, host.ProfileKey(parts[len(parts)-1], parts[len(parts)-2]))
		}
	}
	return keys
}

// Apply carries out steps; see txn.Host.
func (p *Profiles) Apply(ctx context.Context, steps []plan.Step) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range steps {
		if s.Key().Kind != host.KindProfile {
			continue
		}
		var err error
		if s.After == nil {
			err = p.drop(ctx, s.Key())
		} else {
			err = p.make(ctx, s.After.(host.Profile))
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return nil
}

// known is the description of the first uplink as it was before the change.
func (p *Profiles) known(ctx context.Context, want host.Profile) (Description, error) {
	for _, stage := range []string{host.Reserved, host.Runtime, host.Permanent} {
		r, err := p.load(host.ProfileKey(stage, want.Bridge))
		if err != nil {
			return Description{}, err
		}
		if r != nil && r.Description.Manager == want.Manager {
			return r.Description, nil
		}
	}
	d, err := describe(ctx, p.tree, firstUplink(want))
	if err == nil && d.Manager != want.Manager {
		err = fmt.Errorf("%s is managed by %s and not by %s", d.Link, d.Manager, want.Manager)
	}
	return d, err
}

func firstUplink(p host.Profile) string {
	first, _, _ := strings.Cut(p.Uplinks, " ")
	return first
}

func (p *Profiles) make(ctx context.Context, want host.Profile) error {
	m, err := managerOf(want.Manager)
	if err != nil {
		return err
	}
	r, err := p.load(want.Key())
	if err != nil {
		return err
	}
	if r != nil && r.Profile != want {
		// What stands there is another's wish: it goes first, files and all.
		if err := p.tree.restore(r.Files, p.kept+"/edited", p.tell); err != nil {
			return err
		}
		r = nil
	}
	if r == nil {
		if r, err = p.compose(ctx, m, want); err != nil {
			return err
		}
		// Before the first file changes it is on disk what was in it.
		if err := p.save(r); err != nil {
			return err
		}
	}
	if err := p.tree.put(r.Files); err != nil {
		return err
	}
	switch want.Stage {
	case host.Reserved:
		if len(r.Files) > 0 {
			err = reserve(ctx, p.tree, firstUplink(want), want.Bridge)
		}
		if err == nil {
			err = m.hold(ctx, p.tree, want, r.Description)
		}
	case host.Runtime:
		err = m.takeOver(ctx, p.tree, want, r.Description)
	case host.Permanent:
		err = m.saved(ctx, p.tree, want, r.Description)
	}
	if err != nil {
		return err
	}
	r.Done = true
	return p.save(r)
}

// compose works out what a profile's files will be.
func (p *Profiles) compose(ctx context.Context, m manager, want host.Profile) (*record, error) {
	d, err := p.known(ctx, want)
	if err != nil {
		return nil, err
	}
	if len(d.Cannot) > 0 {
		return nil, fmt.Errorf("it cannot be carried over: %s", strings.Join(d.Cannot, "; "))
	}
	var files []file
	switch want.Stage {
	case host.Reserved:
		// A bridge that the manager has by its own files is its own to hold.
		var has *record
		if has, err = p.load(host.ProfileKey(host.Permanent, want.Bridge)); has == nil {
			files = reservation(p.tree, want.Bridge)
		}
	case host.Runtime:
		files, err = m.runtime(p.tree, want, d)
	case host.Permanent:
		files, err = m.permanent(p.tree, want, d)
		if d.CloudInit != "" {
			files = append(files, file{Path: cloudInitOff, After: []byte(cloudInitText), Mode: 0o644})
		}
	}
	if err != nil {
		return nil, err
	}
	for i := range files {
		if err := p.tree.lookBefore(&files[i]); err != nil {
			return nil, err
		}
	}
	return &record{Profile: want, Description: d, Files: files}, nil
}

func (p *Profiles) drop(ctx context.Context, key host.Key) error {
	r, err := p.load(key)
	if err != nil || r == nil {
		return err
	}
	m, err := managerOf(r.Profile.Manager)
	if err != nil {
		return err
	}
	if err := p.tree.restore(r.Files, p.kept+"/edited", p.tell); err != nil {
		return err
	}
	last := true
	for _, stage := range []string{host.Runtime, host.Permanent} {
		other, err := p.load(host.ProfileKey(stage, r.Profile.Bridge))
		if err != nil {
			return err
		}
		last = last && (other == nil || stage == r.Profile.Stage)
	}
	switch {
	case r.Profile.Stage == host.Reserved && !last:
		err = m.release(ctx, p.tree, r.Profile, r.Description)
	case r.Profile.Stage == host.Reserved:
		// There is nothing to let go of. The manager is not told that the file is gone:
		// it matches no link, and to read all again might cost another its address for
		// a moment.
	case last:
		err = m.giveBack(ctx, p.tree, r.Profile, r.Description)
	}
	if err != nil {
		return err
	}
	return p.forget(key)
}

// Verify waits, as long as ctx lets it, until the manager's clients work on the
// bridge: a DHCP client has asked there for the lease and got it. Where nothing is
// dynamic there is nothing to wait for. An error says what is missing.
func (p *Profiles) Verify(ctx context.Context, bridge string) error {
	p.mu.Lock()
	r, err := p.load(host.ProfileKey(host.Runtime, bridge))
	if err == nil && r == nil {
		r, err = p.load(host.ProfileKey(host.Permanent, bridge))
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if r == nil {
		return fmt.Errorf("verify the profile of %s: there is none", bridge)
	}
	m, err := managerOf(r.Profile.Manager)
	if err != nil {
		return err
	}
	if err := m.verify(ctx, p.tree, r.Profile, r.Description); err != nil {
		return fmt.Errorf("verify the profile of %s: %w", bridge, err)
	}
	return nil
}

// Edited says which files of a bridge's permanent profile somebody edited since, and
// what becomes of that when the profile is deleted.
func (p *Profiles) Edited(bridge string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.load(host.ProfileKey(host.Permanent, bridge))
	if err != nil || r == nil {
		return nil // the deletion will say why
	}
	return p.tree.edited(r.Files, p.kept+"/edited")
}

// Change is one file that a profile made, changed or took away.
type Change struct {
	Path string `json:"path"`
	// Verb is create, change or delete.
	Verb string `json:"verb"`
	// Before is what was there, nil if nothing was; After what was written.
	Before, After []byte `json:"-"`
}

// Changes lists the files of a bridge's profile of one stage; none if there is no
// such profile.
func (p *Profiles) Changes(stage, bridge string) ([]Change, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.load(host.ProfileKey(stage, bridge))
	if err != nil || r == nil {
		return nil, err
	}
	return changesOf(r.Files), nil
}

// Preview is what Changes would say of a permanent profile that is not made yet.
func (p *Profiles) Preview(ctx context.Context, want host.Profile) ([]Change, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := managerOf(want.Manager)
	if err != nil {
		return nil, err
	}
	r, err := p.compose(ctx, m, want)
	if err != nil {
		return nil, err
	}
	return changesOf(r.Files), nil
}

func changesOf(files []file) []Change {
	var out []Change
	for _, f := range files {
		c := Change{Path: f.Path, Verb: "change", Before: f.Before, After: f.After}
		switch {
		case f.Before == nil:
			c.Verb = "create"
		case f.After == nil:
			c.Verb = "delete"
		}
		out = append(out, c)
	}
	return out
}
