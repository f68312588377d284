package dhcp

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// The file has one bucket "leases" with a bucket for each network, in which an
// address (4 bytes) leads to its lease: CRC-32C of the JSON text, then the text.
// Keyed by address, the file cannot hold two leases of one address.
const leasesBucket = "leases"

// damageError marks errors that mean that the file's content is wrong, other
// than that it could not be read or written.
type damageError struct{ cause error }

func (e *damageError) Error() string { return e.cause.Error() }
func (e *damageError) Unwrap() error { return e.cause }

func damage(err error) bool {
	var d *damageError
	return errors.As(err, &d)
}

// guarded runs f and turns a panic into a damageError: bbolt panics, or reads
// where no memory is (SIGSEGV, or SIGBUS if the file is too short), when pages
// of its file are wrong. bbolt functions that start goroutines (Tx.Check, and
// Open without a stored free list) must not be used, since nobody would catch
// their panics.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damageError{fmt.Errorf("%v", p)}
		}
	}()
	return f()
}

// openBolt opens the file and reads all leases. With a damage error come those
// that could be read.
func openBolt(path string) (*bbolt.DB, []Lease, error) {
	var file *os.File // bbolt's own, closed here if bbolt gives up without
	options := &bbolt.Options{
		Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	}
	opened := false
	defer func() {
		if !opened && file != nil {
			file.Close() // releases the lock as well; an error means that it is closed
		}
	}()
	db, err := bbolt.Open(path, 0o600, options)
	if err != nil {
		return nil, nil, classify(err)
	}
	var leases []Lease
	err = guarded(func() error { return db.View(func(tx *bbolt.Tx) error { return readAll(tx, &leases) }) })
	if err != nil {
		return nil, leases, err
	}
	opened = true
	return db, leases, syncDir(filepath.Dir(path))
}

// classify tells damage from everything else that opening can meet.
func classify(err error) error {
	var path *fs.PathError
	var errno syscall.Errno
	switch {
	case errors.Is(err, bbolt.ErrTimeout):
		return ErrLocked
	case errors.As(err, &path), errors.As(err, &errno):
		return err
	}
	return &damageError{err}
}

// maxRecords bounds what is read: a damaged page may lead back to itself.
const maxRecords = 1 << 22

func readAll(tx *bbolt.Tx, into *[]Lease) error {
	all := tx.Bucket([]byte(leasesBucket))
	if all == nil {
		return nil
	}
	var bad error
	err := all.ForEachBucket(func(network []byte) error {
		return all.Bucket(network).ForEach(func(k, v []byte) error {
			lease, err := decodeLease(v)
			if err == nil && (lease.Network != string(network) || string(lease.Addr.AsSlice()) != string(k)) {
				err = fmt.Errorf("record %x of network %q is about %s of %q", k, network, lease.Addr, lease.Network)
			}
			if err != nil {
				bad = &damageError{err}
				return nil
			}
			if *into = append(*into, lease); len(*into) > maxRecords {
				return &damageError{fmt.Errorf("more than %d records", maxRecords)}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return bad
}

// castagnoli is made when it is first needed: it takes 0.1 ms, which every
// command of the program would spend.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

func encodeLease(l Lease) ([]byte, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode lease of %s: %w", l.Addr, err)
	}
	return append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(text, castagnoli())), text...), nil
}

func decodeLease(b []byte) (Lease, error) {
	var l Lease
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli()) {
		return l, errors.New("a record has a wrong checksum")
	}
	if err := json.Unmarshal(b[4:], &l); err != nil {
		return l, fmt.Errorf("decode record: %w", err)
	}
	return l, nil
}

// write puts a batch on disk in one transaction, that is with one wait for it.
func (l *Leases) write(batch []job) error {
	if !slices.ContainsFunc(batch, func(j job) bool { return len(j.put) > 0 || j.forget != "" }) {
		return nil
	}
	if l.beforeCommit != nil {
		if err := l.beforeCommit(); err != nil {
			return err
		}
	}
	if l.db == nil {
		return errors.New("the lease file could not be opened again")
	}
	err := guarded(func() error {
		return l.db.Update(func(tx *bbolt.Tx) error {
			for _, j := range batch {
				if err := putJob(tx, j); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err == nil {
		l.commits.Add(1)
	}
	return err
}

func putJob(tx *bbolt.Tx, j job) error {
	all, err := tx.CreateBucketIfNotExists([]byte(leasesBucket))
	if err != nil {
		return fmt.Errorf("make lease bucket: %w", err)
	}
	if j.forget != "" && all.Bucket([]byte(j.forget)) != nil {
		if err := all.DeleteBucket([]byte(j.forget)); err != nil {
			return fmt.Errorf("delete lease bucket: %w", err)
		}
	}
	for _, lease := range j.put {
		bucket, err := all.CreateBucketIfNotExists([]byte(lease.Network))
		if err != nil {
			return fmt.Errorf("make lease bucket of network %q: %w", lease.Network, err)
		}
		value, err := encodeLease(lease)
		if err != nil {
			return err
		}
		if err := bucket.Put(lease.Addr.AsSlice(), value); err != nil {
			return fmt.Errorf("put lease of %s: %w", lease.Addr, err)
		}
	}
	return nil
}

// startAfresh keeps the damaged file under another name and begins a new one
// with the leases in memory. The damaged file's mapping is leaked: to close it
// might wait for a lock that the panic left behind.
func (l *Leases) startAfresh(cause error) error {
	l.db = nil
	aside, err := setFileAside(l.path)
	if err != nil {
		return errors.Join(cause, err)
	}
	if l.db, _, err = openBolt(l.path); err != nil {
		return errors.Join(cause, err)
	}
	leases := l.List()
	if err := l.write([]job{{put: leases}}); err != nil {
		return errors.Join(cause, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.corrupt = &CorruptError{Path: l.path, Aside: aside, Cause: cause, Salvaged: len(leases)}
	return nil
}

// setFileAside renames a file to one with the time in its name that does not
// exist yet.
func setFileAside(path string) (string, error) {
	stem := path + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
	for i := range 100 {
		aside := stem
		if i > 0 {
			aside += "-" + strconv.Itoa(i)
		}
		err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, aside, unix.RENAME_NOREPLACE)
		if err == nil {
			return aside, syncDir(filepath.Dir(path))
		}
		if !errors.Is(err, unix.EEXIST) {
			return "", fmt.Errorf("set %s aside: %w", path, err)
		}
	}
	return "", fmt.Errorf("set %s aside: too many files of that name", path)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
