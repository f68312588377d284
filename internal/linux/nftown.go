package linux

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Flags of a table (linux/netfilter/nf_tables.h). A table with an owner can be
// changed by that one netlink socket alone, and "flush ruleset" of others passes
// it by (Linux 5.12); a persistent one outlives its owner and can be taken over
// by the next (Linux 6.9).
const (
	tableOwned      = 0x2
	tablePersistent = 0x4
	// attrTableOwner is NFTA_TABLE_OWNER, which golang.org/x/sys lacks.
	attrTableOwner = 7
)

// ErrNoOwner: this kernel has no tables that belong to a socket and outlive it.
var ErrNoOwner = errors.New("the kernel cannot keep other programs out of our nftables tables (before Linux 6.9)")

// OwnTables keeps other programs out of our nftables tables from now on, until
// Close: a flush of all rules, however short, would end every connection of
// which a packet passes untranslated meanwhile (the host answers with a reset). Tables
// that are there are taken over, those of an earlier version by being made anew
// in one transaction. ErrNoOwner where the kernel has no such thing; then they
// have to be put back when somebody flushed them.
func (h *Host) OwnTables(ctx context.Context) error { return h.rules.own(ctx) }

func (a *nftAdapter) own(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.probeOwner(); err != nil {
		return err
	}
	a.tableFlags = tableOwned | tablePersistent
	for _, t := range ourTables {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.ownTable(t); err != nil {
			return fmt.Errorf("keep others out of nftables table %s: %w", t, err)
		}
	}
	return nil
}

// probeOwner makes and deletes a table of that sort in one transaction.
func (a *nftAdapter) probeOwner() error {
	probe := host.Table{Family: host.FamilyInet, Name: ourTable + "-probe"}
	b := &nftBatch{tableFlags: tableOwned | tablePersistent}
	b.newTable(probe)
	b.delTable(probe)
	err := a.sock.transact(b.msgs)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return ErrNoOwner
	}
	return err
}

func (a *nftAdapter) ownTable(t host.Table) error {
	replies, err := a.sock.get(unix.NFT_MSG_GETTABLE, familyNumbers[t.Family], 0, putText(nil, unix.NFTA_TABLE_NAME, t.Name))
	if isGone(err) {
		return nil // it is made with its owner
	}
	if err != nil || len(replies) == 0 {
		return orEmpty(err)
	}
	flags, _ := find(replies[0].attrs, unix.NFTA_TABLE_FLAGS)
	b := &nftBatch{tableFlags: a.tableFlags}
	if flags.u32()&tablePersistent != 0 {
		if flags.u32()&tableOwned != 0 {
			owner, _ := find(replies[0].attrs, attrTableOwner)
			if owner.u32() == a.sock.port() {
				return nil
			}
			return fmt.Errorf("it belongs to another process (netlink port %d)", owner.u32())
		}
		b.newTable(t)
		return a.sock.transact(b.msgs)
	}
	seen := host.State{}
	if err := a.view().table(t, seen); err != nil {
		return err
	}
	return a.try([]host.Table{t}, remake(seen, []plan.Step{{After: t}}))
}
