// Package hosts boots whole hosts under systemd in containers and lives a
// package's life on them: install, upgrade, reboot, remove. It runs by
// `make test-hosts`.
//
// Start reading at TestPackage in package_test.go, and at TestManagers for the
// hosts' own network managers; host_test.go has the
// container, guest_test.go the guests on it.
package hosts
