package linux

import (
	"fmt"
	"runtime"
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

// Numbers of linux/bpf.h.
const (
	bpfProgLoad   = 5
	bpfLinkCreate = 28
	bpfSchedCls   = 3
	tcxIngress    = 46
	tcxEgress     = 47
)

// detour ties a NIC and a bridge, by their indexes, until end is called. Where
// the kernel cannot do that, it says why; end is never nil.
func detour(nic, bridge int) (end func(), err error) {
	out, err := divert(bridge, tcxEgress, detourProgram(nic, 0))
	if err != nil {
		return func() {}, err
	}
	// What comes in may be answered, so the way out is there first and goes last.
	in, err := divert(nic, tcxIngress, detourProgram(bridge, intoIngress))
	if err != nil {
		out()
		return func() {}, err
	}
	return func() { in(); out() }, nil
}

// divert attaches a program to a link.
func divert(link int, where uint32, program []instruction) (end func(), err error) {
	prog, err := loadProgram(program)
	if err != nil {
		return nil, fmt.Errorf("load a detour: %w", err)
	}
	defer unix.Close(prog)
	attr := struct {
		prog, link, typ, flags uint32
		relative, _            uint32
		revision               uint64
	}{prog: uint32(prog), link: uint32(link), typ: where}
	fd, err := bpfCall(bpfLinkCreate, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, fmt.Errorf("attach a detour: %w", err)
	}
	return func() { unix.Close(fd) }, nil
}

// instruction is struct bpf_insn; regs has the source in the upper half.
type instruction struct {
	code, regs uint8
	off        int16
	imm        int32
}

const intoIngress = 1 // BPF_F_INGRESS: received by the link, not sent

// detourProgram: frames with a VLAN tag, which are for a link of their own, go on
// as ever; all others go to the link.
func detourProgram(to, flags int) []instruction {
	const (
		vlanPresent = 20 // offset in struct __sk_buff
		redirect    = 23 // bpf_redirect
		goOn        = -1 // TCX_NEXT
	)
	return []instruction{
		{0x61, 1 << 4, vlanPresent, 0}, // r0 = has the frame a tag
		{0x55, 0, 4, 0},                // yes: go on
		{0xb7, 1, 0, int32(to)},        // r1 = link
		{0xb7, 2, 0, int32(flags)},     // r2 = flags
		{0x85, 0, 0, redirect},         // r0 = redirected
		{0x95, 0, 0, 0},                // end
		{0xb7, 0, 0, goOn},             // r0 = go on
		{0x95, 0, 0, 0},                // end
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
