package linux

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A NIC that becomes a port of a bridge, or ceases to be one, drops what arrives
// in some microseconds of the change: its port is not enabled yet, or no more,
// while frames go to the bridge already (br_add_if and del_nbp in
// net/bridge/br_if.c). And for milliseconds the bridge has no port, or none that
// is live, for what it is asked to answer: a reply to an IPv6 echo leaves by the
// link that was asked (icmpv6_echo_reply), whatever the routes say.
//
// A detour hands what the NIC receives to the bridge's own IP before the port is
// asked, and what the bridge sends to the NIC. These are BPF programs, attached
// by descriptors: should this process end, the kernel takes them away. That needs
// tcx (Linux 6.6). The older way, a clsact qdisc, is worse than nothing: while it
// comes and goes the kernel drops all that is sent (dev_deactivate in
// qdisc_graft, net/sched/sch_api.c; one packet in a move at 1 kHz, measured).
//
// To attach the first program of a link, and to detach the last, takes a grace
// period of the kernel each, with all of rtnetlink locked (tcx_entry_sync in
// include/net/tcx.h); to put another in its place takes none. So programs that let
// everything pass are attached beforehand and detached some time afterwards.
type detours struct {
	mu   sync.Mutex
	held map[diversion]*held
}

// diversion is a place for a program: a link's index, and a direction.
type diversion struct {
	link  int
	where uint32 // tcxIngress or tcxEgress
}

// held is a program in its place.
type held struct {
	fd   int  // of the bpf_link
	busy bool // it lets not everything pass
	idle *time.Timer
}

// idleTime is how long a program that lets everything pass stays for the next
// detour: longer than from preparing to moving, and from moving to verifying.
const idleTime = 2 * time.Second

// Numbers of linux/bpf.h.
const (
	bpfProgLoad   = 5
	bpfLinkCreate = 28
	bpfLinkUpdate = 29
	bpfSchedCls   = 3
	tcxIngress    = 46
	tcxEgress     = 47
)

// prepare attaches what a detour between a NIC and a bridge will need, so that it
// can begin at once; bridge may be 0 if it is not there yet. Nothing goes another
// way before it does.
func (d *detours) prepare(nic, bridge int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	places := []diversion{{nic, tcxIngress}}
	if bridge != 0 {
		places = append(places, diversion{bridge, tcxEgress})
	}
	for _, at := range places {
		if err := d.put(at, passProgram()); err != nil {
			return err
		}
		d.held[at].rest()
	}
	return nil
}

// begin ties a NIC and a bridge, by their indexes, until end is called. Where
// the kernel cannot do that, it says why; end is never nil.
func (d *detours) begin(nic, bridge int) (end func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	in, out := diversion{nic, tcxIngress}, diversion{bridge, tcxEgress}
	// What comes in may be answered, so the way out is there first and goes last.
	if err := d.put(out, detourProgram(nic, 0)); err != nil {
		return func() {}, err
	}
	if err := d.put(in, detourProgram(bridge, intoIngress)); err != nil {
		d.pass(out)
		return func() {}, err
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.pass(in)
		d.pass(out)
	}, nil
}

// put attaches a program, or replaces the one that is there.
func (d *detours) put(at diversion, program []instruction) error {
	prog, err := loadProgram(program)
	if err != nil {
		return fmt.Errorf("load a detour: %w", err)
	}
	defer unix.Close(prog)
	if there := d.held[at]; there != nil {
		there.busy = true
		attr := struct{ link, prog, flags, old uint32 }{link: uint32(there.fd), prog: uint32(prog)}
		if _, err = bpfCall(bpfLinkUpdate, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err == nil {
			return nil
		}
		d.drop(at, there)
		if !errors.Is(err, unix.ENOLINK) {
			return fmt.Errorf("change a detour: %w", err)
		}
		// The link went, and another has its index.
	}
	fd, err := attach(at, prog)
	if err != nil {
		return err
	}
	if d.held == nil {
		d.held = map[diversion]*held{}
	}
	there := &held{fd: fd, busy: true}
	there.idle = time.AfterFunc(idleTime, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.held[at] == there && !there.busy {
			d.drop(at, there)
		}
	})
	d.held[at] = there
	return nil
}

// divert attaches a program to a link, and detaches it in the end.
func divert(link int, where uint32, program []instruction) (end func(), err error) {
	prog, err := loadProgram(program)
	if err != nil {
		return nil, fmt.Errorf("load a detour: %w", err)
	}
	defer unix.Close(prog)
	fd, err := attach(diversion{link, where}, prog)
	if err != nil {
		return nil, err
	}
	return func() { unix.Close(fd) }, nil
}

func attach(at diversion, prog int) (fd int, err error) {
	attr := struct {
		prog, link, typ, flags uint32
		relative, _            uint32
		revision               uint64
	}{prog: uint32(prog), link: uint32(at.link), typ: at.where}
	fd, err = bpfCall(bpfLinkCreate, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return 0, fmt.Errorf("attach a detour: %w", err)
	}
	return fd, nil
}

// pass lets everything pass again.
func (d *detours) pass(at diversion) {
	if err := d.put(at, passProgram()); err != nil {
		d.drop(at, d.held[at])
		return
	}
	d.held[at].rest()
}

// rest has a program detached if nobody needs it for a while.
func (h *held) rest() {
	h.busy = false
	h.idle.Reset(idleTime)
}

func (d *detours) drop(at diversion, there *held) {
	if there == nil {
		return
	}
	there.idle.Stop()
	unix.Close(there.fd)
	delete(d.held, at)
}

// close detaches everything.
func (d *detours) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at, there := range d.held {
		d.drop(at, there)
	}
}

// instruction is struct bpf_insn; regs has the source in the upper half.
type instruction struct {
	code, regs uint8
	off        int16
	imm        int32
}

const (
	intoIngress = 1  // BPF_F_INGRESS: received by the link, not sent
	goOn        = -1 // TCX_NEXT
)

// detourProgram: frames with a VLAN tag, which are for a link of their own, go on
// as ever; all others go to the link.
func detourProgram(to, flags int) []instruction {
	const (
		vlanPresent = 20 // offset in struct __sk_buff
		redirect    = 23 // bpf_redirect
	)
	return append([]instruction{
		{0x61, 1 << 4, vlanPresent, 0}, // r0 = has the frame a tag
		{0x55, 0, 4, 0},                // yes: go on
		{0xb7, 1, 0, int32(to)},        // r1 = link
		{0xb7, 2, 0, int32(flags)},     // r2 = flags
		{0x85, 0, 0, redirect},         // r0 = redirected
		{0x95, 0, 0, 0},                // end
	}, passProgram()...)
}

func passProgram() []instruction {
	return []instruction{
		{0xb7, 0, 0, goOn}, // r0 = go on
		{0x95, 0, 0, 0},    // end
	}
}

func loadProgram(program []instruction) (int, error) {
	license := []byte("GPL\x00")
	attr := struct {
		typ, count     uint32
		insns, license uint64
		rest           [6]uint32
	}{
		typ: bpfSchedCls, count: uint32(len(program)),
		insns: uint64(uintptr(unsafe.Pointer(&program[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, err := bpfCall(bpfProgLoad, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	return fd, err
}

func bpfCall(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
