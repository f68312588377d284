package store

import "path/filepath"

// KeysFile is the name of the logins' database in the state directory: hashes of
// secrets, never secrets. It is a file of its own, so that a login never makes a
// change wait, and so that losing it costs no more than logging in again.
const KeysFile = "logins.db"

// Keys keeps the records of logins. Its methods may be called concurrently.
type Keys struct{ records *Tally }

// OpenKeys opens or makes the logins' database in dir, which Open has locked. One
// that cannot be read is put aside as logins.db.damaged, and nobody is logged in:
// Damaged tells.
func OpenKeys(dir string) (*Keys, error) {
	records, err := openOrPutAside(filepath.Join(dir, KeysFile))
	if err != nil {
		return nil, err
	}
	return &Keys{records}, nil
}

// Damaged is what was wrong with the logins that were put aside, or nil.
func (k *Keys) Damaged() error { return k.records.damaged }

// Close releases the file.
func (k *Keys) Close() error { return k.records.Close() }

// LoadKeys returns all records.
func (k *Keys) LoadKeys() (map[string][]byte, error) { return k.records.LoadTally() }

// SaveKeys writes records, and deletes those whose value is nil, in one
// transaction that is on disk when it returns.
func (k *Keys) SaveKeys(records map[string][]byte) error { return k.records.SaveTally(records) }
