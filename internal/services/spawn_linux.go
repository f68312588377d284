package services

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// noNewPrivileges sets no_new_privs on every thread (prctl(2)); after setuid
// away from 0 the kernel clears all capability sets (capabilities(7)).
func noNewPrivileges() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
