package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/ledger"
)

// errLateTarget says that a transaction referred to was posted between our look
// and our lock. The next attempt locks its accounts too.
var errLateTarget = errors.New("pgledger: the target came late")

// readTargets reads what drafts refer to. It costs a round trip where one does.
func (p *posting) readTargets(ctx context.Context, s *Store) error {
	var ids []string
	for _, d := range p.drafts {
		if d.Of != "" {
			ids = append(ids, string(d.Of))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	p.targets = make(map[ledger.TransactionID]*ledger.Target, len(ids))
	for _, id := range ids {
		p.targets[ledger.TransactionID(id)] = nil
	}
	err := pg.Probe(ctx, s.db, p.scanTargets, s.sql.targets, ids)
	if err != nil {
		return fmt.Errorf("read %d targets: %w", len(ids), err)
	}
	return nil
}

func (p *posting) scanTargets(rows pgx.Rows) error {
	defer rows.Close()
	for rows.Next() {
		var id string
		var kind, verdict int16
		var expires *time.Time
		var debit, credit, amount, currency *string
		if err := rows.Scan(&id, &kind, &verdict, &expires, &debit, &credit, &amount, &currency); err != nil {
			return err
		}
		t := p.targets[ledger.TransactionID(id)]
		if t == nil {
			t = &ledger.Target{Kind: ledger.Kind(kind), Verdict: ledger.Verdict(verdict)}
			if expires != nil {
				t.Expires = *expires
			}
			p.targets[ledger.TransactionID(id)] = t
		}
		if debit == nil || credit == nil { // no postings: it was refused, or released
			continue
		}
		m := ledger.DraftPosting{Debit: ledger.AccountID(*debit), Credit: ledger.AccountID(*credit), Currency: *currency}
		if err := parse(&m.Amount, amount); err != nil {
			return err
		}
		t.Postings = append(t.Postings, m)
	}
	return rows.Err()
}

// asTarget is a transaction of this batch as a later one of it may refer to it. No
// hold's time is over in its own batch, for which the clock is read once.
func asTarget(d *ledger.Draft, lines []ledger.Line) *ledger.Target {
	t := &ledger.Target{Kind: d.Kind, Postings: d.Postings}
	if d.Kind != ledger.KindHold {
		t.Postings = ledger.Made(lines)
	}
	return t
}

// ExpiredHolds is [ledger.Expirer.ExpiredHolds]: one statement on an index of
// the open holds that can expire.
func (s *Store) ExpiredHolds(ctx context.Context, limit int) (ids []ledger.TransactionID, err error) {
	err = pg.Probe(ctx, s.db, func(rows pgx.Rows) error {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[ledger.TransactionID])
		return err
	}, s.sql.expired, limit)
	if err != nil {
		return nil, fail("expired holds", err)
	}
	return ids, nil
}
