package cli

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// defaultModel is the NIC that a guest gets unless told otherwise.
const defaultModel = "virtio-net-pci"

// nic is one --nic option.
type nic struct {
	request api.PortRequest
	model   string
}

func (a *app) qemuCommand() *cobra.Command {
	var specs []string
	var show bool
	c := &cobra.Command{
		Use:   "qemu --nic network=NET[,name=GUEST][,mac=MAC][,queues=N][,model=MODEL][,vlan=ID][,vlan-trunk=30+40-49] -- qemu-system-x86_64 ARGS…",
		Short: "Run QEMU with NICs on networks",
		Long: `Plug a guest into networks and become its QEMU: signals, console and exit code are QEMU's,
and the ports go when QEMU goes, however it dies. For each --nic, -netdev and -device are appended
to QEMU's arguments, and -name unless it is among them.

  network     a network that runs
  name        the guest's name, its own on the host while it runs (default: the tap's)
  mac         the NIC's hardware address (default: one made of host, network and name, always the same)
  queues      of a multi-queue NIC, 1 to 256 (default 1); the guest needs as many processors
  model       as QEMU names it (default virtio-net-pci)
  vlan        the VLAN that the guest is in without knowing of it, 1 to 4094 (mode bridged)
  vlan-trunk  VLANs that it gets with their tags, joined by + (mode bridged)`,
		Example: `  drawbridge qemu --nic network=default,name=ubuntu-cloud -- qemu-system-x86_64 -m 1G disk.img
  drawbridge qemu --nic network=default,name=web --nic network=lab,queues=4 -- qemu-system-x86_64 -smp 4 disk.img
  drawbridge qemu --nic network=lan,name=dmz,vlan=30 -- qemu-system-x86_64 disk.img`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			nics, err := parseNICs(specs)
			if err != nil {
				return err
			}
			if show {
				return a.printQEMU(nics, args)
			}
			return a.runQEMU(c, nics, args)
		},
	}
	c.Flags().StringArrayVar(&specs, "nic", nil, "`NIC` as above, once for each")
	c.Flags().BoolVar(&show, "print", false, "print the command line, with numbers of descriptors made up, and plug in nothing")
	c.Flags().SetInterspersed(false)
	_ = c.RegisterFlagCompletionFunc("nic", a.completeNIC)
	return c
}

func (a *app) completeNIC(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
	words, how := a.complete(networkNames)(c, args, to)
	for i := range words {
		words[i] = "network=" + words[i]
	}
	return words, how | cobra.ShellCompDirectiveNoSpace
}

// parseNICs reads the options. All NICs of a guest have the name of the first
// that has one.
func parseNICs(specs []string) ([]nic, error) {
	if len(specs) == 0 {
		return nil, usage("--nic network=NET is needed at least once")
	}
	var out []nic
	name := ""
	for _, s := range specs {
		n, err := parseNIC(s)
		if err != nil {
			return nil, err
		}
		if name == "" {
			name = n.request.Guest
		}
		out = append(out, n)
	}
	for i := range out {
		if out[i].request.Guest == "" {
			out[i].request.Guest = name
		}
	}
	return out, nil
}

func parseNIC(s string) (nic, error) {
	n := nic{request: api.PortRequest{Made: "qemu"}, model: defaultModel}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || value == "" {
			return n, usage("--nic %s: %q is not of the form key=value", s, part)
		}
		if seen[key] {
			return n, usage("--nic %s: %s is given twice", s, key)
		}
		seen[key] = true
		switch key {
		case "network":
			n.request.Network = value
		case "name":
			n.request.Guest = value
		case "mac":
			n.request.MAC = value
		case "model":
			n.model = value
		case "queues":
			q, err := strconv.Atoi(value)
			if err != nil || q < 1 || q > 256 {
				return n, usage("--nic %s: queues is a number from 1 to 256", s)
			}
			n.request.Queues = q
		case "vlan":
			id, err := strconv.Atoi(value)
			if err != nil || id < 1 || id > 4094 {
				return n, usage("--nic %s: vlan is a number from 1 to 4094", s)
			}
			n.request.VLAN = id
		case "vlan-trunk":
			// A comma would end it.
			n.request.VLANTrunk = strings.ReplaceAll(value, "+", ",")
		default:
			return n, usage("--nic %s: unknown key %q; there are network, name, mac, queues, model, vlan, vlan-trunk", s, key)
		}
	}
	if n.request.Network == "" {
		return n, usage("--nic %s: network=NET is missing", s)
	}
	if n.request.Queues > 1 && !n.virtio() {
		return n, usage("--nic %s: only virtio NICs have more than one queue", s)
	}
	return n, nil
}

func (n nic) virtio() bool { return strings.HasPrefix(n.model, "virtio-net") }

// arguments are those of QEMU for one NIC (qemu(1), -netdev tap). Vhost is the
// kernel's half of virtio, so other models do without; a guest of N queues
// needs an interrupt vector for each direction of each, one for configuration
// and one for control.
func (n nic) arguments(index int, mac string, taps, vhosts []int) []string {
	id := "db" + strconv.Itoa(index)
	netdev := "tap,id=" + id
	if len(taps) == 1 {
		netdev += ",fd=" + strconv.Itoa(taps[0])
	} else {
		netdev += ",fds=" + colons(taps)
	}
	if n.virtio() && len(vhosts) == len(taps) {
		if len(vhosts) == 1 {
			netdev += ",vhost=on,vhostfd=" + strconv.Itoa(vhosts[0])
		} else {
			netdev += ",vhost=on,vhostfds=" + colons(vhosts)
		}
	}
	device := n.model + ",netdev=" + id + ",mac=" + mac
	if len(taps) > 1 {
		device += ",mq=on"
		if strings.HasPrefix(n.model, "virtio-net-pci") {
			device += ",vectors=" + strconv.Itoa(2*len(taps)+2)
		}
	}
	return []string{"-netdev", netdev, "-device", device}
}

func colons(fds []int) string {
	var out []string
	for _, fd := range fds {
		out = append(out, strconv.Itoa(fd))
	}
	return strings.Join(out, ":")
}

// nameArguments names the guest unless its arguments do.
func nameArguments(args []string, guest string) []string {
	if guest == "" {
		return nil
	}
	for _, arg := range args {
		if arg == "-name" || arg == "--name" {
			return nil
		}
	}
	return []string{"-name", guest}
}

func (a *app) runQEMU(c *cobra.Command, nics []nic, args []string) error {
	program, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("run %s: %w", args[0], err)
	}
	argv := append([]string{program}, args[1:]...)
	argv = append(argv, nameArguments(args[1:], nics[0].request.Guest)...)
	// Kept until exec: a descriptor that is collected would unplug the guest.
	var keep []*os.File
	for i, n := range nics {
		opened, taps, vhosts, err := a.client.OpenPort(c.Context(), n.request)
		if err != nil {
			return err
		}
		keep = append(append(keep, taps...), vhosts...)
		if !n.virtio() {
			vhosts = nil
		}
		tapFDs, err := inheritable(taps)
		if err != nil {
			return err
		}
		vhostFDs, err := inheritable(vhosts)
		if err != nil {
			return err
		}
		argv = append(argv, n.arguments(i, opened.Port.MAC, tapFDs, vhostFDs)...)
	}
	err = a.exec(argv)
	for _, f := range keep {
		f.Close()
	}
	return err
}

// inheritable lets descriptors pass through exec.
func inheritable(files []*os.File) ([]int, error) {
	var fds []int
	for _, f := range files {
		fd := int(f.Fd())
		if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFD, 0); errno != 0 {
			return nil, fmt.Errorf("let QEMU inherit descriptor %d: %w", fd, errno)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// execQEMU becomes QEMU.
func execQEMU(argv []string) error {
	if err := syscall.Exec(argv[0], argv, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}

// printQEMU shows what would be run. The numbers are those that a shell's
// program gets; a hardware address that the daemon would make up is MAC.
func (a *app) printQEMU(nics []nic, args []string) error {
	argv := append([]string{}, args...)
	argv = append(argv, nameArguments(args[1:], nics[0].request.Guest)...)
	fd := 3
	for i, n := range nics {
		var taps []int
		for range max(n.request.Queues, 1) {
			taps = append(taps, fd)
			fd++
		}
		mac := n.request.MAC
		if mac == "" {
			mac = "MAC"
		}
		argv = append(argv, n.arguments(i, mac, taps, nil)...)
	}
	return a.show(struct {
		Command []string `json:"command"`
	}{argv}, func(w *writer) {
		var words []string
		for _, arg := range argv {
			words = append(words, shellWord(arg))
		}
		w.line(strings.Join(words, " "))
	})
}

// shellWord quotes a word where a POSIX shell would split or expand it.
func shellWord(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
