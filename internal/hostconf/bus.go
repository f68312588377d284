package hostconf

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// systemBus is a connection to D-Bus, made when it is needed, and anew if it was
// lost. address is the bus ("unix:path=…"); "" is the system bus.
type systemBus struct {
	address string

	mu   sync.Mutex
	conn *dbus.Conn
}

// Close ends the connection to the bus. What was set stays.
func (b *systemBus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil {
		return nil
	}
	err := b.conn.Close()
	b.conn = nil
	return err
}

// bus returns the connection, made anew if it was lost.
func (b *systemBus) bus() (*dbus.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && b.conn.Connected() {
		return b.conn, nil
	}
	conn, err := b.connect()
	if err != nil {
		return nil, err
	}
	b.conn = conn
	return conn, nil
}

// helloPatience bounds how long a bus may take to welcome us. The library's
// greeting waits for ever on a bus that accepts and then says nothing.
const helloPatience = 5 * time.Second

// patience bounds one look or one round of changes: a program that does not
// answer must not hold up a network.
const patience = 10 * time.Second

func (b *systemBus) connect() (*dbus.Conn, error) {
	dial := func() (*dbus.Conn, error) { return dbus.SystemBusPrivate() }
	if b.address != "" {
		dial = func() (*dbus.Conn, error) { return dbus.Dial(b.address) }
	}
	conn, err := dial()
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		err := conn.Auth(nil)
		if err == nil {
			err = conn.Hello()
		}
		done <- err
	}()
	select {
	case err = <-done:
	case <-time.After(helloPatience):
		err = errors.New("it does not answer")
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	return conn, nil
}

// sharesNetwork says whether a program of that number is in our network namespace; no, if it may not be looked at. The number is the bus's, which may
// count processes in another namespace: there it is somebody else's here, and so
// the name has to fit.
func sharesNetwork(pid uint32, program string) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	// The kernel keeps 15 characters (TASK_COMM_LEN).
	if err != nil || strings.TrimSpace(string(name)) != program[:min(15, len(program))] {
		return false
	}
	ours, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return false
	}
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && os.SameFile(ours, theirs)
}
