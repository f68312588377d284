package hostconf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// file is one file that a profile writes, with what was there before.
type file struct {
	Path string
	// After is what is written, Before what was there; nil is no file.
	Before, After []byte
	// Mode, UID and GID are those of the file before; of a new one, what it gets.
	Mode     fs.FileMode
	UID, GID int
	// Scratch files are written to by the programs that use them, such as leases:
	// they go as they are, and nobody "edited" them.
	Scratch bool
}

// lookBefore fills in what is there now.
func (t tree) lookBefore(f *file) error {
	var err error
	if f.Before, err = t.read(f.Path); err != nil {
		return fmt.Errorf("look at %s: %w", f.Path, err)
	}
	if f.Before == nil {
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		f.UID, f.GID = os.Getuid(), os.Getgid()
		return nil
	}
	info, err := os.Stat(t.path(f.Path))
	if err != nil {
		return fmt.Errorf("look at %s: %w", f.Path, err)
	}
	f.Mode = info.Mode().Perm()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.UID, f.GID = int(st.Uid), int(st.Gid)
	}
	return nil
}

// put writes the files as they shall be. One that is so already is not touched:
// managers look at times.
func (t tree) put(files []file) error {
	for _, f := range files {
		there, err := t.read(f.Path)
		if err != nil {
			return err
		}
		switch {
		case f.After == nil:
			err = t.remove(f.Path)
		case there == nil || !f.Scratch && !bytes.Equal(there, f.After):
			err = t.write(f.Path, f.After, f.Mode, f.UID, f.GID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// allThere says whether every file that shall be there is.
func (t tree) allThere(files []file) bool {
	for _, f := range files {
		if f.After != nil && !f.Scratch && !t.exists(f.Path) {
			return false
		}
	}
	return true
}

// restore puts back what was there before put, the last first. A file that
// others edited since loses only what we put in, and tell is told; where that
// cannot be told apart, the edited file is kept in the folder attic: beside the
// old one, a manager might read it.
func (t tree) restore(files []file, attic string, tell func(string)) error {
	var errs []error
	for i := len(files) - 1; i >= 0; i-- {
		errs = append(errs, t.restoreOne(files[i], attic, tell))
	}
	return errors.Join(errs...)
}

func (t tree) restoreOne(f file, attic string, tell func(string)) error {
	there, err := t.read(f.Path)
	if err != nil {
		return err
	}
	same := there == nil && f.After == nil || there != nil && f.After != nil && bytes.Equal(there, f.After)
	restored := there == nil && f.Before == nil || there != nil && f.Before != nil && bytes.Equal(there, f.Before)
	switch {
	case restored:
		return nil
	case f.Before == nil && (same || f.Scratch):
		return t.remove(f.Path)
	case same:
		return t.write(f.Path, f.Before, f.Mode, f.UID, f.GID)
	case there == nil:
		tell(fmt.Sprintf("%s was deleted since it was changed for the bridge; it was put back as it was before", f.Path))
		return t.write(f.Path, f.Before, f.Mode, f.UID, f.GID)
	case f.Before == nil:
		// It was ours from the first line: what others wrote there is about our bridge.
		kept := attic + "/" + strings.ReplaceAll(f.Path[1:], "/", "-")
		if err := t.own(kept, there, 0o600); err != nil {
			return err
		}
		tell(fmt.Sprintf("%s was edited since it was written for the bridge; it was removed, and is kept as %s", f.Path, kept))
		return t.remove(f.Path)
	}
	merged, clean := takeOut(f.Before, f.After, there)
	if clean {
		tell(fmt.Sprintf("%s was edited since it was changed for the bridge; only what was put in for the bridge was taken out", f.Path))
		return t.write(f.Path, merged, f.Mode, f.UID, f.GID)
	}
	kept := attic + "/" + strings.ReplaceAll(f.Path[1:], "/", "-")
	if err := t.own(kept, there, 0o600); err != nil {
		return err
	}
	tell(fmt.Sprintf("%s was edited since in the lines that were changed for the bridge; those are as they were before, and the edited file is kept as %s", f.Path, kept))
	return t.write(f.Path, merged, f.Mode, f.UID, f.GID)
}
