package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
)

// FDProtocol is the name of the protocol that POST /v1/ports/open switches to.
const FDProtocol = "drawbridge-fds"

// MaxFDs is how many descriptors fit in one message (SCM_MAX_FD, net/scm.h).
const MaxFDs = 253

// OpenPort makes a port whose tap lives as long as the descriptors returned
// here, or those of whoever inherits them: one of the tap for each queue, and
// as many of /dev/vhost-net, or none. All are close-on-exec.
func (c *Client) OpenPort(ctx context.Context, r PortRequest) (Opened, []*os.File, []*os.File, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return Opened{}, nil, nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	fc := &descriptorConn{UnixConn: conn}
	opened, err := openPort(ctx, fc, r)
	if err != nil {
		fc.closeAll()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return Opened{}, nil, nil, err
	}
	files := fc.files("tap")
	return opened, files[:opened.Taps], files[opened.Taps:], nil
}

func openPort(ctx context.Context, fc *descriptorConn, r PortRequest) (Opened, error) {
	var opened Opened
	err := exchange(ctx, fc, "/ports/open", r, &opened, func() (int, error) {
		want := opened.Taps + opened.Vhosts
		if opened.Taps < 1 || opened.Vhosts < 0 || want > 1024 {
			return 0, fmt.Errorf("read port: %d taps and %d vhosts make no sense", opened.Taps, opened.Vhosts)
		}
		return want, nil
	})
	return opened, err
}

// exchange asks for descriptors: the answer is a line of JSON, read into out, and
// as many descriptors as announced says then.
func exchange(ctx context.Context, fc *descriptorConn, path string, body, out any, announced func() (int, error)) error {
	req, err := request(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", FDProtocol)
	if err := req.Write(fc); err != nil {
		return fmt.Errorf("%w: ask for descriptors: %w", ErrUnreachable, err)
	}
	in := bufio.NewReader(fc)
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return fmt.Errorf("%w: read answer: %w", ErrUnreachable, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return problem(resp)
	}
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if err := json.Unmarshal(line, out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	want, err := announced()
	if err != nil {
		return err
	}
	for fc.count() < want {
		if _, err := in.ReadByte(); err != nil {
			return fmt.Errorf("read descriptor %d of %d: %w", fc.count()+1, want, err)
		}
	}
	if got := fc.count(); got != want {
		return fmt.Errorf("read answer: %d descriptors came, %d were announced", got, want)
	}
	return nil
}

// SendDescriptors writes the line of an opened port and its descriptors, no
// more than MaxFDs a message: the line carries the first, one newline each the
// rest. It closes none of them.
func SendDescriptors(conn *net.UnixConn, line []byte, files []*os.File) error {
	payload := append(line[:len(line):len(line)], '\n')
	for first := true; first || len(files) > 0; first = false {
		n := min(len(files), MaxFDs)
		fds := make([]int, n)
		for i, f := range files[:n] {
			fds[i] = int(f.Fd())
		}
		var oob []byte
		if n > 0 {
			oob = syscall.UnixRights(fds...)
		}
		sent, _, err := conn.WriteMsgUnix(payload, oob, nil)
		if err != nil {
			return fmt.Errorf("pass descriptors: %w", err)
		}
		// The kernel attaches the descriptors to the first byte that it takes.
		if sent < len(payload) {
			if _, err := conn.Write(payload[sent:]); err != nil {
				return fmt.Errorf("pass descriptors: %w", err)
			}
		}
		files, payload = files[n:], []byte{'\n'}
	}
	return nil
}

// descriptorConn keeps the descriptors that come with what is read. A plain
// read would let the kernel drop them, also one for bytes before them: a read
// from a unix stream goes on until it has passed the first message with
// descriptors (unix_stream_read_generic).
type descriptorConn struct {
	*net.UnixConn
	mu  sync.Mutex
	fds []int
}

// Read keeps what comes beside the bytes.
func (c *descriptorConn) Read(b []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(MaxFDs*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if n < 0 { // as recvmsg says it; an io.Reader never does
		n, oobn = 0, 0
	}
	if fdErr := c.keep(oob[:oobn]); fdErr != nil {
		return n, fdErr
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		return n, errors.New("descriptors were lost on the way: too many files open (ulimit -n)")
	}
	return n, err
}

func (c *descriptorConn) keep(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("read control message: %w", err)
	}
	for i := range msgs {
		fds, err := syscall.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // credentials or the like
		}
		c.mu.Lock()
		c.fds = append(c.fds, fds...)
		c.mu.Unlock()
	}
	return nil
}

func (c *descriptorConn) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.fds)
}

func (c *descriptorConn) files(name string) []*os.File {
	var files []*os.File
	for _, fd := range c.fds {
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files
}

func (c *descriptorConn) closeAll() {
	for _, fd := range c.fds {
		syscall.Close(fd)
	}
}
