package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// forwardKey is where a forward is in its bucket. No name of a network has a zero
// byte in it.
func forwardKey(network spec.NetworkName, key string) []byte {
	return slices.Concat([]byte(network), []byte{0}, []byte(key))
}

// read reads document and ledger.
func read(tx *bbolt.Tx) (spec.Document, host.Ledger, error) {
	doc := spec.Document{Revision: toNumber(tx.Bucket(bucketMeta).Get(keyRevision)), Networks: map[spec.NetworkName]spec.Network{}}
	ledger := host.Ledger{}
	lists := map[string][]spec.Forward{}
	err := tx.Bucket(bucketForwards).ForEach(func(k, v []byte) error {
		name, _, _ := bytes.Cut(k, []byte{0})
		var f spec.Forward
		if err := json.Unmarshal(v, &f); err != nil {
			return fmt.Errorf("forward %q: %w", k, err)
		}
		lists[string(name)] = append(lists[string(name)], f)
		return nil
	})
	if err != nil {
		return doc, ledger, err
	}
	err = tx.Bucket(bucketNetworks).ForEach(func(k, v []byte) error {
		var n spec.Network
		if err := json.Unmarshal(v, &n); err != nil {
			return fmt.Errorf("network %q: %w", k, err)
		}
		if list := lists[string(k)]; len(list) > 0 {
			n = n.WithForwards(list)
		}
		delete(lists, string(k))
		doc.Networks[spec.NetworkName(k)] = n
		return nil
	})
	if err != nil {
		return doc, ledger, err
	}
	for name := range lists {
		return doc, ledger, fmt.Errorf("forwards of a network %q, which is not there", name)
	}
	err = tx.Bucket(bucketLedger).ForEach(func(k, v []byte) error {
		var key host.Key
		var claim host.Claim
		if err := errors.Join(key.UnmarshalText(k), json.Unmarshal(v, &claim)); err != nil {
			return fmt.Errorf("ledger entry %q: %w", k, err)
		}
		ledger[key] = claim
		return nil
	})
	return doc, ledger, err
}

// write makes the edit to what is in the database.
func (e edit) write(tx *bbolt.Tx, revision uint64) error {
	networks, forwards, ledger := records{}, records{}, records{}
	for name, n := range e.Networks {
		networks[string(name)] = n
	}
	for _, name := range e.Removed {
		networks[string(name)] = nil
	}
	for name, change := range e.Forwards {
		for _, key := range change.Gone {
			forwards[string(forwardKey(name, key))] = nil
		}
		for _, f := range change.Put {
			forwards[string(forwardKey(name, f.Key()))] = f
		}
	}
	for key, claim := range e.Claims {
		ledger[key.String()] = claim
	}
	for _, key := range e.Dropped {
		ledger[key.String()] = nil
	}
	return errors.Join(
		networks.write(tx.Bucket(bucketNetworks)), forwards.write(tx.Bucket(bucketForwards)), ledger.write(tx.Bucket(bucketLedger)),
		tx.Bucket(bucketMeta).Put(keyRevision, number(revision)))
}

// records are to be written to a bucket, nil to be deleted from it.
type records map[string]any

func (r records) write(b *bbolt.Bucket) error {
	// In order: bbolt then appends, and is thirty times as fast.
	for _, key := range slices.Sorted(maps.Keys(r)) {
		if r[key] == nil {
			if err := b.Delete([]byte(key)); err != nil {
				return err
			}
			continue
		}
		v, err := json.Marshal(r[key])
		if err != nil {
			return fmt.Errorf("encode %q: %w", key, err)
		}
		if err := b.Put([]byte(key), v); err != nil {
			return err
		}
	}
	return nil
}

// convert brings a database of an older format, or a new one, to this format.
func convert(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	if err := meta.Put(keyFormat, number(format)); err != nil {
		return err
	}
	// A network that has its forwards in it is read with them.
	doc, ledger, err := read(tx)
	if err != nil {
		return err
	}
	if err := editOf(spec.Document{}, doc, nil, ledger).write(tx, doc.Revision); err != nil {
		return err
	}
	journal := tx.Bucket(bucketJournal)
	entries := records{}
	err = journal.ForEach(func(k, v []byte) error {
		var t txn.Txn
		if err := json.Unmarshal(v, &t); err != nil {
			return fmt.Errorf("journal entry %q: %w", k, err)
		}
		entries[string(k)] = entryOf(t, doc, ledger)
		return nil
	})
	if err != nil {
		return err
	}
	return entries.write(journal)
}
