package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// OpenPort plugs a new tap into a network and returns its descriptors, which
// the caller owns; the tap goes when the last of them is closed. The vhost
// descriptors are as many as the tap's, or none.
func (e *Engine) OpenPort(ctx context.Context, r PortRequest) (Port, []*os.File, []*os.File, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, taps, err := e.plug(ctx, r, false)
	if err != nil {
		return Port{}, nil, nil, fmt.Errorf("plug a guest into %s: %w", r.target(), err)
	}
	return portView(p), taps, e.Taps.OpenVhost(len(taps)), nil
}

// AttachPort plugs a persistent tap into a network, for a program that opens
// it itself; it goes by DetachPort or with the next boot.
func (e *Engine) AttachPort(ctx context.Context, r PortRequest) (Port, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, taps, err := e.plug(ctx, r, true)
	if err != nil {
		return Port{}, fmt.Errorf("plug a guest into %s: %w", r.target(), err)
	}
	closeAll(taps)
	return portView(p), nil
}

func (r PortRequest) target() string {
	if r.Bridge != "" {
		return "bridge " + strconv.Quote(r.Bridge)
	}
	return "network " + strconv.Quote(string(r.Network))
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// plug makes a tap and puts it on the network, all or nothing.
func (e *Engine) plug(ctx context.Context, r PortRequest, persist bool) (host.Port, []*os.File, error) {
	n, err := e.networkFor(r)
	if err != nil {
		return host.Port{}, nil, err
	}
	p := host.Port{
		Bridge: n.Bridge, Network: string(n.Name), Guest: r.Guest, MTU: n.EffectiveMTU(),
		Made: r.Made, Owner: r.Owner, Persistent: persist, PID: r.PID, Open: render.Open(n), Since: e.Now().Unix(),
	}
	if err := e.soleGuest(ctx, r, persist); err != nil {
		return p, nil, err
	}
	if render.IsDirect(n) {
		p.NIC, p.Bridge = n.Uplinks[0], n.Uplinks[0]
		if err := direct(p, r); err != nil {
			return p, nil, err
		}
	}
	if err := e.nameGuest(&p, r); err != nil {
		return p, nil, err
	}
	if p.VLAN, p.Trunk, err = r.Tags.VLAN, string(r.Tags.Trunk), e.trunk(ctx, n, r.Tags); err != nil {
		return p, nil, err
	}
	taps, err := e.openFreeTap(&p, r)
	if err != nil {
		return p, nil, err
	}
	if err := e.settlePort(ctx, p, membersOf(p, n)); err != nil {
		closeAll(taps)
		return p, nil, errors.Join(err, e.unplug(ctx, []host.Port{p}, nil))
	}
	e.follow(ctx, n.Name, p.Guest, p.MAC)
	e.tellPort("plugged", p, txn.ActorOf(ctx))
	return p, taps, nil
}

// settlePort remembers the port and applies its small wish.
func (e *Engine) settlePort(ctx context.Context, p host.Port, members string) error {
	if err := e.Ports.Save(p); err != nil {
		return err
	}
	e.live[p.Tap] = p
	wish := portWish(p, members)
	// Only the tap is looked at: its rule and name are put there whether or not
	// they are there already, and plugging must be quick.
	seen, err := e.Host.Observe(ctx, host.LinkKey(p.Tap))
	if err != nil {
		return err
	}
	if _, there := seen[host.LinkKey(p.Tap)]; !there {
		return fmt.Errorf("tap %s: %w", p.Tap, spec.ErrNotFound)
	}
	keepTapMAC(wish, seen, p.Tap)
	if err := e.Host.Apply(ctx, plan.Diff(wish, seen)); err != nil {
		return err
	}
	after, err := e.Host.Observe(ctx, host.LinkKey(p.Tap))
	if err != nil {
		return err
	}
	if after[host.LinkKey(p.Tap)] != wish[host.LinkKey(p.Tap)] {
		return fmt.Errorf("tap %s did not become a port of %s", p.Tap, p.Bridge)
	}
	return nil
}

// keepTapMAC leaves the tap the hardware address that the kernel gave its host
// end; the guest's own is another.
func keepTapMAC(wish, seen host.State, tap string) {
	key := host.LinkKey(tap)
	got, ok1 := seen[key].(host.Link)
	want, ok2 := wish[key].(host.Link)
	if ok1 && ok2 && want.Type == host.TypeTap {
		want.MAC = got.MAC
		wish[key] = want
	}
}

// portWish is what a port needs on the host; members are its VLANs.
func portWish(p host.Port, members string) host.State {
	l := host.Link{Name: p.Tap, Type: host.TypeTap, MTU: p.MTU, Up: true, Master: p.Bridge, VLANs: members, Alias: "drawbridge port of " + nameOr(p.Guest, p.Tap)}
	if p.NIC != "" {
		l.Type, l.Master, l.Lower, l.MAC = host.TypeMacvtap, "", p.NIC, p.MAC
	}
	wish := host.NewState(l)
	if p.Open {
		wish.Add(host.Snoop{Bridge: p.Bridge, Tap: p.Tap, MAC: p.MAC})
	} else {
		wish.Add(render.PortRules(p.Tap)...)
	}
	if p.Guest != "" && p.MAC != "" {
		wish.Add(host.Guest{Bridge: p.Bridge, MAC: p.MAC, Name: p.Guest})
	}
	return wish
}

func (e *Engine) networkFor(r PortRequest) (spec.Network, error) {
	doc := e.Store.Document()
	for _, n := range doc.Networks {
		if (r.Bridge == "" && n.Name == r.Network) || (r.Bridge != "" && n.Bridge == r.Bridge) {
			if !n.Started {
				return n, &spec.InvalidError{Field: "network", Reason: fmt.Sprintf("%q is not running; start it with: drawbridge network start %s", n.Name, n.Name)}
			}
			return n, nil
		}
	}
	if r.Bridge != "" {
		return spec.Network{}, fmt.Errorf("network with bridge %q: %w", r.Bridge, spec.ErrNotFound)
	}
	return doc.Network(r.Network)
}

// nameGuest checks the guest's name and gives it a hardware address: the one
// asked for, or one made of host, network and guest, the same each time.
func (e *Engine) nameGuest(p *host.Port, r PortRequest) error {
	if r.Guest != "" && !spec.IsLabel(r.Guest) {
		return &spec.InvalidError{Field: "name", Reason: strconv.Quote(r.Guest) + ": a guest's name is a DNS label (a-z, 0-9, '-', at most 63)"}
	}
	if r.NoMAC {
		return nil
	}
	taken := func(mac string) (by string, used bool) {
		for _, o := range e.live {
			if o.MAC == mac && o.Bridge == p.Bridge {
				return nameOr(o.Guest, o.Tap), true
			}
		}
		return "", false
	}
	if r.MAC != "" {
		mac, err := spec.ParseMAC(r.MAC)
		if err != nil {
			return err
		}
		if other, used := taken(mac); used {
			return &spec.InvalidError{Field: "mac", Reason: fmt.Sprintf("%s is in use on %s by %s", mac, p.Bridge, other)}
		}
		p.MAC = mac
		return nil
	}
	for i := 0; ; i++ {
		sum := sha256.Sum256([]byte(e.Seed + "\x00" + p.Network + "\x00" + r.Guest + "\x00" + strconv.Itoa(i)))
		p.MAC = spec.FormatMAC([6]byte{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]})
		if _, used := taken(p.MAC); !used {
			return nil
		}
	}
}

// maxTaps bounds the search for a free name: 1023 ports a bridge (BR_MAX_PORTS,
// net/bridge/br_private.h) times more bridges than anybody has.
const maxTaps = 1 << 20

func (e *Engine) openFreeTap(p *host.Port, r PortRequest) ([]*os.File, error) {
	queues := max(r.Queues, 1)
	if queues > 256 {
		return nil, &spec.InvalidError{Field: "queues", Reason: fmt.Sprintf("%d is more than the 256 that a tap can have", queues)}
	}
	name := []byte("vnet")
	for i := range maxTaps {
		name = strconv.AppendInt(name[:len("vnet")], int64(i), 10)
		if _, used := e.live[string(name)]; used {
			continue
		}
		p.Tap = string(name)
		taps, err := e.openTap(*p, queues)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		return taps, err
	}
	return nil, fmt.Errorf("no free name for a tap: %w", spec.ErrInUse)
}

// Unlearnt says whether there are ports whose guest's hardware address is not
// known yet.
func (e *Engine) Unlearnt() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.live {
		if p.MAC == "" {
			return true
		}
	}
	return false
}

// Learn completes ports that were made without a hardware address, such as
// those of the bridge helper: with the one address seen behind the tap, the
// guest can be named in DNS.
func (e *Engine) Learn(ctx context.Context, learned map[string][]string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for tap, macs := range learned {
		p, ours := e.live[tap]
		if !ours || p.MAC != "" || len(macs) != 1 {
			continue
		}
		p.MAC = macs[0]
		if err := e.Ports.Save(p); err != nil {
			return err
		}
		e.live[tap] = p
		if p.Guest == "" {
			continue
		}
		name := host.Guest{Bridge: p.Bridge, MAC: p.MAC, Name: p.Guest}
		if err := e.Host.Apply(ctx, []plan.Step{{After: name}}); err != nil {
			return fmt.Errorf("name the guest behind %s: %w", tap, err)
		}
	}
	return nil
}

// unplug takes all of the ports away together: rules, names and, where they
// are still there, taps. by says who asked for it, by tap; nobody did where the
// program behind a port ended.
func (e *Engine) unplug(ctx context.Context, ports []host.Port, by map[string]txn.Actor) error {
	ctx = context.WithoutCancel(ctx)
	var keys []host.Key
	for _, p := range ports {
		keys = append(keys, portWish(p, "").Keys()...)
	}
	seen, err := e.Host.Observe(ctx, keys...)
	if err != nil {
		return err
	}
	if err := e.Host.Apply(ctx, plan.Diff(host.State{}, seen)); err != nil {
		return err
	}
	var errs []error
	for _, p := range ports {
		errs = append(errs, e.Ports.Remove(p.Tap))
		delete(e.live, p.Tap)
		e.tellPort("unplugged", p, by[p.Tap])
	}
	return errors.Join(errs...)
}

// reap forgets ports whose tap is gone: the program behind them ended.
func (e *Engine) reap(ctx context.Context, seen host.State) error {
	ports := slices.Collect(maps.Values(e.live))
	released, err := e.released(ctx)
	if err != nil {
		return err
	}
	for _, tap := range released {
		delete(seen, host.LinkKey(tap)) // unplug deletes it
	}
	for _, p := range ports {
		if _, there := seen[host.LinkKey(p.Tap)]; there {
			continue
		}
		for k := range portWish(p, "") {
			delete(seen, k)
		}
	}
	return e.reapOf(ctx, ports, seen)
}

// wishPorts adds the live ports to a wish, and claims what is theirs: a tap
// that was pulled off its bridge is put back by the same plan as everything else.
func (e *Engine) wishPorts(wish *host.Wish, doc spec.Document, ledger host.Ledger, seen host.State, reflects map[string]bool) (foreign []host.Key) {
	for _, p := range e.live {
		if _, there := seen[host.LinkKey(p.Tap)]; !there {
			continue
		}
		if !wish.Has(host.LinkKey(p.Bridge)) {
			continue
		}
		mine := portWish(p, membersOf(p, doc.Networks[spec.NetworkName(p.Network)]))
		if reflects[p.Tap] {
			l := mine[host.LinkKey(p.Tap)].(host.Link)
			l.Hairpin = true
			mine[host.LinkKey(p.Tap)] = l
		}
		keepTapMAC(mine, seen, p.Tap)
		for k, r := range mine {
			wish.Present[k] = r
			ledger[k] = host.Claim{Kind: host.Made}
		}
	}
	for _, r := range seen {
		l, ok := r.(host.Link)
		_, ours := e.live[l.Name]
		if !ok || ours || l.Master == "" {
			continue
		}
		if _, running := wish.Present[host.LinkKey(l.Master)]; !running {
			continue
		}
		wish.Present.Add(render.PortRules(l.Name)...)
		if l.Type != host.TypeBridge && l.Hairpin != reflects[l.Name] {
			l.Hairpin = reflects[l.Name]
			wish.Present.Add(l)
			// For this plan only; see disownPorts.
			ledger[l.Key()] = host.Claim{Kind: host.Made}
			foreign = append(foreign, l.Key())
		}
	}
	return foreign
}

// disownPorts takes what belongs to ports out of a ledger: it is stored
// nowhere but in the run directory. So it does with foreign ports, of which
// nothing is ours but a flag.
func (e *Engine) disownPorts(ledger host.Ledger, foreign []host.Key) {
	for _, k := range foreign {
		delete(ledger, k)
	}
	for _, p := range e.live {
		for k := range portWish(p, "") {
			delete(ledger, k)
		}
	}
}

// guestsOf names the guests behind taps.
func (e *Engine) guestsOf(taps []string) []string {
	var names []string
	for _, tap := range taps {
		names = append(names, nameOr(e.live[tap].Guest, tap))
	}
	return names
}

func nameOr(name, other string) string {
	if name == "" {
		return other
	}
	return name
}

func portView(p host.Port) Port {
	return Port{
		Network: spec.NetworkName(p.Network), Bridge: p.Bridge, Tap: p.Tap, Guest: nameOr(p.Guest, p.Tap),
		MAC: p.MAC, Made: p.Made, Owner: p.Owner, Since: p.Since,
	}
}
