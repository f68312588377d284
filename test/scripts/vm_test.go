package scripts

import (
	"context"
	"log/slog"
	"os/exec"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"drawbridge/internal/nettest"
)

// vmLimit is how long a virtual machine may take to boot, or to do what it is told.
const vmLimit = 2 * time.Minute

// cmdVM is about real QEMU guests, with a distribution's kernel.
func cmdVM(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: vm boot NAME NIC, vm run NAME COMMAND, vm kill NAME, vm gone NAME")
	}
	w, name := of(ts), args[1]
	ctx, cancel := context.WithTimeout(context.Background(), vmLimit)
	defer cancel()
	vm := w.vms[name]
	if vm == nil && args[0] != "boot" {
		ts.Fatalf("no guest %q", name)
	}
	var err error
	switch args[0] {
	case "boot":
		if w.images == nil {
			w.images, err = nettest.NewGuests(ctx, slog.New(slog.DiscardHandler))
			ts.Check(err)
		}
		w.vms[name], err = w.images.Boot(ctx, nettest.Spec{Name: name, Command: func(qemu []string) *exec.Cmd {
			return w.host.Command(context.Background(), program, append([]string{"qemu", "--nic", args[2] + ",name=" + name, "--"}, qemu...)...)
		}})
	case "run":
		var out string
		out, err = vm.Run(ctx, strings.Join(args[2:], " "))
		_, _ = ts.Stdout().Write([]byte(out))
	case "kill":
		vm.Kill()
	case "gone":
		select {
		case <-vm.Gone():
		case <-ctx.Done():
			ts.Fatalf("guest %s still runs", name)
		}
	default:
		ts.Fatalf("vm %q: boot, run, kill or gone", args[0])
	}
	if (err != nil) != neg {
		ts.Fatalf("vm %s: %v", strings.Join(args, " "), err)
	}
}

// endVMs ends what still runs.
func (w *world) endVMs() {
	for _, vm := range w.vms {
		vm.Kill()
	}
	if w.images != nil {
		_ = w.images.Close()
	}
}
