package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// About says in a capture's file what it is of.
type About struct {
	// Comment is for people, in as many lines as it takes.
	Comment string
	// Program wrote the file, OS is what it ran on.
	Program, OS string
	// Interface is the name, Description says what it is.
	Interface, Description string
}

// Blocks and options of a pcapng file (draft-ietf-opsawg-pcapng).
const (
	blockSection    = 0x0A0D0D0A
	blockInterface  = 1
	blockPacket     = 6
	blockStatistics = 5

	optEnd     = 0
	optComment = 1

	shbOS, shbProgram = 3, 4

	ifName, ifDescription, ifResolution, ifFilter = 2, 3, 9, 11

	epbFlags                  = 2
	flagInbound, flagOutbound = 1, 2

	isbStart, isbEnd, isbReceived, isbDropped = 2, 3, 4, 5

	linkEthernet = 1
	// nanoseconds: the resolution of times is 10^-9.
	nanoseconds = 9
)

// maxOption is the most that an option can hold (its length has 16 bits).
const maxOption = 65535

// writer writes one section with one interface.
type writer struct {
	out  io.Writer
	snap int
	buf  []byte
}

// open begins a block; close fills in its length.
func (w *writer) open(kind uint32) {
	w.buf = binary.LittleEndian.AppendUint32(w.buf[:0], kind)
	w.u32(0)
}

func (w *writer) u16(v uint16) { w.buf = binary.LittleEndian.AppendUint16(w.buf, v) }
func (w *writer) u32(v uint32) { w.buf = binary.LittleEndian.AppendUint32(w.buf, v) }
func (w *writer) u64(v uint64) { w.buf = binary.LittleEndian.AppendUint64(w.buf, v) }

func (w *writer) pad() {
	for len(w.buf)%4 != 0 {
		w.buf = append(w.buf, 0)
	}
}

func (w *writer) option(code uint16, value []byte) {
	if len(value) == 0 {
		return
	}
	value = value[:min(len(value), maxOption)]
	w.u16(code)
	w.u16(uint16(len(value)))
	w.buf = append(w.buf, value...)
	w.pad()
}

func (w *writer) close() error {
	w.u16(optEnd)
	w.u16(0)
	return w.write()
}

func (w *writer) write() error {
	length := uint32(len(w.buf) + 4)
	binary.LittleEndian.PutUint32(w.buf[4:], length)
	w.u32(length)
	if _, err := w.out.Write(w.buf); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// begin writes what comes before all packets.
func (w *writer) begin(a About, filter string) error {
	w.open(blockSection)
	w.u32(0x1A2B3C4D) // byte order
	w.u16(1)          // version 1.0
	w.u16(0)
	w.u64(^uint64(0)) // length of the section: unknown
	w.option(optComment, []byte(a.Comment))
	w.option(shbOS, []byte(a.OS))
	w.option(shbProgram, []byte(a.Program))
	if err := w.close(); err != nil {
		return err
	}
	w.open(blockInterface)
	w.u16(linkEthernet)
	w.u16(0)
	w.u32(uint32(w.snap))
	w.option(optComment, []byte(a.Comment))
	w.option(ifName, []byte(a.Interface))
	w.option(ifDescription, []byte(a.Description))
	w.option(ifResolution, []byte{nanoseconds})
	if filter != "" {
		w.option(ifFilter, append([]byte{0}, filter...)) // 0: the text of a filter
	}
	return w.close()
}

// packet is one as it was received.
type packet struct {
	at       time.Time
	data     []byte
	length   int // on the wire
	outbound bool
}

func (w *writer) packet(p packet) error {
	w.open(blockPacket)
	w.u32(0) // interface
	w.time(p.at)
	w.u32(uint32(len(p.data)))
	w.u32(uint32(p.length))
	w.buf = append(w.buf, p.data...)
	w.pad()
	flags := uint32(flagInbound)
	if p.outbound {
		flags = flagOutbound
	}
	w.option(epbFlags, binary.LittleEndian.AppendUint32(nil, flags))
	return w.close()
}

func (w *writer) time(t time.Time) {
	v := uint64(t.UnixNano())
	w.u32(uint32(v >> 32))
	w.u32(uint32(v))
}

// end writes the statistics.
func (w *writer) end(began, ended time.Time, r Result) error {
	w.open(blockStatistics)
	w.u32(0) // interface
	w.time(ended)
	stamp := func(t time.Time) []byte {
		v := uint64(t.UnixNano())
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(v>>32)), uint32(v))
	}
	w.option(isbStart, stamp(began))
	w.option(isbEnd, stamp(ended))
	w.option(isbReceived, binary.LittleEndian.AppendUint64(nil, r.Packets+r.Dropped))
	w.option(isbDropped, binary.LittleEndian.AppendUint64(nil, r.Dropped))
	return w.close()
}
