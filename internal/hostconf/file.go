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
	// Passing files may be taken away, by us, or written anew, by the program that makes
	// them, before their profile goes: that is nobody's doing.
	Passing bool
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
		if f.After != nil && !f.Scratch && !f.Passing && !t.exists(f.Path) {
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
	r := f.wayBack(there, attic)
	if r.done {
		return nil
	}
	if r.kept != "" {
		if err := t.own(r.kept, there, 0o600); err != nil {
			return err
		}
	}
	if r.content == nil {
		err = t.remove(f.Path)
	} else {
		err = t.write(f.Path, r.content, f.Mode, f.UID, f.GID)
	}
	if err == nil && r.note != "" {
		tell(r.note)
	}
	return err
}

// wayBack is how a file comes to be what it was before.
type wayBack struct {
	// done: it is so already.
	done bool
	// content it gets, nil to take it away.
	content []byte
	// kept is where what is there now is kept, "" if nothing of it is lost.
	kept string
	// note says what somebody did to it meanwhile, and what becomes of that.
	note string
}

func (f file) wayBack(there []byte, attic string) wayBack {
	same := (there == nil) == (f.After == nil) && bytes.Equal(there, f.After)
	restored := (there == nil) == (f.Before == nil) && bytes.Equal(there, f.Before)
	kept := attic + "/" + strings.ReplaceAll(f.Path[1:], "/", "-")
	switch {
	case restored:
		return wayBack{done: true}
	case f.Before == nil && (same || f.Scratch || f.Passing):
		return wayBack{}
	case same, f.Passing:
		return wayBack{content: f.Before}
	case there == nil:
		return wayBack{content: f.Before, note: fmt.Sprintf("%s was deleted since it was changed for the bridge: it is put back as it was before", f.Path)}
	case f.Before == nil:
		// It was ours from the first line: what others wrote there is about our bridge.
		return wayBack{kept: kept, note: fmt.Sprintf("%s was edited since it was written for the bridge: it is removed, and kept as %s", f.Path, kept)}
	}
	merged, clean := f.takeOut(there)
	if clean {
		return wayBack{content: merged, note: fmt.Sprintf("%s was edited since it was changed for the bridge: only what was put in for the bridge is taken out", f.Path)}
	}
	return wayBack{content: merged, kept: kept,
		note: fmt.Sprintf("%s was edited since in the lines that were changed for the bridge: those become what they were before, and the edited file is kept as %s", f.Path, kept)}
}

// takeOut takes what we put in out of what is there. NetworkManager writes a
// connection anew from end to end when a setting is changed, so there it goes by
// settings, elsewhere by lines.
func (f file) takeOut(there []byte) (merged []byte, clean bool) {
	if strings.HasSuffix(f.Path, ".nmconnection") {
		return takeOutSettings(f.Before, f.After, there), true
	}
	return takeOut(f.Before, f.After, there)
}

// edited says which of the files others have edited, and what restore will do about it.
func (t tree) edited(files []file, attic string) []string {
	var notes []string
	for _, f := range files {
		there, err := t.read(f.Path)
		if err != nil || f.Scratch || strings.HasPrefix(f.Path, "/run/") {
			continue // restore will say it
		}
		if r := f.wayBack(there, attic); r.note != "" {
			notes = append(notes, r.note)
		}
	}
	return notes
}
