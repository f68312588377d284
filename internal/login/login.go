// Package login keeps who may come in without being known by the kernel: links
// that are good for one login, the sessions that browsers get for them, and
// tokens for scripts and wall screens.
//
// It owns what a secret looks like, how long it is good for, and that only its
// hash is kept. It does not know HTTP, cookies, nor what somebody may do who is
// in (that is rest), nor where records are kept (Store).
//
// Start reading at Keys below; links and sessions are in session.go, tokens in
// token.go.
package login

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Store keeps records. SaveKeys deletes those whose value is nil; all are on
// disk when it returns, or none.
type Store interface {
	LoadKeys() (map[string][]byte, error)
	SaveKeys(records map[string][]byte) error
}

var (
	// ErrUnknown says that a secret opens nothing: it is wrong, or ended.
	ErrUnknown = errors.New("it is not known here, or no longer good")
	// ErrUsed says that a link was used already.
	ErrUsed = errors.New("it was used already")
	// ErrExists says that a token of that name is there already.
	ErrExists = errors.New("exists already")
	// ErrNotFound says that there is no such session or token.
	ErrNotFound = errors.New("not found")
	// ErrFull says that there are as many as are kept.
	ErrFull = errors.New("there are too many; remove some first")
)

// How many of each are kept at one time.
const (
	maxLinks    = 64
	maxSessions = 256
	maxTokens   = 256
)

// Keys is what opens the door. Its methods may be called concurrently.
type Keys struct {
	store Store
	now   func() time.Time

	mu sync.Mutex
	id string
	// listen is where the page was asked to be.
	listen string
	// By the hash of the secret, in hex.
	links    map[string]link
	sessions map[string]Session
	tokens   map[string]Token
	// ending are called when a session or token ends.
	ending map[string]map[*func()]bool
}

// Open reads the records and forgets those that ended meanwhile. now is the
// wall clock.
func Open(store Store, now func() time.Time) (*Keys, error) {
	k := &Keys{
		store: store, now: now, links: map[string]link{}, sessions: map[string]Session{}, tokens: map[string]Token{},
		ending: map[string]map[*func()]bool{},
	}
	records, err := store.LoadKeys()
	if err != nil {
		return nil, err
	}
	for name, raw := range records {
		if err := k.read(name, raw); err != nil {
			return nil, fmt.Errorf("read logins: record %q: %w", name, err)
		}
	}
	if k.id == "" {
		id := newID()
		if err := store.SaveKeys(map[string][]byte{recordID: []byte(id)}); err != nil {
			return nil, err
		}
		k.id = id
	}
	return k, k.sweep()
}

// The names of records.
const (
	recordID     = "id"
	recordListen = "listen"
	linkPrefix   = "link/"
	sessPrefix   = "session/"
	tokenPrefix  = "token/"
)

func (k *Keys) read(name string, raw []byte) error {
	switch kind, hash, _ := strings.Cut(name, "/"); kind + "/" {
	case recordID + "/":
		k.id = string(raw)
	case recordListen + "/":
		k.listen = string(raw)
	case linkPrefix:
		return into(raw, k.links, hash)
	case sessPrefix:
		return into(raw, k.sessions, hash)
	case tokenPrefix:
		return into(raw, k.tokens, hash)
	}
	return nil // of a newer version
}

func into[T any](raw []byte, m map[string]T, hash string) error {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	m[hash] = v
	return nil
}

// ID tells this daemon from others on the same host name: eight hex digits that
// stay the same.
func (k *Keys) ID() string { return k.id }

// Listen is where the page was asked to be, "" if nowhere.
func (k *Keys) Listen() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.listen
}

// SetListen remembers where the page was asked to be.
func (k *Keys) SetListen(addr string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if addr == k.listen {
		return nil
	}
	record := []byte(addr)
	if addr == "" {
		record = nil
	}
	if err := k.store.SaveKeys(map[string][]byte{recordListen: record}); err != nil {
		return err
	}
	k.listen = addr
	return nil
}

// Follow calls end when what is called id, a session's or a token's ID, ends
// before its time. Call the returned function when nobody cares any more.
func (k *Keys) Follow(id string, end func()) (leave func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ending[id] == nil {
		k.ending[id] = map[*func()]bool{}
	}
	k.ending[id][&end] = true
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if delete(k.ending[id], &end); len(k.ending[id]) == 0 {
			delete(k.ending, id)
		}
	}
}

// over tells those who follow something that ended.
func (k *Keys) over(id string) {
	for end := range k.ending[id] {
		go (*end)()
	}
	delete(k.ending, id)
}

// sweep forgets what ended.
func (k *Keys) sweep() error {
	now, gone := k.now(), map[string][]byte{}
	for hash, l := range k.links {
		if !now.Before(l.Until) {
			gone[linkPrefix+hash] = nil
		}
	}
	for hash, t := range k.tokens {
		if t.ended(now) {
			gone[tokenPrefix+hash] = nil
		}
	}
	for hash, s := range k.sessions {
		if s.ended(now) || s.Token != "" && !k.tokenLives(s.Token, now) {
			gone[sessPrefix+hash] = nil
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return k.save(gone)
}

// save writes records and, once they are on disk, does the same in memory.
func (k *Keys) save(records map[string][]byte) error {
	if err := k.store.SaveKeys(records); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		raw := records[name]
		if raw != nil {
			if err := k.read(name, raw); err != nil {
				return err
			}
			continue
		}
		kind, hash, _ := strings.Cut(name, "/")
		switch kind + "/" {
		case linkPrefix:
			delete(k.links, hash)
		case sessPrefix:
			k.over(k.sessions[hash].ID)
			delete(k.sessions, hash)
		case tokenPrefix:
			k.over(k.tokens[hash].ID)
			delete(k.tokens, hash)
		}
	}
	return nil
}

func record(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types of strings, times and booleans
	}
	return raw
}

// newSecret has 256 bits.
func newSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// hashOf needs no salt and no slowness: a secret has 256 random bits. It is
// looked up by its hash, so how long that takes says nothing about the secret.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func sameHash(secret, hash string) bool {
	return subtle.ConstantTimeCompare([]byte(hashOf(secret)), []byte(hash)) == 1
}

func newID() string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
