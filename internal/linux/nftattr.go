package linux

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// attr is one netlink attribute (struct nlattr) without its flags.
type attr struct {
	kind uint16
	data []byte
}

// u32 reads a number as nf_tables writes them, big endian; 0 if it is not one.
func (a attr) u32() uint32 {
	if len(a.data) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.data)
}

func (a attr) u64() uint64 {
	if len(a.data) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(a.data)
}

// native reads a number of one, two or four bytes in the processor's order, as
// routing netlink has them; 0 if it is not one.
func (a attr) native() uint32 {
	switch len(a.data) {
	case 1:
		return uint32(a.data[0])
	case 2:
		return uint32(binary.NativeEndian.Uint16(a.data))
	case 4:
		return binary.NativeEndian.Uint32(a.data)
	}
	return 0
}

func (a attr) text() string { return cString(a.data) }

// cString is the text up to the first NUL.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// nftAttrs walks over encoded attributes; what is malformed ends the walk.
func nftAttrs(b []byte) iter.Seq[attr] {
	return func(yield func(attr) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.NLA_HDRLEN || n > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(attr{kind, b[unix.NLA_HDRLEN:n]}) {
				return
			}
			b = b[min(align4(n), len(b)):]
		}
	}
}

// find returns the first attribute of a kind.
func find(b []byte, kind uint16) (attr, bool) {
	for a := range nftAttrs(b) {
		if a.kind == kind {
			return a, true
		}
	}
	return attr{}, false
}

func align4(n int) int { return (n + 3) &^ 3 }

// put appends an attribute. An attribute is at most 65535 bytes long with its
// header; callers split what may be longer.
func put(b []byte, kind uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	return append(b, make([]byte, align4(len(data))-len(data))...)
}

func putText(b []byte, kind uint16, s string) []byte { return put(b, kind, append([]byte(s), 0)) }

func putU32(b []byte, kind uint16, v uint32) []byte {
	return put(b, kind, binary.BigEndian.AppendUint32(nil, v))
}

func putNest(b []byte, kind uint16, nested []byte) []byte {
	return put(b, kind|unix.NLA_F_NESTED, nested)
}

func putU64(b []byte, kind uint16, v uint64) []byte {
	return put(b, kind, binary.BigEndian.AppendUint64(nil, v))
}
