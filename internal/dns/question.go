package dns

import "encoding/binary"

// Bits of the third and fourth byte of a message, RFC 1035 section 4.1.1.
const (
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagCD = 1 << 4
	opcode = 0xf << 11
)

// Sizes in bytes.
const (
	headerSize = 12
	optSize    = 11 // an OPT record without options
	maxName    = 255
	// ednsSize is the largest answer sent over UDP, and asked for: it passes
	// without fragments nearly everywhere (DNS flag day 2020).
	ednsSize = 1232
	minSize  = 512
)

// Types and classes used on the fast path (IANA DNS parameters).
const (
	typeA     = 1
	typeNS    = 2
	typeSOA   = 6
	typePTR   = 12
	typeMX    = 15
	typeTXT   = 16
	typeAAAA  = 28
	typeSRV   = 33
	typeOPT   = 41
	typeSVCB  = 64
	typeHTTPS = 65
	typeANY   = 255
	classIN   = 1
)

// question is what is asked and how the answer may look. Its arrays are its own,
// so that one question can be used again and again.
type question struct {
	id    uint16
	flags uint16
	// name in wire form and lower case, n bytes with the root label; end is where
	// the question section ends in the packet.
	name [maxName]byte
	n    int
	// starts are the offsets of the labels in name, the root label not counted.
	starts [128]uint8
	labels int
	typ    uint16
	class  uint16
	// edns: the question had an OPT record; do: with the bit for DNSSEC; size: what
	// it says the client can receive.
	edns, do bool
	size     uint16
}

// end is where the question section ends in a packet without compression.
func (q *question) end() int { return headerSize + q.n + 4 }

// suffix is the name from the given label on.
func (q *question) suffix(label int) []byte { return q.name[q.starts[label]:q.n] }

// label is one label without its length.
func (q *question) label(i int) []byte {
	at := int(q.starts[i])
	return q.name[at+1 : at+1+int(q.name[at])]
}

// limit is how long an answer over UDP may be.
func (q *question) limit() int {
	if !q.edns {
		return minSize
	}
	return max(minSize, min(int(q.size), ednsSize))
}

// parse reads a packet that is an ordinary question: one name without
// compression in class IN, and at most one OPT record without a version. It is
// false for everything else, which the slow path looks at.
func (q *question) parse(p []byte) bool {
	if len(p) < headerSize+5 {
		return false
	}
	q.id = binary.BigEndian.Uint16(p)
	q.flags = binary.BigEndian.Uint16(p[2:])
	extra := binary.BigEndian.Uint16(p[10:])
	if q.flags&(flagQR|opcode|flagTC) != 0 || binary.BigEndian.Uint32(p[4:]) != 1<<16 ||
		binary.BigEndian.Uint16(p[8:]) != 0 || extra > 1 {
		return false
	}
	if !q.setName(p[headerSize:]) {
		return false
	}
	end := q.end()
	if len(p) < end {
		return false
	}
	q.typ = binary.BigEndian.Uint16(p[end-4:])
	q.class = binary.BigEndian.Uint16(p[end-2:])
	if q.class != classIN {
		return false
	}
	return q.parseOPT(p[end:], extra == 1)
}

// parseOPT reads what follows the question section.
func (q *question) parseOPT(p []byte, there bool) bool {
	q.edns, q.do, q.size = false, false, 0
	if !there {
		return len(p) == 0
	}
	if len(p) < optSize || p[0] != 0 || binary.BigEndian.Uint16(p[1:]) != typeOPT || p[5] != 0 || p[6] != 0 {
		return false
	}
	// The options are not looked at, but they must be well-formed.
	options := p[optSize:]
	if len(options) != int(binary.BigEndian.Uint16(p[9:])) || len(options) != 0 {
		return false
	}
	q.edns = true
	q.size = binary.BigEndian.Uint16(p[3:])
	q.do = p[7]&0x80 != 0
	return true
}

// setName reads a name without compression from the start of b.
func (q *question) setName(b []byte) bool {
	q.n, q.labels = 0, 0
	for {
		if q.n >= len(b) || q.n >= maxName {
			return false
		}
		length := int(b[q.n])
		if length == 0 {
			q.name[q.n] = 0
			q.n++
			return true
		}
		if length > 63 || q.n+1+length >= min(len(b), maxName) {
			return false
		}
		q.starts[q.labels] = uint8(q.n)
		q.labels++
		q.name[q.n] = b[q.n]
		for i := q.n + 1; i <= q.n+length; i++ {
			c := b[i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.name[i] = c
		}
		q.n += 1 + length
	}
}
