// Package store keeps what must outlive the daemon: the document, the ledger
// and the journal, in one database in the state directory, every write on disk
// before it is acknowledged; and the live ports, as files in the run directory.
//
// It owns the files, their lock and their durability. It does not know what the
// things in them mean.
//
// Start reading at Open below; ports.go has the run directory.
package store

import (
	"encoding/binary"
	"encoding/json"
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
	"drawbridge/internal/txn"
)

// File is the name of the database in the state directory.
const File = "state.db"

var (
	bucketNetworks = []byte("networks")
	bucketLedger   = []byte("ledger")
	bucketJournal  = []byte("journal")
	bucketMeta     = []byte("meta")
	bucketEnded    = []byte("ended")
	keyRevision    = []byte("revision")
	keyFormat      = []byte("format")
)

// format is the version of the layout; an older program refuses a newer one.
const format = 1

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
	fresh  bool
}

// Open opens or makes the database in dir, which must exist. It returns
// *LockedError if a process holds it, *CorruptError if it cannot be read.
func Open(dir string) (s *Store, err error) {
	path := filepath.Join(dir, File)
	defer damaged(path, &err)()
	// A truncated file is mapped beyond its end: reading there is SIGBUS, which
	// SetPanicOnFault makes a panic that damaged turns into an error.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	_, statErr := os.Stat(path)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 200 * time.Millisecond, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, bbolt.ErrTimeout):
		return nil, &LockedError{path}
	case errors.Is(err, os.ErrPermission), errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("open state: %w", err)
	case err != nil:
		return nil, &CorruptError{path, err}
	}
	s = &Store{db: db, fresh: errors.Is(statErr, os.ErrNotExist)}
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
		for _, b := range [][]byte{bucketNetworks, bucketLedger, bucketJournal, bucketMeta, bucketEnded} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if v := meta.Get(keyFormat); v == nil {
			return meta.Put(keyFormat, number(format))
		} else if got := toNumber(v); got > format {
			return fmt.Errorf("it was written by a newer drawbridge (format %d, this one knows %d)", got, format)
		}
		return nil
	})
	if err != nil {
		return &CorruptError{path, err}
	}
	if err := s.db.View(s.read); err != nil {
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

func (s *Store) read(tx *bbolt.Tx) error {
	s.saved = spec.Document{Networks: map[spec.NetworkName]spec.Network{}}
	s.ledger = host.Ledger{}
	s.saved.Revision = toNumber(tx.Bucket(bucketMeta).Get(keyRevision))
	err := tx.Bucket(bucketNetworks).ForEach(func(k, v []byte) error {
		var n spec.Network
		if err := json.Unmarshal(v, &n); err != nil {
			return fmt.Errorf("network %q: %w", k, err)
		}
		s.saved.Networks[spec.NetworkName(k)] = n
		return nil
	})
	if err != nil {
		return err
	}
	return tx.Bucket(bucketLedger).ForEach(func(k, v []byte) error {
		var key host.Key
		var claim host.Claim
		if err := errors.Join(key.UnmarshalText(k), json.Unmarshal(v, &claim)); err != nil {
			return fmt.Errorf("ledger entry %q: %w", k, err)
		}
		s.ledger[key] = claim
		return nil
	})
}

// Close releases the files.
func (s *Store) Close() error { return s.db.Close() }

// Fresh says that Open made the database: the host never had networks of ours.
func (s *Store) Fresh() bool { return s.fresh }

// Document returns the committed document.
func (s *Store) Document() spec.Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saved.Clone()
}

// Ledger returns the committed ledger.
func (s *Store) Ledger() host.Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Clone()
}

// Save writes an unfinished change.
func (s *Store) Save(t txn.Txn) error {
	b, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode change %s: %w", t.ID, err)
	}
	return s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketJournal).Put([]byte(t.ID), b) })
}

// End forgets a change, and remembers how it ended if a person had to decide.
func (s *Store) End(t txn.Txn) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketJournal).Delete([]byte(t.ID)); err != nil {
			return err
		}
		return ended(tx, t)
	})
}

// Load lists the unfinished changes, oldest id first.
func (s *Store) Load() ([]txn.Txn, error) {
	var all []txn.Txn
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketJournal).ForEach(func(k, v []byte) error {
			var t txn.Txn
			if err := json.Unmarshal(v, &t); err != nil {
				return fmt.Errorf("journal entry %q: %w", k, err)
			}
			all = append(all, t)
			return nil
		})
	})
	return all, err
}

// Commit stores document and ledger of a change and forgets the change, in one
// transaction of the database. One with steps for afterwards stays as confirmed.
func (s *Store) Commit(t txn.Txn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc := t.Doc.Clone()
	doc.Revision = s.saved.Revision + 1
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := s.writeDocument(tx, doc); err != nil {
			return err
		}
		if err := s.writeLedger(tx, t.Ledger); err != nil {
			return err
		}
		if len(t.After) > 0 {
			return put(tx.Bucket(bucketJournal), t.ID, t)
		}
		if err := tx.Bucket(bucketJournal).Delete([]byte(t.ID)); err != nil {
			return err
		}
		return ended(tx, t)
	})
	if err != nil {
		return err
	}
	s.saved, s.ledger = doc, t.Ledger.Clone()
	return nil
}

func (s *Store) writeDocument(tx *bbolt.Tx, doc spec.Document) error {
	networks := tx.Bucket(bucketNetworks)
	for name, n := range doc.Networks {
		if old, ok := s.saved.Networks[name]; ok && old.Equal(n) {
			continue
		}
		b, err := json.Marshal(n)
		if err != nil {
			return fmt.Errorf("encode network %q: %w", name, err)
		}
		if err := networks.Put([]byte(name), b); err != nil {
			return err
		}
	}
	for name := range s.saved.Networks {
		if _, stays := doc.Networks[name]; !stays {
			if err := networks.Delete([]byte(name)); err != nil {
				return err
			}
		}
	}
	return tx.Bucket(bucketMeta).Put(keyRevision, number(doc.Revision))
}

func (s *Store) writeLedger(tx *bbolt.Tx, ledger host.Ledger) error {
	b := tx.Bucket(bucketLedger)
	for key, claim := range ledger {
		if old, ok := s.ledger[key]; ok && old == claim {
			continue
		}
		v, err := json.Marshal(claim)
		if err != nil {
			return fmt.Errorf("encode claim to %s: %w", key, err)
		}
		if err := b.Put([]byte(key.String()), v); err != nil {
			return err
		}
	}
	for key := range s.ledger {
		if _, stays := ledger[key]; !stays {
			if err := b.Delete([]byte(key.String())); err != nil {
				return err
			}
		}
	}
	return nil
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
