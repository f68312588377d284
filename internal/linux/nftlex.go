package linux

import (
	"fmt"
	"strings"
)

// nftToken is one word of a rule. Quoted ones had quotes around them.
type nftToken struct {
	text   string
	quoted bool
}

// lexRule splits a rule into words; braces and commas stand for themselves. The
// dot of a concatenation and the colon of a map are words, since addresses and
// interface names may contain both.
func lexRule(s string) ([]nftToken, error) {
	var toks []nftToken
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == ' ':
			i++
		case c == '{' || c == '}' || c == ',':
			toks = append(toks, nftToken{text: s[i : i+1]})
			i++
		case c == '"':
			n := strings.IndexByte(s[i+1:], '"')
			if n < 0 {
				return nil, fmt.Errorf("quote is not closed in %q", s)
			}
			toks = append(toks, nftToken{text: s[i+1 : i+1+n], quoted: true})
			i += n + 2
		case isWordByte(c):
			n := i
			for n < len(s) && isWordByte(s[n]) {
				n++
			}
			toks = append(toks, nftToken{text: s[i:n]})
			i = n
		default:
			return nil, fmt.Errorf("character %q in %q", c, s)
		}
	}
	return toks, nil
}

// isWordByte allows what names, addresses, ranges and operators are made of. No
// semicolon, no hash, no dollar: a rule's text is one rule, also to nft.
func isWordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("@_.:/-*=!&[]%+", c) >= 0
}

const commentMark = ` comment "`

// splitComment takes a rule's line apart into the rule and its reason.
func splitComment(line string) (text, why string, err error) {
	text, why, ok := strings.Cut(line, commentMark)
	if !ok {
		return line, "", nil
	}
	why, ok = strings.CutSuffix(why, `"`)
	// 128 bytes with the final NUL is what nft takes (NFTNL_UDATA_COMMENT_MAXLEN).
	if !ok || why == "" || len(why) > 127 || strings.ContainsAny(why, "\"\\\n\x00") {
		return "", "", fmt.Errorf("comment of %q is not 1 to 127 bytes in quotes at the end", line)
	}
	return text, why, nil
}

func joinComment(text, why string) string {
	if why == "" {
		return text
	}
	return text + commentMark + why + `"`
}

// nftWords reads tokens one after the other.
type nftWords struct {
	toks []nftToken
	at   int
}

func (w *nftWords) done() bool { return w.at >= len(w.toks) }

// peek is the word n places ahead, "" past the end and for quoted ones, which
// are never keywords.
func (w *nftWords) peek(n int) string {
	if w.at+n >= len(w.toks) || w.toks[w.at+n].quoted {
		return ""
	}
	return w.toks[w.at+n].text
}

// accept takes the next word if it is s.
func (w *nftWords) accept(s string) bool {
	if w.peek(0) != s {
		return false
	}
	w.at++
	return true
}

func (w *nftWords) expect(s string) error {
	if w.accept(s) {
		return nil
	}
	return fmt.Errorf("expected %q, got %q", s, w.rest())
}

// next takes the next word, quoted or not.
func (w *nftWords) next() (nftToken, error) {
	if w.done() {
		return nftToken{}, fmt.Errorf("rule ends too early")
	}
	w.at++
	return w.toks[w.at-1], nil
}

func (w *nftWords) rest() string {
	var words []string
	for _, t := range w.toks[min(w.at, len(w.toks)):] {
		words = append(words, t.text)
	}
	return strings.Join(words, " ")
}

// key reads the words of one set element or constant, up to a comma, a brace or
// a colon: "virbr0 . 192.168.122.0/24".
func (w *nftWords) key() (string, error) {
	var words []string
	for !w.done() {
		if p := w.peek(0); p == "," || p == "}" || p == "{" || p == ":" {
			break
		}
		t, _ := w.next()
		words = append(words, t.text)
	}
	if len(words) == 0 {
		return "", fmt.Errorf("expected a value, got %q", w.rest())
	}
	return strings.Join(words, " "), nil
}
