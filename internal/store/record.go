package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// The record is in the same database as the document, so that a change and its
// entry are on disk together, by one fsync, or neither is. What happens by itself
// or comes from others has a bucket of its own: however much that is, it pushes
// out no change.
var (
	bucketRecord = []byte("record")
	bucketSeen   = []byte("seen")
)

// shelf bounds what is kept of one bucket.
type shelf struct{ entries, bytes int }

// shelves: thousands of changes, and of what others do. All of it is checked when
// the daemon starts, which takes a few milliseconds.
var shelves = map[string]shelf{
	string(bucketRecord): {entries: 5000, bytes: 8 << 20},
	string(bucketSeen):   {entries: 2000, bytes: 2 << 20},
}

// held reads how much is in a bucket; it is kept beside it, so that nobody has to
// walk the record to know.
func held(tx *bbolt.Tx, bucket []byte) shelf {
	v := tx.Bucket(bucketMeta).Get(bucket)
	if len(v) != 16 {
		return shelf{}
	}
	return shelf{int(toNumber(v[:8])), int(toNumber(v[8:]))}
}

// record adds entries and forgets the oldest that there is no more room for.
func (s *Store) record(tx *bbolt.Tx, entries ...txn.Entry) error {
	for _, e := range entries {
		if e.Empty() {
			continue
		}
		bucket := bucketSeen
		if e.Kind == txn.EntryChange {
			bucket = bucketRecord
		}
		if err := shelve(tx, bucket, e); err != nil {
			return fmt.Errorf("record %q: %w", e.Title, err)
		}
	}
	return nil
}

func shelve(tx *bbolt.Tx, bucket []byte, e txn.Entry) error {
	b := tx.Bucket(bucket)
	// One row of numbers for both, so that they can be told in order.
	n, err := tx.Bucket(bucketRecord).NextSequence()
	if err != nil {
		return err
	}
	e.Number = n
	if e.Ended.IsZero() {
		e.Ended = time.Now()
	}
	if e.Began.IsZero() {
		e.Began = e.Ended
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	key, limit, at := number(n), shelves[string(bucket)], held(tx, bucket)
	at.entries++
	at.bytes += len(key) + len(raw)
	c := b.Cursor()
	for k, v := c.First(); k != nil && (at.entries > limit.entries || at.bytes > limit.bytes); k, v = c.First() {
		at.entries--
		at.bytes -= len(k) + len(v)
		if err := c.Delete(); err != nil {
			return err
		}
	}
	if err := tx.Bucket(bucketMeta).Put(bucket, slices.Concat(number(uint64(at.entries)), number(uint64(at.bytes)))); err != nil {
		return err
	}
	return b.Put(key, raw)
}

// Record adds entries that belong to no change of the journal. They are on disk
// when it returns.
func (s *Store) Record(entries ...txn.Entry) error {
	err := s.db.Update(func(tx *bbolt.Tx) error { return s.record(tx, entries...) })
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

// History calls each for every entry, the newest first, until it says no. An entry
// that cannot be read is one of kind EntryDamaged.
func (s *Store) History(each func(txn.Entry) bool) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		changes, seen := tx.Bucket(bucketRecord).Cursor(), tx.Bucket(bucketSeen).Cursor()
		k, v := changes.Last()
		l, w := seen.Last()
		for k != nil || l != nil {
			key, value := k, v
			if k == nil || l != nil && toNumber(l) > toNumber(k) {
				key, value = l, w
				l, w = seen.Prev()
			} else {
				k, v = changes.Prev()
			}
			if !each(readEntry(key, value)) {
				return nil
			}
		}
		return nil
	})
}

func readEntry(key, value []byte) txn.Entry {
	var e txn.Entry
	if err := json.Unmarshal(value, &e); err != nil {
		return txn.Entry{Number: toNumber(key), Kind: txn.EntryDamaged, Title: "an entry that cannot be read", Problem: err.Error()}
	}
	return e
}

// entryOfChange is what is kept of a change that ends now.
func entryOfChange(t txn.Txn, had spec.Document) txn.Entry {
	e := t.Entry(had)
	e.Ended = time.Now()
	return e
}
