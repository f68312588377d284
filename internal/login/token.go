package login

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// tokenMark begins every token, so that scanners for secrets find one that was
// committed somewhere.
const tokenMark = "drawbridge_"

// Token lets a script or a wall screen in until it is removed.
type Token struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	ReadOnly bool      `json:"read_only,omitempty"`
	By       string    `json:"by"`
	Made     time.Time `json:"made"`
	// Until is when it ends; nil: never.
	Until *time.Time `json:"until,omitempty"`
}

func (t Token) ended(now time.Time) bool { return t.Until != nil && !now.Before(*t.Until) }

// AddToken makes a token; its secret is told once and never again. lasting 0 is
// for ever. The error is ErrExists or ErrFull, or the store's.
func (k *Keys) AddToken(name string, readOnly bool, lasting time.Duration, by string) (Token, string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.sweep(); err != nil {
		return Token{}, "", err
	}
	for _, t := range k.tokens {
		if t.Name == name {
			return Token{}, "", fmt.Errorf("token %q: %w", name, ErrExists)
		}
	}
	if len(k.tokens) >= maxTokens {
		return Token{}, "", fmt.Errorf("tokens: %w", ErrFull)
	}
	t := Token{ID: newID(), Name: name, ReadOnly: readOnly, By: by, Made: k.now().UTC()}
	if lasting > 0 {
		until := t.Made.Add(lasting)
		t.Until = &until
	}
	secret := tokenMark + newSecret()
	return t, secret, k.save(map[string][]byte{tokenPrefix + hashOf(secret): record(t)})
}

// Token finds the token of a secret; ErrUnknown if there is none.
func (k *Keys) Token(secret string) (Token, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, ok := k.tokens[hashOf(secret)]
	if !ok || t.ended(k.now()) {
		return Token{}, ErrUnknown
	}
	return t, nil
}

// Tokens lists those that are good, by name.
func (k *Keys) Tokens() []Token {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	var all []Token
	for _, t := range k.tokens {
		if !t.ended(now) {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b Token) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// RemoveToken makes a token worthless, and ends the sessions that it opened.
func (k *Keys) RemoveToken(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	records := map[string][]byte{}
	for hash, t := range k.tokens {
		if t.Name != name {
			continue
		}
		records[tokenPrefix+hash] = nil
		for s, session := range k.sessions {
			if session.Token == t.ID {
				records[sessPrefix+s] = nil
			}
		}
	}
	if len(records) == 0 {
		return fmt.Errorf("token %q: %w", name, ErrNotFound)
	}
	return k.save(records)
}

func (k *Keys) tokenLives(id string, now time.Time) bool {
	for _, t := range k.tokens {
		if t.ID == id {
			return !t.ended(now)
		}
	}
	return false
}
