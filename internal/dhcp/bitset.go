package dhcp

import "math/bits"

// bitset is a set of the numbers below n that finds its next member fast, also
// when it is nearly empty: a second level says which words have members.
type bitset struct {
	n        uint32
	words    []uint64
	nonEmpty []uint64
	count    uint32
}

func newBitset(n uint32) *bitset {
	words := (uint64(n) + 63) / 64
	return &bitset{n: n, words: make([]uint64, words), nonEmpty: make([]uint64, (words+63)/64)}
}

func (b *bitset) has(i uint32) bool { return i < b.n && b.words[i/64]&(1<<(i%64)) != 0 }

func (b *bitset) add(i uint32) {
	if i >= b.n || b.has(i) {
		return
	}
	b.words[i/64] |= 1 << (i % 64)
	b.nonEmpty[i/4096] |= 1 << (i / 64 % 64)
	b.count++
}

func (b *bitset) remove(i uint32) {
	if !b.has(i) {
		return
	}
	b.words[i/64] &^= 1 << (i % 64)
	if b.words[i/64] == 0 {
		b.nonEmpty[i/4096] &^= 1 << (i / 64 % 64)
	}
	b.count--
}

// from returns the first member at or after i, going round at the end.
func (b *bitset) from(i uint32) (uint32, bool) {
	if b.count == 0 {
		return 0, false
	}
	i %= b.n
	if w := b.words[i/64] >> (i % 64); w != 0 {
		return i + uint32(bits.TrailingZeros64(w)), true
	}
	// The words after this one, the group's rest first, then group by group and
	// round to the start; the last turn sees the first group whole.
	start := i/64 + 1
	group := start / 64
	if int(group) == len(b.nonEmpty) {
		group, start = 0, 0
	}
	mask := ^uint64(0) << (start % 64)
	for range len(b.nonEmpty) + 1 {
		if g := b.nonEmpty[group] & mask; g != 0 {
			word := group*64 + uint32(bits.TrailingZeros64(g))
			return word*64 + uint32(bits.TrailingZeros64(b.words[word])), true
		}
		mask = ^uint64(0)
		group = (group + 1) % uint32(len(b.nonEmpty))
	}
	return 0, false
}
