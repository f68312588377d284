// Package hostconf is the host's own network configuration as a resource: what
// other programs manage on this host, read and changed by asking them.
//
// It owns how those programs are spoken to (D-Bus) and what of theirs is ours to
// set and to give back. It does not know documents or modes, and changes no link
// itself.
//
// Start reading at Resolved in resolved.go, the host's resolver; unit.go speaks
// to systemd.
package hostconf
