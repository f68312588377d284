package dns

import (
	"bufio"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DefaultResolvFiles are where the host says which servers it asks: its resolver
// configuration, and what systemd-resolved was given where the former names only
// resolved's own stub (systemd-resolved.service(8)).
func DefaultResolvFiles() []string {
	return []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
}

// maxUpstreams bounds how many servers are tried.
const maxUpstreams = 6

// coolOff is how long a server that did not answer is asked last.
const coolOff = 30 * time.Second

// upstream are the host's own DNS servers.
type upstream struct {
	files []string
	port  uint16
	now   func() time.Time

	mu      sync.Mutex
	own     map[netip.Addr]bool
	seen    []identity
	listed  [][]netip.Addr // by file
	servers []netip.AddrPort
	why     string
	private bool
	silent  map[netip.AddrPort]time.Time // until when it is asked last
}

// identity tells one state of a file from another without reading it.
type identity struct {
	device, inode uint64
	size          int64
	modified      time.Time
}

func newUpstream(files []string, port uint16, now func() time.Time) *upstream {
	return &upstream{files: files, port: port, now: now, silent: map[netip.AddrPort]time.Time{}}
}

// identities follows symbolic links: the link may be changed, or its target.
func (u *upstream) identities() []identity {
	ids := make([]identity, len(u.files))
	for i, name := range u.files {
		info, err := os.Stat(name)
		if err != nil {
			continue // a file that is not there has the zero identity
		}
		ids[i] = identity{size: info.Size(), modified: info.ModTime()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			ids[i].device, ids[i].inode = uint64(st.Dev), st.Ino
		}
	}
	return ids
}

// changed says whether a file is another than when it was last read.
func (u *upstream) changed() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !slices.Equal(u.identities(), u.seen)
}

// reload reads the files and says whether other servers are asked from now on.
func (u *upstream) reload() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	// The identity is taken first: a change while we read is seen next time.
	u.seen = u.identities()
	u.listed = nil
	for _, name := range u.files {
		u.listed = append(u.listed, readServers(name))
	}
	return u.choose()
}

// setOwn tells which addresses are our own, and must not be asked.
func (u *upstream) setOwn(own map[netip.Addr]bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.own = own
	u.choose()
}

// choose takes the first file that names a server we may ask. Our own addresses
// are listed where the host resolves guests through us; asking them would go
// round in a circle.
//
// Where the host asks systemd-resolved, so do we: it knows which link's servers
// a domain is for, such as a VPN's. It is asked at its proxy, which gives on what
// servers say; the stub adds names of the host's own. No circle arises: what resolved asks us for, our domains and reverse
// zones, is never forwarded. Where there is no proxy (before version 250, or
// DNSStubListener=no) the servers are asked that resolved has.
func (u *upstream) choose() bool {
	var servers []netip.AddrPort
	why := "no name server in " + strings.Join(u.files, " or ")
	resolved := ""
	for i, list := range u.listed {
		if resolved == "" && len(list) > 0 && isStub(list[0]) {
			resolved = "from systemd-resolved, named in " + u.files[i]
		}
		for _, a := range list {
			if !u.own[a.WithZone("")] && !isStub(a) && len(servers) < maxUpstreams {
				servers = append(servers, netip.AddrPortFrom(a, u.port))
			}
		}
		if len(servers) > 0 {
			why = "from " + u.files[i]
			break
		}
	}
	private := slices.ContainsFunc(servers, func(s netip.AddrPort) bool {
		a := s.Addr()
		return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || within(a, a.BitLen(), sites)
	})
	if resolved != "" {
		servers, why = slices.Insert(servers, 0, netip.AddrPortFrom(resolvedProxy, u.port)), resolved
	}
	changed := !slices.Equal(servers, u.servers)
	u.servers, u.why, u.private = servers, why, private
	if changed {
		clear(u.silent)
	}
	return changed
}

// Where systemd-resolved answers (systemd-resolved.service(8)): as the host's
// resolver, and as a proxy.
var (
	resolvedStub  = netip.AddrFrom4([4]byte{127, 0, 0, 53})
	resolvedProxy = netip.AddrFrom4([4]byte{127, 0, 0, 54})
)

func isStub(a netip.Addr) bool { return a == resolvedStub || a == resolvedProxy }

// current lists the servers, those that were silent of late last.
func (u *upstream) current() ([]netip.AddrPort, string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := slices.Clone(u.servers)
	now := u.now()
	slices.SortStableFunc(list, func(a, b netip.AddrPort) int {
		return rank(now.Before(u.silent[a])) - rank(now.Before(u.silent[b]))
	})
	return list, u.why
}

func rank(silent bool) int {
	if silent {
		return 1
	}
	return 0
}

// report notes whether a server answered.
func (u *upstream) report(server netip.AddrPort, answered bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if answered {
		delete(u.silent, server)
	} else if slices.Contains(u.servers, server) {
		u.silent[server] = u.now().Add(coolOff)
	}
}

// isPrivate says whether a server of the site itself is asked, which may know
// the names of private addresses.
func (u *upstream) isPrivate() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.private
}

// readServers reads the nameserver lines of a resolver configuration
// (resolv.conf(5)); a file that cannot be read names none.
func readServers(name string) []netip.Addr {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	var servers []netip.Addr
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && !slices.Contains(servers, a.Unmap()) && !a.IsUnspecified() {
			servers = append(servers, a.Unmap())
		}
	}
	return servers
}
