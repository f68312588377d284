// Package neighbours starts, reloads and stops the other programs that write
// firewall rules on a host (Docker, ufw, firewalld, nftables.service, Podman's
// netavark, libvirt, wg-quick) beside a daemon with a guest whose traffic runs, and
// tells the longest gap. They are the distribution's own programs, from the root that
// scripts/neighbours-root makes, a newer firewalld (scripts/firewalld-root) and
// Docker (scripts/neighbours-dockerd), and run in the namespaces of a host of the
// test's own: nothing is installed or started on this machine. A Kubernetes node's
// rules are recorded ones. It runs by `make test-hosts`.
//
// It owns how each of them is started and stopped, and how a gap is measured. It
// does not know what drawbridge does about them: it looks at the guest's packets.
//
// Start reading at TestNeighbours in neighbours_test.go; world_test.go has the
// host, probe_test.go the traffic.
package neighbours
