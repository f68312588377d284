package store

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// entry is a change in the journal: whole but for document and ledger, of which
// it has what the change edits. While a change is unfinished nothing else edits
// the same, so that it can be read back from what is committed.
type entry struct {
	Txn  txn.Txn
	Edit edit
}

func entryOf(t txn.Txn, had spec.Document, owned host.Ledger) entry {
	e := entry{Txn: t, Edit: editOf(had, t.Doc, owned, t.Ledger)}
	e.Txn.Doc, e.Txn.Ledger = spec.Document{}, nil
	return e
}

// Save writes an unfinished change. One that is stuck is in the record from now on.
func (s *Store) Save(t txn.Txn) error {
	saved, ledger := s.committed()
	e := entryOf(t, saved, ledger)
	return s.db.Update(func(tx *bbolt.Tx) error {
		if t.Phase == txn.Stuck {
			if err := s.record(tx, entryOfChange(t, saved)); err != nil {
				return err
			}
		}
		return put(tx.Bucket(bucketJournal), t.ID, e)
	})
}

// End forgets a change, and remembers how it ended if a person had to decide. What
// was confirmed is in the record already.
func (s *Store) End(t txn.Txn) error {
	saved, _ := s.committed()
	return s.db.Update(func(tx *bbolt.Tx) error {
		if t.Phase == txn.RolledBack {
			if err := s.record(tx, entryOfChange(t, saved)); err != nil {
				return err
			}
		}
		if err := tx.Bucket(bucketJournal).Delete([]byte(t.ID)); err != nil {
			return err
		}
		return ended(tx, t)
	})
}

// Load lists the unfinished changes, oldest id first.
func (s *Store) Load() ([]txn.Txn, error) {
	saved, ledger := s.committed()
	var all []txn.Txn
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketJournal).ForEach(func(k, v []byte) error {
			var e entry
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("journal entry %q: %w", k, err)
			}
			t := e.Txn
			t.Doc, t.Ledger = e.Edit.apply(saved, ledger)
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
	change := entryOf(t, s.saved, s.ledger)
	kept := entryOfChange(t, s.saved)
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := errors.Join(change.Edit.write(tx, doc.Revision), s.record(tx, kept)); err != nil {
			return err
		}
		if len(t.After) > 0 {
			// Its edit is made: nothing of it is left for later.
			return put(tx.Bucket(bucketJournal), t.ID, entry{Txn: change.Txn})
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
