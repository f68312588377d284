package services

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"drawbridge/internal/dhcp"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/snoop"
)

// message is what daemon and process say to each other. Exactly one of the
// verbs is set in a request; a reply holds what was asked, or Error.
type message struct {
	// Requests.
	Sockets    *socketSet     `json:"sockets,omitempty"`
	Release    *socketSet     `json:"release,omitempty"`
	Apply      []plan.Step    `json:"apply,omitempty"`
	Observe    bool           `json:"observe,omitempty"`
	Keys       []host.Key     `json:"keys,omitempty"`   // with Observe: only these
	Unless     string         `json:"unless,omitempty"` // with Observe: nothing if the version is still that
	Leases     bool           `json:"leases,omitempty"`
	Watch      bool           `json:"watch,omitempty"`
	Report     bool           `json:"report,omitempty"`
	Count      bool           `json:"count,omitempty"`
	Heard      bool           `json:"heard,omitempty"`
	Neighbours *neighbourList `json:"neighbours,omitempty"`
	Stop       bool           `json:"stop,omitempty"`
	// Keep forgets the leases of all networks but these.
	Keep *[]string `json:"keep,omitempty"`

	// Replies.
	Error    string         `json:"error,omitempty"`
	State    host.State     `json:"state,omitempty"`
	Indexes  map[string]int `json:"indexes,omitempty"`
	Version  string         `json:"version,omitempty"` // of State and Indexes
	LeaseSet []dhcp.Lease   `json:"lease_set,omitempty"`
	Change   *dhcp.Change   `json:"change,omitempty"`
	Told     *Report        `json:"told,omitempty"`
	Counted  *Counts        `json:"counted,omitempty"`
	HeardSet []snoop.Heard  `json:"heard_set,omitempty"`
}

// socketSet announces the descriptors that come with the message, one for each
// role, for services on one bridge.
type socketSet struct {
	Bridge string `json:"bridge"`
	// Index is the bridge's interface index when the sockets were bound: they
	// are dead once the bridge has another.
	Index int    `json:"index"`
	Roles []Role `json:"roles"`
}

// Role says what a socket is for.
type Role string

// The sockets of a bridge. There is one pair of DNS sockets for each family.
const (
	RoleDHCP    Role = "dhcp"
	RoleFrames  Role = "frames"
	RoleDNSUDP4 Role = "dns-udp4"
	RoleDNSTCP4 Role = "dns-tcp4"
	RoleDNSUDP6 Role = "dns-udp6"
	RoleDNSTCP6 Role = "dns-tcp6"
	RoleRouter  Role = "router"
	// RoleSnoop is on a port; the name of the port stands for the bridge.
	RoleSnoop Role = "snoop"
)

type neighbourList struct {
	Bridge string      `json:"bridge"`
	List   []Neighbour `json:"list"`
}

// maxMessage bounds what is read in one piece: ten thousand leases are 2 MB.
const maxMessage = 64 << 20

// send writes one message, with descriptors attached to its first byte.
func send(c *net.UnixConn, m message, files []*os.File) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	packet := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	if len(files) == 0 {
		_, err = c.Write(packet)
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	n, _, err := c.WriteMsgUnix(packet, unix.UnixRights(fds...), nil)
	if err != nil || n == len(packet) {
		return err
	}
	_, err = c.Write(packet[n:])
	return err
}

// receive reads one message and the descriptors that came with it.
func receive(c *net.UnixConn) (message, []*os.File, error) {
	head := make([]byte, 4)
	oob := make([]byte, unix.CmsgSpace(16*4))
	n, oobn, _, _, err := c.ReadMsgUnix(head, oob)
	if err != nil || n == 0 {
		if err == nil {
			err = io.EOF
		}
		return message{}, nil, err
	}
	files, err := filesOf(oob[:oobn])
	if err != nil {
		return message{}, nil, err
	}
	m, err := readBody(c, head, n)
	if err != nil {
		closeAll(files)
		return message{}, nil, err
	}
	return m, files, nil
}

func readBody(c *net.UnixConn, head []byte, have int) (message, error) {
	if _, err := io.ReadFull(c, head[have:]); err != nil {
		return message{}, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxMessage {
		return message{}, fmt.Errorf("message of %d bytes is too large", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return message{}, fmt.Errorf("decode message: %w", err)
	}
	return m, nil
}

func filesOf(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse descriptors: %w", err)
	}
	var files []*os.File
	for _, control := range controls {
		fds, err := unix.ParseUnixRights(&control)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("parse descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// errOf turns the error of a reply into an error.
func errOf(m message) error {
	if m.Error == "" {
		return nil
	}
	return errors.New(m.Error)
}
