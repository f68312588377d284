package nettest

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Guests boots virtual machines: a distribution's own kernel with busybox as the only program.
type Guests struct {
	kernel Kernel
	initrd string
	accel  string
	dir    string // holds initramfs and consoles, removed by Close
	log    *slog.Logger
}

// NewGuests fetches the kernel if the cache has none, builds the guests' file system and finds out
// whether KVM works. $DRAWBRIDGE_ACCEL (kvm or tcg) replaces the trial. Close gives back.
func NewGuests(ctx context.Context, log *slog.Logger) (*Guests, error) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		return nil, fmt.Errorf("find QEMU (package qemu-system-x86): %w", err)
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	kernel, err := FetchKernel(ctx, cache, log)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "drawbridge-guests-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for guests: %w", err)
	}
	g := &Guests{kernel: kernel, initrd: filepath.Join(dir, "initramfs"), dir: dir, log: log}
	if err := buildInitramfs(ctx, kernel, guestModules, g.initrd); err != nil {
		g.Close()
		return nil, err
	}
	if g.accel, err = g.chooseAccel(ctx, cache); err != nil {
		g.Close()
		return nil, err
	}
	log.Info("guests can boot", "kernel", kernel.Version, "accel", g.accel)
	return g, nil
}

// Accel is what runs the guests' instructions: kvm or tcg (software).
func (g *Guests) Accel() string { return g.accel }

// Kernel is the kernel that the guests run.
func (g *Guests) Kernel() Kernel { return g.kernel }

// Close removes what NewGuests made except the cache. Guests that still run keep running.
func (g *Guests) Close() error { return os.RemoveAll(g.dir) }

// kvmPatience is how long a trial boot under KVM may take. Real hardware needs less than one
// second; nested emulation of it needs a minute, and then software emulation is faster.
const kvmPatience = 2 * time.Second

// chooseAccel tries KVM once per boot of this machine and remembers the answer in the cache.
func (g *Guests) chooseAccel(ctx context.Context, cache string) (string, error) {
	if accel := os.Getenv("DRAWBRIDGE_ACCEL"); accel != "" {
		return accel, nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	memory := filepath.Join(cache, "accel")
	if known, err := os.ReadFile(memory); err == nil {
		if accel, ok := strings.CutPrefix(string(known), string(boot)); ok && (accel == "kvm" || accel == "tcg") {
			return accel, nil
		}
	}
	accel := "tcg"
	if g.tryKVM(ctx) {
		accel = "kvm"
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err := os.WriteFile(memory, []byte(string(boot)+accel), 0o644); err != nil {
		return "", fmt.Errorf("remember that %s works: %w", accel, err)
	}
	return accel, nil
}

func (g *Guests) tryKVM(ctx context.Context) bool {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return false
	} else {
		f.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, kvmPatience)
	defer cancel()
	args := g.arguments(filepath.Join(g.dir, "probe.console"), "kvm", g.initrd, guestMemory, "guest.probe")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	return err == nil && strings.Contains(string(out), "@ready")
}

// guestMemory is what a guest of busybox alone needs, in MiB.
const guestMemory = 192

// arguments is a whole QEMU command line but for network cards. The agent is on standard input and
// output, where whoever starts QEMU through other programs still finds it.
func (g *Guests) arguments(console, accel, initrd string, mebibytes int, words string) []string {
	return []string{
		"qemu-system-x86_64", "-accel", accel, "-m", strconv.Itoa(mebibytes), "-no-reboot",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-kernel", g.kernel.Image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable cryptomgr.notests random.trust_cpu=on " + words,
		"-serial", "file:" + console,
		"-chardev", "stdio,id=agent,signal=off", "-serial", "chardev:agent",
		// Without a boot ROM the firmware does not try the network first.
		"-global", "virtio-net-pci.romfile=",
	}
}

// Spec says which guest to boot and how it is plugged in.
type Spec struct {
	Name string // host name, sent with DHCP
	// Command makes the command that runs QEMU from QEMU's own command line (args[0] is the
	// program) in the right namespaces and with a network card. Standard input, output and error
	// are set by Boot, and the command dies with this process. Nil runs it as it is.
	Command func(args []string) *exec.Cmd
}

// Guest is a running virtual machine.
type Guest struct {
	Name string

	console, errors string // files
	cmd             *exec.Cmd
	in              io.WriteCloser
	answers         chan string   // lines from the agent, closed when QEMU is gone
	gone            chan struct{} // closed when QEMU is gone
	exit            error         // valid after gone
	mu              sync.Mutex    // one command at a time
	number          int
}

// Boot starts a guest and returns when its agent answers, which is before it has an address.
func (g *Guests) Boot(ctx context.Context, spec Spec) (*Guest, error) {
	vm := &Guest{
		Name:    spec.Name,
		console: filepath.Join(g.dir, spec.Name+".console"),
		errors:  filepath.Join(g.dir, spec.Name+".errors"),
		answers: make(chan string, 16),
		gone:    make(chan struct{}),
	}
	args := g.arguments(vm.console, g.accel, g.initrd, guestMemory, "guest.name="+spec.Name)
	args = append(args, "-name", spec.Name)
	if spec.Command == nil {
		spec.Command = func(args []string) *exec.Cmd { return exec.Command(args[0], args[1:]...) }
	}
	vm.cmd = spec.Command(args)
	if err := vm.start(); err != nil {
		return nil, fmt.Errorf("boot guest %q: %w", spec.Name, err)
	}
	if err := vm.await(ctx, "@ready"); err != nil {
		vm.Kill()
		return nil, fmt.Errorf("boot guest %q: %w%s", spec.Name, err, vm.complaint())
	}
	return vm, nil
}

func (vm *Guest) start() error {
	in, err := vm.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := vm.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	complaints, err := os.Create(vm.errors)
	if err != nil {
		return err
	}
	defer complaints.Close()
	vm.in, vm.cmd.Stderr = in, complaints
	if vm.cmd.SysProcAttr == nil {
		vm.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	vm.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := vm.cmd.Start(); err != nil {
		return err
	}
	go vm.read(out)
	return nil
}

// read passes the agent's lines on until QEMU is gone.
func (vm *Guest) read(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		// Firmware and kernel may have written to the port before the agent did.
		if i := strings.IndexByte(line, '@'); i >= 0 {
			vm.answers <- strings.TrimSpace(line[i:])
		}
		if err != nil {
			break
		}
	}
	vm.exit = vm.cmd.Wait()
	close(vm.gone)
	close(vm.answers)
}

var errGone = errors.New("the guest is gone")

// next returns the agent's next line.
func (vm *Guest) next(ctx context.Context) (string, error) {
	select {
	case line, ok := <-vm.answers:
		if !ok {
			return "", errors.Join(errGone, vm.exit)
		}
		return line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (vm *Guest) await(ctx context.Context, want string) error {
	for {
		line, err := vm.next(ctx)
		if err != nil || line == want {
			return err
		}
	}
}

// ExitError says that a command in a guest ended with a code other than zero.
type ExitError struct {
	Command string
	Code    int // 137 when the time was over
	Output  string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit code %d: %s", e.Command, e.Code, strings.TrimSpace(e.Output))
}

// runLimit bounds a command in a guest when the context has no deadline.
const runLimit = 30 * time.Second

// Run has the guest's shell run a command and returns what it wrote to standard output and error,
// with an *ExitError if the code was not zero. The guest ends a command that is still running when
// the context's deadline comes; one command runs at a time. (Debian's static wget crashes when told
// -T: write `timeout 5 wget`.)
func (vm *Guest) Run(ctx context.Context, command string) (string, error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	limit := runLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
	}
	seconds := max(1, int(limit/time.Second))
	vm.number++
	request := fmt.Sprintf("%d %d %s\n", vm.number, seconds, base64.StdEncoding.EncodeToString([]byte(command)))
	if _, err := io.WriteString(vm.in, request); err != nil {
		return "", fmt.Errorf("guest %s: send %q: %w", vm.Name, command, err)
	}
	for {
		line, err := vm.next(ctx)
		if err != nil {
			return "", fmt.Errorf("guest %s: run %q: %w", vm.Name, command, err)
		}
		// Answers of commands that nobody waited for are skipped.
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "@answer" || fields[1] != strconv.Itoa(vm.number) {
			continue
		}
		output, err := decodeAnswer(fields)
		if err != nil {
			return "", fmt.Errorf("guest %s: run %q: %w", vm.Name, command, err)
		}
		if fields[2] != "0" {
			code, _ := strconv.Atoi(fields[2])
			return output, fmt.Errorf("guest %s: %w", vm.Name, &ExitError{Command: command, Code: code, Output: output})
		}
		return output, nil
	}
}

func decodeAnswer(fields []string) (string, error) {
	if len(fields) == 3 {
		return "", nil // no output
	}
	output, err := base64.StdEncoding.DecodeString(fields[3])
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return string(output), nil
}

// Lease is what the guest's DHCP client was given on its first card.
type Lease struct {
	Address netip.Prefix
	Router  netip.Addr
	DNS     []netip.Addr
	Domain  string
	Seconds int
	MTU     int // bytes, 0 if the server did not say
}

// Lease waits until the guest's DHCP client has an address on its first card.
func (vm *Guest) Lease(ctx context.Context) (Lease, error) {
	out, err := vm.Run(ctx, "until [ -s /run/lease.eth0 ]; do usleep 20000; done; cat /run/lease.eth0")
	if err != nil {
		return Lease{}, err
	}
	return parseLease(out)
}

func parseLease(text string) (l Lease, err error) {
	for _, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		if value == "" {
			continue
		}
		switch key {
		case "ip":
			l.Address, err = netip.ParsePrefix(value)
		case "router":
			l.Router, err = netip.ParseAddr(strings.Fields(value)[0])
		case "dns":
			for _, word := range strings.Fields(value) {
				var a netip.Addr
				a, err = netip.ParseAddr(word)
				l.DNS = append(l.DNS, a)
			}
		case "domain":
			l.Domain = value
		case "seconds":
			l.Seconds, err = strconv.Atoi(value)
		case "mtu":
			l.MTU, err = strconv.Atoi(value)
		}
		if err != nil {
			return Lease{}, fmt.Errorf("read lease, %s: %w", key, err)
		}
	}
	return l, nil
}

// Addr4 waits for the guest's IPv4 address.
func (vm *Guest) Addr4(ctx context.Context) (netip.Addr, error) {
	l, err := vm.Lease(ctx)
	return l.Address.Addr(), err
}

// Addr6 waits for a usable (no longer tentative) global IPv6 address on the first card.
func (vm *Guest) Addr6(ctx context.Context) (netip.Addr, error) {
	const list = "ip -6 addr show dev eth0 scope global"
	out, err := vm.Run(ctx, "until "+list+" | grep -v tentative | grep -q inet6; do usleep 20000; done; "+list)
	if err != nil {
		return netip.Addr{}, err
	}
	fields := strings.Fields(out)
	for i, word := range fields {
		if word == "inet6" && i+1 < len(fields) {
			prefix, err := netip.ParsePrefix(fields[i+1])
			return prefix.Addr(), err
		}
	}
	return netip.Addr{}, fmt.Errorf("guest %s: no IPv6 address in %q", vm.Name, out)
}

// Pid is the process started for this guest: QEMU, where what Command returned executes it.
func (vm *Guest) Pid() int { return vm.cmd.Process.Pid }

// Gone is closed when QEMU has ended.
func (vm *Guest) Gone() <-chan struct{} { return vm.gone }

// Stop has the guest power itself off and waits until QEMU has ended; it is killed when the
// context ends first.
func (vm *Guest) Stop(ctx context.Context) error {
	vm.mu.Lock()
	_, err := io.WriteString(vm.in, "0 5 "+base64.StdEncoding.EncodeToString([]byte("poweroff -f"))+"\n")
	vm.mu.Unlock()
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, os.ErrClosed) {
		vm.Kill()
		return fmt.Errorf("stop guest %s: %w", vm.Name, err)
	}
	select {
	case <-vm.gone:
		return nil
	case <-ctx.Done():
		vm.Kill()
		return fmt.Errorf("stop guest %s: %w", vm.Name, ctx.Err())
	}
}

// Kill ends QEMU as a power cut would, and waits until it is gone.
func (vm *Guest) Kill() {
	// An error means that it is gone already.
	_ = vm.cmd.Process.Kill()
	for {
		select {
		case <-vm.answers: // so that the reader is never stuck
		case <-vm.gone:
			return
		}
	}
}

// Console is what firmware, kernel and init wrote to the first serial port so far.
func (vm *Guest) Console() string {
	text, err := os.ReadFile(vm.console)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// complaint is what QEMU and the console said last, for an error message.
func (vm *Guest) complaint() string {
	said, err := os.ReadFile(vm.errors)
	if err != nil {
		said = []byte(err.Error())
	}
	console := vm.Console()
	if len(console) > 600 {
		console = console[len(console)-600:]
	}
	return fmt.Sprintf("\nerrors: %s\nconsole: %s", strings.TrimSpace(string(said)), strings.TrimSpace(console))
}
