// Package hostconf is the host's own network configuration as a resource: what
// other programs manage on this host, read and changed by asking them.
//
// It owns how those programs are spoken to (D-Bus, their files), what of theirs is
// ours to set and to give back, and what they were told before. It does not know
// documents or modes, and changes no link itself.
//
// Start reading at Resolved in resolved.go, the host's resolver, and at Profiles in
// profile.go, the host's network manager: description.go says what is looked at and
// has the interface that each manager's file (networkd.go, ifupdown.go, …)
// implements; file.go writes files so that they can be put back. unit.go speaks to
// systemd. Firewalld in firewalld.go has bridges in a zone, by D-Bus and by a file.
package hostconf
