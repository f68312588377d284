// Package linux reads and changes the kernel's networking: links, addresses,
// routes, parameters, nftables, taps, neighbours, and the sockets that need
// privileges.
//
// It owns how each kind of resource is observed and applied, and nothing is
// remembered: every answer is read from the kernel. It does not know documents,
// networks or modes, and starts no programs.
//
// Start reading at Host below. rtnl.go is the conversation with the kernel;
// link.go, address.go, route.go, policy.go, sysctl.go and nic.go are a kind each,
// nft*.go the rules.
package linux

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Host is the machine's networking, in the network namespace that New was
// called in. It implements txn.Host for the kinds that Kinds lists. Its methods
// may be called from several goroutines.
type Host struct {
	log     *slog.Logger
	rtnl    *rtnl
	rules   *nftAdapter
	directs directs
	detours detours
	// kept and holders are for those who only look.
	kept    kept
	holders holders
}

// New opens the sockets to the kernel, in the calling thread's network
// namespace. The program must not change its namespace afterwards.
func New(log *slog.Logger) (*Host, error) {
	r, err := dialRtnl()
	if err != nil {
		return nil, err
	}
	rules, err := newNFT()
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	h := &Host{log: log, rtnl: r, rules: rules}
	if err := h.kept.open(h); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close gives the sockets back.
func (h *Host) Close() error {
	h.detours.close()
	return errors.Join(h.directs.close(), h.kept.close(), h.rules.Close(), h.rtnl.close())
}

// Kinds lists the kinds of resources that Observe and Apply understand.
func (h *Host) Kinds() []host.Kind {
	return []host.Kind{
		host.KindLink, host.KindAddress, host.KindRoute, host.KindRule, host.KindSysctl, host.KindNIC, host.KindFeature,
		host.KindTable, host.KindSet, host.KindChain, host.KindElement, host.KindAccept,
	}
}

// Observe reads the resources with the given keys by look-ups whose cost does
// not grow with the number of links on the host; those that are not there are
// missing from the answer. With no keys it reads all links, addresses and
// routes (foreign ones too), all that is in our nftables tables, and our rules in
// chains of others.
func (h *Host) Observe(ctx context.Context, keys ...host.Key) (host.State, error) {
	if len(keys) == 0 {
		return h.observeAll(ctx)
	}
	byKind := map[host.Kind][]host.Key{}
	for _, k := range keys {
		byKind[familyOf(k.Kind)] = append(byKind[familyOf(k.Kind)], k)
	}
	seen := host.State{}
	rules := func(host.State) error { return nil }
	if asked := byKind[host.KindTable]; asked != nil {
		rules = h.rulesMeanwhile(ctx, asked)
		delete(byKind, host.KindTable)
	}
	for kind, keys := range byKind {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		switch kind {
		case host.KindLink:
			err = h.observeLinks(seen, keys)
		case host.KindAddress:
			err = h.observeAddresses(seen, keys)
		case host.KindRoute:
			err = h.observeRoutes(seen, keys)
		case host.KindRule:
			err = h.observePolicy(seen, keys)
		case host.KindNIC:
			err = h.observeNICs(seen, keys)
		case host.KindFeature:
			err = h.observeFeatures(seen, keys)
		case host.KindSysctl:
			err = observeSysctls(seen, keys)
		case host.KindAccept:
			err = h.rules.observeAccepts(ctx, seen, keys)
		default:
			err = fmt.Errorf("observe %s: not a kind of the kernel", keys[0])
		}
		if err != nil {
			return nil, err
		}
	}
	return seen, rules(seen)
}

func (h *Host) observeAll(ctx context.Context) (host.State, error) {
	seen := host.State{}
	rules := h.rulesMeanwhile(ctx, nil)
	names, err := h.allLinks(seen)
	if err != nil {
		return nil, err
	}
	if err := h.allAddresses(seen, names); err != nil {
		return nil, err
	}
	if err := h.allRoutes(seen, names); err != nil {
		return nil, err
	}
	if err := h.rules.observeAccepts(ctx, seen, nil); err != nil {
		return nil, err
	}
	return seen, rules(seen)
}

// rulesMeanwhile begins to read rules, all of ours if keys is nil, while other
// things are read; the function that it returns waits for them and adds them to
// what else was seen.
func (h *Host) rulesMeanwhile(ctx context.Context, keys []host.Key) func(host.State) error {
	type answer struct {
		found host.State
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		found, err := h.rules.observe(ctx, keys)
		answers <- answer{found, err}
	}()
	return func(seen host.State) error {
		a := <-answers
		maps.Copy(seen, a.found)
		return a.err
	}
}

// familyOf joins the kinds that go into one kernel transaction: all of nftables
// is treated as tables are.
func familyOf(k host.Kind) host.Kind {
	switch k {
	case host.KindSet, host.KindChain, host.KindElement:
		return host.KindTable
	}
	return k
}

// Apply carries out steps in order; neighbouring steps of one family are done
// together, which for nftables is one transaction and for links that go is one
// message. It stops at the first error.
func (h *Host) Apply(ctx context.Context, steps []plan.Step) error {
	leaving := goingAway(steps)
	for len(steps) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		kind := familyOf(steps[0].Key().Kind)
		n := 1
		for n < len(steps) && familyOf(steps[n].Key().Kind) == kind {
			n++
		}
		var err error
		switch kind {
		case host.KindLink:
			err = h.applyLinks(ctx, steps[:n], leaving)
		case host.KindAddress:
			err = h.applyAddresses(steps[:n], leaving)
		case host.KindRoute:
			err = h.applyRoutes(steps[:n], leaving)
		case host.KindRule:
			err = h.applyPolicy(steps[:n])
		case host.KindSysctl:
			err = applySysctls(steps[:n])
		case host.KindTable:
			err = h.rules.apply(ctx, steps[:n])
		case host.KindAccept:
			err = h.rules.applyAccepts(ctx, steps[:n])
		default:
			err = fmt.Errorf("%s %s: not a kind of the kernel", steps[0].Verb(), steps[0].Key())
		}
		if err != nil {
			return err
		}
		steps = steps[n:]
	}
	return nil
}

// Prepare makes ready for links that are to be plugged or unplugged; see detours.
func (h *Host) Prepare(_ context.Context, steps []plan.Step) {
	for _, s := range steps {
		before, ok1 := s.Before.(host.Link)
		after, ok2 := s.After.(host.Link)
		if !ok1 || !ok2 || before.Master == after.Master || !before.Up || before.Type == host.TypeTap {
			continue
		}
		nic := h.Index(after.Name)
		bridge := h.Index(cmp.Or(after.Master, before.Master))
		if nic == 0 {
			continue
		}
		if err := h.detours.prepare(nic, bridge); err != nil {
			h.log.Debug("a link will be plugged without preparation", "link", after.Name, "err", err)
		}
	}
}

// goingAway is the set of keys that a later step deletes: what is in the way of
// a new thing may be replaced at once if it was to go anyway, and only then.
func goingAway(steps []plan.Step) map[host.Key]bool {
	leaving := map[host.Key]bool{}
	for _, s := range steps {
		if s.After == nil {
			leaving[s.Key()] = true
		}
	}
	return leaving
}
