// Package store keeps what must outlive the daemon: the document, the ledger
// and the journal, in one database in the state directory, every write on disk
// before it is acknowledged; and the live ports, as files in the run directory.
//
// It owns the files, their lock and their durability, and how much of the past is
// kept. It does not know what the things in them mean.
//
// Start reading at Open below; journal.go has the changes and their commit point,
// record.go what is kept of them, document.go the records of the document, ports.go
// the run directory.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// File is the name of the database in the state directory.
const File = "state.db"

var (
	// Networks are stored without their forwards, which have records of their own:
	// changing one of thirty thousand writes one.
	bucketNetworks = []byte("networks")
	bucketForwards = []byte("forwards")
	bucketLedger   = []byte("ledger")
	bucketJournal  = []byte("journal")
	bucketMeta     = []byte("meta")
	bucketEnded    = []byte("ended")
	keyRevision    = []byte("revision")
	keyFormat      = []byte("format")
)

// format is the version of the layout; an older program refuses a newer one. In
// format 1 networks had their forwards in them, and entries of the journal had
// the whole document.
const format = 2

// LockedError says that another process works on the same state directory.
type LockedError struct{ Path string }

// Error says what to do.
func (e *LockedError) Error() string {
	return e.Path + " is in use: a drawbridge daemon runs already on this state directory"
}

// CorruptError says that a file cannot be read. The file is left as it is.
type CorruptError struct {
	Path  string
	Cause error
}

// Error names the file and the way out.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged (%v); it was left untouched: put a backup in its place, or move it away to start with no networks", e.Path, e.Cause)
}

// Unwrap returns what was wrong with it.
func (e *CorruptError) Unwrap() error { return e.Cause }

// Store is the open state directory. Its methods may be called concurrently.
type Store struct {
	db *bbolt.DB
	mu sync.Mutex // over saved and ledger
	// saved is what the database holds, so that a commit writes differences only.
	saved  spec.Document
	ledger host.Ledger
}

// Open opens or makes the database in dir, which must exist. It returns
// *LockedError if a process holds it, *CorruptError if it cannot be read.
func Open(dir string) (s *Store, err error) {
	path := filepath.Join(dir, File)
	defer damaged(path, &err)()
	// A truncated file is mapped beyond its end: reading there is SIGBUS, which
	// SetPanicOnFault makes a panic that damaged turns into an error.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 200 * time.Millisecond, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	switch {
	case errors.Is(err, bbolt.ErrTimeout):
		return nil, &LockedError{path}
	case errors.Is(err, os.ErrPermission), errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("open state: %w", err)
	case err != nil:
		return nil, &CorruptError{path, err}
	}
	s = &Store{db: db}
	if err := s.load(path); err != nil {
		db.Close()
		return nil, err
	}
	return s, syncDir(dir)
}

// damaged returns a function that turns a panic of the database library on a
// damaged file into *CorruptError.
func damaged(path string, err *error) func() {
	return func() {
		if r := recover(); r != nil {
			*err = &CorruptError{path, fmt.Errorf("%v", r)}
		}
	}
}

func (s *Store) load(path string) error {
	if err := s.check(); err != nil {
		return &CorruptError{path, err}
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketNetworks, bucketForwards, bucketLedger, bucketJournal, bucketMeta, bucketEnded, bucketRecord, bucketSeen} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		switch got := toNumber(tx.Bucket(bucketMeta).Get(keyFormat)); {
		case got > format:
			return fmt.Errorf("it was written by a newer drawbridge (format %d, this one knows %d)", got, format)
		case got < format:
			return convert(tx)
		}
		return nil
	})
	if err != nil {
		return &CorruptError{path, err}
	}
	if err := s.db.View(func(tx *bbolt.Tx) (err error) {
		s.saved, s.ledger, err = read(tx)
		return err
	}); err != nil {
		return &CorruptError{path, err}
	}
	return nil
}

// check walks the whole database, as bbolt's README asks after a crash.
func (s *Store) check() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = err
			}
		}
		return first
	})
}

// Close releases the files.
func (s *Store) Close() error { return s.db.Close() }

// Document returns the committed document.
func (s *Store) Document() spec.Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saved.Clone()
}

// committed are document and ledger as they are, for reading only: a commit
// replaces them and does not change them.
func (s *Store) committed() (spec.Document, host.Ledger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saved, s.ledger
}

// Ledger returns the committed ledger.
func (s *Store) Ledger() host.Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Clone()
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func toNumber(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// syncDir makes the directory entry of a new file durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
