package store

import (
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"

	"drawbridge/internal/txn"
)

// endedKept is how many ended changes are remembered: enough for a person who
// asks what became of one, too few to matter.
const endedKept = 32

func put(b *bbolt.Bucket, id string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode change %s: %w", id, err)
	}
	return b.Put([]byte(id), raw)
}

// ended remembers how a change ended that waited for a person, and forgets the
// oldest. Keys count up, so that they are in order.
func ended(tx *bbolt.Tx, t txn.Txn) error {
	if t.Within == 0 {
		return nil
	}
	b := tx.Bucket(bucketEnded)
	n, err := b.NextSequence()
	if err != nil {
		return err
	}
	if n > endedKept {
		if err := b.Delete(number(n - endedKept)); err != nil {
			return err
		}
	}
	return put(b, string(number(n)), t.Ended())
}

// Ended lists how the last changes ended that waited for a person, oldest first.
func (s *Store) Ended() ([]txn.Ended, error) {
	var all []txn.Ended
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketEnded).ForEach(func(_, v []byte) error {
			var e txn.Ended
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("ended change: %w", err)
			}
			all = append(all, e)
			return nil
		})
	})
	return all, err
}
