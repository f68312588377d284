package hostconf

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strings"

	"drawbridge/internal/host"
)

// netplanNM is netplan with NetworkManager as renderer, as desktops of Ubuntu's have
// it: netplan writes keyfiles below /run, at boot and when it is called, and
// NetworkManager knows nothing of it.
//
// Before confirmation NetworkManager is told alone, by the same files that netplan would
// write of the YAML to come; then the YAML is rewritten. It names the connections'
// UUIDs, so that those are the same whoever wrote the files. Whatever runs netplan
// before that (systemctl daemon-reload does) takes the files away again: NetworkManager
// does not look before it is told to, and saved puts them back.
type netplanNM struct{ networkManager }

func (netplanNM) name() string { return NetplanNM }

// netplanKeyfile is the file that netplan makes for NetworkManager of a definition.
func netplanKeyfile(id string) string {
	return nmRun + "netplan-" + strings.ReplaceAll(url.QueryEscape(id), "+", "%20") + ".nmconnection"
}

// keyfileID is the definition that a keyfile was made of; ok is false if netplan did
// not make it.
func keyfileID(file string) (id string, ok bool) {
	name, ok := strings.CutPrefix(file, nmRun+"netplan-")
	if !ok {
		return "", false
	}
	id, err := url.PathUnescape(strings.TrimSuffix(name, ".nmconnection"))
	return id, err == nil
}

func madeByNetplan(d Description) bool {
	if len(d.Files) == 0 {
		return false
	}
	_, ok := keyfileID(d.Files[0])
	return ok
}

func (netplanNM) describe(ctx context.Context, t tree, d *Description) (bool, error) {
	if has, err := describeNM(ctx, t, d); err != nil || !has || !madeByNetplan(*d) {
		return false, err
	}
	d.Definition, _ = keyfileID(d.Files[0])
	d.Evidence = append(d.Evidence, "netplan made that of "+d.Definition)
	return true, readNetplanFiles(t, d)
}

func (netplanNM) runtime(t tree, p host.Profile, d Description) ([]file, error) {
	if t.exists(netplanKeyfile(p.Bridge)) {
		return nil, nil // it is for good already: this is a later boot
	}
	return netplanKeyfiles(p, d), nil
}

// netplanKeyfiles are what nmFiles are, under the names that netplan gives to its own.
func netplanKeyfiles(p host.Profile, d Description) []file {
	files := nmFiles(nmRun, p, d)
	for i := range files {
		files[i].Passing = true
	}
	files[0].Path = netplanKeyfile(p.Bridge)
	for i, nic := range strings.Fields(p.Uplinks) {
		files[i+1].Path = netplanKeyfile(nic)
		if i == 0 {
			files[i+1].Path = d.Files[0]
		}
	}
	return files
}

func (netplanNM) permanent(t tree, p host.Profile, d Description) ([]file, error) {
	return rewriteNetplanFiles(t, p, d)
}

// saved sees to it that what NetworkManager would read is the bridge's, also where
// netplan ran meanwhile.
func (netplanNM) saved(ctx context.Context, t tree, p host.Profile, d Description) error {
	bus, err := nmDial(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	return errors.Join(t.putAsRoot(netplanKeyfiles(p, d)), bus.reload(ctx))
}

// giveBack puts back what netplan made of the YAML before, in its stead.
func (n netplanNM) giveBack(ctx context.Context, t tree, p host.Profile, d Description) error {
	gone := []file{{Path: netplanKeyfile(p.Bridge)}}
	for _, nic := range strings.Fields(p.Uplinks)[1:] {
		gone = append(gone, file{Path: netplanKeyfile(nic)})
	}
	was := file{Path: d.Files[0], After: []byte(d.Generated), Mode: 0o600}
	if err := t.putAsRoot(append(gone, was)); err != nil {
		return err
	}
	return n.networkManager.giveBack(ctx, t, p, d)
}

// putAsRoot is put for files of which nobody looked what was before.
func (t tree) putAsRoot(files []file) error {
	for i := range files {
		files[i].UID, files[i].GID = os.Getuid(), os.Getgid()
	}
	return t.put(files)
}
