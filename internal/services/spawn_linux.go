package services

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// noNewPrivileges sets no_new_privs (prctl(2)) for the whole process. The flag
// is each thread's own, and survives execve: the program is executed once more
// by a thread that has it. After setuid away from 0 the kernel clears all
// capability sets (capabilities(7)).
func noNewPrivileges() error {
	on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil || on == 1 {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}
