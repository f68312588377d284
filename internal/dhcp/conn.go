package dhcp

import (
	"errors"
	"net/netip"
	"sync"
)

// ErrGone says that the interface that a Conn was opened on is no more.
var ErrGone = errors.New("the interface is gone")

// Message is a place for one received message. Receive fills Data, whose
// capacity is maxMessage, and cuts it to the message's length.
type Message struct{ Data []byte }

// Room lends places for messages, 50 kB at a time: a hundred idle bridges hold
// none of it. The zero value is ready; it may be used from several goroutines.
type Room struct{ pool sync.Pool }

// Take lends places for batchSize messages.
func (r *Room) Take() []Message {
	if m, ok := r.pool.Get().(*[]Message); ok {
		return *m
	}
	return newMessages(batchSize)
}

// Give takes back what Take lent, or the beginning of it.
func (r *Room) Give(m []Message) {
	m = m[:cap(m)]
	r.pool.Put(&m)
}

// maxMessage is the longest message that is read, in bytes; longer ones are cut
// and thereby malformed. Clients that follow RFC 2131 send up to 576.
const maxMessage = 1500

// newMessages makes places that share one piece of memory.
func newMessages(n int) []Message {
	slab := make([]byte, n*maxMessage)
	out := make([]Message, n)
	for i := range out {
		out[i].Data = slab[i*maxMessage : (i+1)*maxMessage : (i+1)*maxMessage]
	}
	return out
}

// ARPReply says who answers for an address.
type ARPReply struct {
	Addr netip.Addr
	MAC  [6]byte
}

// Conn is how the server talks to the clients of one bridge. Receive and
// ReceiveARP are called from one goroutine each, the others from any.
type Conn interface {
	// Receive waits for at least one message, then takes those that are there
	// already into places of room, which the caller gives back. After an error
	// nothing more will come: it wraps net.ErrClosed after Close, ErrGone if the
	// interface vanished.
	Receive(room *Room) ([]Message, error)
	// ReceiveARP waits for the next ARP reply that was sent to us.
	ReceiveARP() (ARPReply, error)
	// Send sends replies, as many as it can, and does not wait. The error is
	// about the first one that was not sent.
	Send(replies []Reply) error
	// Probe asks by ARP who has an address, as one does who has none himself
	// (RFC 5227, section 2.1.1).
	Probe(addr netip.Addr) error
	// Close ends the other calls.
	Close() error
}
