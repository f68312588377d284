package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// kept is what was read of links, addresses, routes, rules and neighbours, for
// those who only look: reading a thousand links takes the kernel 12 ms and more. It is
// no memory of what should be there. Before each use the kernel is asked what
// changed since, and what did is read anew: a link by itself, the rest by tables.
type kept struct {
	host *Host

	mu   sync.Mutex
	news *news // of links, addresses and routes
	talk *news // of neighbours, which change by the second where guests talk

	// links and their VLANs by index; nil if nothing is known.
	links map[int]link
	vlans map[int]host.VLANSet
	// readings counts how often a link, or all, were read.
	readings uint64
	// checked is when the last check of carriers began.
	checked time.Time
	// ip are addresses and routes.
	ip []host.Resource
	// tables are our own ones of nftables, as of a generation, and accepts our rules in
	// chains of others.
	tables, accepts host.State
	generation      uint32
	sight           *host.Sight

	// learned and neighbours are by index of the link; stale ones are read anew.
	learned                   map[int][]string
	neighbours                []neighbourAt
	staleLearned, staleOthers bool
}

var (
	newsGroups = []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_NEXTHOP, unix.RTNLGRP_BRVLAN,
	}
	talkGroups = []int{unix.RTNLGRP_NEIGH}
)

// fewLinks is up to how many links are read one by one: a question costs about
// 20 µs, and reading all of a thousand 12 ms.
const fewLinks = 64

// open opens the sockets, in the calling thread's network namespace.
func (k *kept) open(h *Host) (err error) {
	k.host = h
	if k.news, err = openNews(newsGroups...); err == nil {
		k.talk, err = openNews(talkGroups...)
	}
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	return nil
}

func (k *kept) close() error {
	var errs []error
	for _, n := range []*news{k.news, k.talk} {
		if n != nil {
			errs = append(errs, n.close())
		}
	}
	return errors.Join(errs...)
}

// Look is Observe of everything, for those who only look: what did not change
// since the last time is not read again. As long as nothing did, the answer is the
// same pointer.
func (h *Host) Look(ctx context.Context) (*host.Sight, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k := &h.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refresh(); err != nil {
		return nil, err
	}
	if err := k.readRules(ctx); err != nil {
		return nil, err
	}
	if k.sight == nil {
		seen := make(host.State, len(k.links)+len(k.ip)+len(k.tables))
		addLinks(seen, k.links, k.vlans)
		seen.Add(k.ip...)
		maps.Copy(seen, k.tables)
		maps.Copy(seen, k.accepts)
		k.sight = &host.Sight{State: seen}
	}
	return k.sight, nil
}

// refresh brings links, addresses and routes up to now.
func (k *kept) refresh() error {
	touched, all := map[int]bool{}, k.links == nil
	told := false
	lost, err := k.news.read(func(typ uint16, data []byte) {
		told = true
		switch typ {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWVLAN, unix.RTM_DELVLAN:
			if len(data) >= 8 {
				touched[int(int32(binary.NativeEndian.Uint32(data[4:])))] = true
			}
		}
	})
	if err != nil {
		k.links = nil
		return fmt.Errorf("listen for changes: %w", err)
	}
	if all || lost {
		return k.read(nil, true)
	}
	if err := k.addDown(touched); err != nil {
		k.links = nil
		return err
	}
	if !told && len(touched) == 0 {
		return nil
	}
	return k.read(touched, false)
}

// addDown finds the links that are down and not as they were: of many changes of those
// the kernel tells nothing (netdev_state_change in net/core/dev.c).
func (k *kept) addDown(touched map[int]bool) error {
	for i, l := range k.links {
		if l.Up || touched[i] {
			continue
		}
		now, err := k.linkBy(i)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if now.reading = l.reading; now != l {
			touched[i] = true
		}
	}
	return nil
}

// linkBy reads a link without what it counts.
func (k *kept) linkBy(index int) (link, error) {
	l, err := k.host.rtnl.linkBy(index, fmt.Sprintf("with index %d", index))
	l.counters = Counters{}
	return l, err
}

// refreshCarriers is refresh, and looks for carriers that changed without a word so far,
// unless somebody did who began after since.
func (k *kept) refreshCarriers(since time.Time) error {
	if err := k.refresh(); err != nil || k.checked.After(since) {
		return err
	}
	now := time.Now()
	touched, err := k.carriers()
	if err != nil {
		return err
	}
	k.checked = now
	if len(touched) == 0 {
		return nil
	}
	return k.read(touched, false)
}

// read reads links anew, and what hangs on them. After an error all is read the
// next time.
func (k *kept) read(touched map[int]bool, all bool) (err error) {
	defer func() {
		if k.sight = nil; err != nil {
			k.links = nil
		}
	}()
	k.readings++
	if all || len(touched) > fewLinks {
		if err := k.readLinks(); err != nil {
			return err
		}
	} else {
		for i := range touched {
			if err := k.readLink(i); err != nil {
				return err
			}
		}
	}
	// Of some routes that go with a link or an address nothing is told (fib_flush
	// in net/ipv4/fib_frontend.c).
	return k.readIP()
}

func (k *kept) readLinks() error {
	list, err := k.host.rtnl.links()
	if err != nil {
		return err
	}
	k.links, k.vlans = make(map[int]link, len(list)), nil
	tells := false
	for _, l := range list {
		l.reading = k.readings
		k.links[l.index] = l
		tells = tells || l.tells
	}
	if !tells {
		return nil
	}
	k.vlans, err = k.host.rtnl.vlans(0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// readLink reads one link anew.
func (k *kept) readLink(index int) error {
	l, err := k.linkBy(index)
	if errors.Is(err, fs.ErrNotExist) {
		delete(k.links, index)
		delete(k.vlans, index)
		return nil
	}
	if err != nil {
		return err
	}
	l.reading = k.readings
	k.links[index] = l
	delete(k.vlans, index)
	if !l.tells && !k.links[l.master].tells {
		return nil
	}
	sets, err := k.host.rtnl.vlans(index)
	if isAny(err, unix.EINVAL, unix.ENODEV, unix.EOPNOTSUPP) {
		return nil // as in readVLANs
	}
	if err != nil {
		return err
	}
	if k.vlans == nil {
		k.vlans = map[int]host.VLANSet{}
	}
	maps.Copy(k.vlans, sets)
	return nil
}

func (k *kept) readIP() error {
	names := make(map[int]string, len(k.links))
	for i, l := range k.links {
		names[i] = l.Name
	}
	seen := host.State{}
	if err := errors.Join(k.host.allAddresses(seen, names), k.host.allRoutes(seen, names)); err != nil {
		return err
	}
	k.ip = k.ip[:0]
	for _, r := range seen {
		k.ip = append(k.ip, r)
	}
	return nil
}

// readRules reads our tables if any rules of the host were changed, and our rules in
// chains of others, who may take theirs along without a word when they end.
func (k *kept) readRules(ctx context.Context) error {
	now, err := k.host.rules.current()
	if err != nil {
		return err
	}
	if k.tables == nil || now != k.generation {
		found, at, err := k.host.rules.ours(ctx)
		if err != nil {
			return err
		}
		// What was changed meanwhile is another generation the next time.
		k.tables, k.generation, k.sight = found, at, nil
	}
	accepts := host.State{}
	if err := k.host.rules.observeAccepts(ctx, accepts, nil); err != nil {
		return err
	}
	if !maps.Equal(accepts, k.accepts) {
		k.accepts, k.sight = accepts, nil
	}
	return nil
}

// carriers finds the links whose carrier is not as it was. The kernel tells that
// late, up to a second after it is so (linkwatch_schedule_work in
// net/core/link_watch.c); links of drivers that know at once are asked. Of a network
// card it is the driver that notices late, and asking it may be slow.
func (k *kept) carriers() (changed map[int]bool, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	changed = map[int]bool{}
	for i, l := range k.links {
		switch l.Type {
		case host.TypeTap, host.TypeVeth, host.TypeMacvtap:
			if is, known := carrier(fd, l.Name); l.Up && known && is != l.carrier {
				changed[i] = true
			}
		}
	}
	return changed, nil
}

// counters reads what links count, and nothing else of them.
func (k *kept) counters() (map[string]Counters, error) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refreshCarriers(now); err != nil {
		return nil, err
	}
	// struct if_stats_msg: family, index 0 for all links, what is asked for.
	const header, stats64 = 12, 1 << (unix.IFLA_STATS_LINK_64 - 1)
	ask := binary.NativeEndian.AppendUint32(make([]byte, 8), stats64)
	msgs, err := k.host.rtnl.dump(unix.RTM_GETSTATS, ask, nil)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	out := make(map[string]Counters, len(msgs))
	for _, m := range msgs {
		if len(m.Data) < header+unix.SizeofRtAttr {
			continue
		}
		l, there := k.links[int(binary.NativeEndian.Uint32(m.Data[4:]))]
		if !there {
			continue // it came just now
		}
		// The one attribute that was asked for.
		l.counters = parseCounters(m.Data[header+unix.SizeofRtAttr:])
		out[l.Name] = l.counted()
	}
	for name, speed := range speeds(maps.Values(k.links)) {
		c := out[name]
		c.SpeedMbit = speed
		out[name] = c
	}
	return out, nil
}

// refreshTalk brings links up to now, and says what is stale of what was read of
// neighbours.
func (k *kept) refreshTalk() error {
	if err := k.refresh(); err != nil {
		return err
	}
	lost, err := k.talk.read(func(_ uint16, data []byte) {
		bridges := len(data) > 0 && data[0] == unix.AF_BRIDGE
		k.staleLearned = k.staleLearned || bridges
		k.staleOthers = k.staleOthers || !bridges
	})
	if lost || err != nil {
		k.staleLearned, k.staleOthers = true, true
	}
	return err
}

// whoIsBehind lists the hardware addresses that bridges learnt, by port.
func (k *kept) whoIsBehind() (map[string][]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refreshTalk(); err != nil {
		return nil, err
	}
	if k.staleLearned || k.learned == nil {
		var err error
		if k.learned, err = k.host.rtnl.learned(); err != nil {
			return nil, err
		}
		k.staleLearned = false
	}
	out := make(map[string][]string, len(k.learned))
	for port, macs := range k.learned {
		if l, there := k.links[port]; there {
			out[l.Name] = macs
		}
	}
	return out, nil
}

// everyNeighbour lists the hosts that were seen on all links.
func (k *kept) everyNeighbour() ([]Neighbour, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refreshTalk(); err != nil {
		return nil, err
	}
	if k.staleOthers || k.neighbours == nil {
		var err error
		if k.neighbours, err = k.host.rtnl.neighbours(nil); err != nil {
			return nil, err
		}
		k.staleOthers = false
	}
	var out []Neighbour
	for _, n := range k.neighbours {
		if l, there := k.links[n.at]; there {
			n.Link = l.Name
			out = append(out, n.Neighbour)
		}
	}
	return out, nil
}
