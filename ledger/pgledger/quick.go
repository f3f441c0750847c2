package pgledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/ledger"
)

// guess is what a batch was decided on without a lock: the accounts of its turn
// as the cache had them, or as they were read.
type guess struct {
	before []ledger.State
	fresh  []bool // it was read for this batch
	places places // where the rows are, as far as that is known
}

// quick posts a batch of which everything succeeds by one statement, in one round
// trip, on accounts as the cache has them. false: nothing was written, and the
// batch has to go by the lock.
//
// Why this cannot post on an old balance:
//
//	A and B, two processes, both think that account x is at version 7;
//	A moves it to 8 and commits;
//	B's statement looks for x at version 7 and moves one account less than it
//	should: so it draws no number, and without one nothing can be inserted;
//	B locks x, reads it and decides anew.
//
// A place is compared as well: where the row is no longer there, no account is moved.
//
// The version counts entries, and does not say which:
//
//	A moves x from 7 to 8, which is not on the standby yet when that takes over;
//	B moves x from 7 to 8 there, by another amount;
//	A, in whose memory x is at 8, would bring its lost entry back into the sums.
//
// So the sums are compared, and the id, since a number is given again as well: where
// the opening of an account was lost, the next one that is opened gets its number.
//
// A refusal moves nothing that could be compared, so it is decided under locks;
// so is what only the tables can tell, such as what was decided of an id before.
//
// What holds reserve, and the floor, are compared too. They change without a new
// version, and the constraint on the floor would not notice:
//
//	A thinks that all of x is available, and B holds it for somebody;
//	a batch of A takes it and, in another transaction, brings it back;
//	x ends above its floor, and the first transaction was not to be posted.
func (p *posting) quick(ctx context.Context, s *Store) (done bool, err error) {
	if p.turn.locked() || !p.plain() {
		return false, nil
	}
	u, err := s.begin(ctx)
	if err != nil {
		return false, err
	}
	defer u.end(ctx)
	g, err := p.guess(ctx, u, &s.sql)
	if g == nil || err != nil {
		return false, err
	}
	w := p.decide()
	if !p.allPosted() {
		return false, nil
	}
	var left []byte
	err = u.only(ctx, func(b *pgx.Batch) {
		b.Queue(s.sql.post, p.columns(w, g)...).QueryRow(func(row pgx.Row) error { return row.Scan(&p.at, &left) })
	})
	if err == nil {
		p.turn.places = placesIn(left, len(p.names))
		for i := range p.outcomes {
			p.outcomes[i].At = p.at
		}
		return true, nil
	}
	if wrong(err) {
		p.guessed = g
		return false, nil
	}
	return false, fmt.Errorf("write %d transactions: %w", len(w.decided), err)
}

// wrong tells whether the tables refused what was decided without a lock.
func wrong(err error) bool {
	const notNull = "23502" // there is no number, since an account has moved
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (raced(err) || e.Code == notNull)
}

// plain tells whether the batch is of posts without conditions.
func (p *posting) plain() bool {
	for i := range p.drafts {
		if d := &p.drafts[i]; d.Kind != ledger.KindPost || len(d.If) > 0 {
			return false
		}
	}
	return true
}

// guess puts the accounts into p. nil: there is one that does not exist.
func (p *posting) guess(ctx context.Context, u *unit, sql *statements) (*guess, error) {
	n := len(p.names)
	g := &guess{before: make([]ledger.State, n), fresh: make([]bool, n)}
	p.forget(n)
	var unknown []string
	for i, a := range p.turn.accounts {
		if a.reread > 0 {
			a.reread--
			a.state = nil
		}
		if g.fresh[i] = a.state == nil; g.fresh[i] {
			unknown = append(unknown, p.names[i])
		} else {
			p.accounts[a.state.ID], p.numbers[a.state.ID] = a.state, a.no
		}
		if g.fresh[i] || rand.IntN(tidied) == 0 {
			a.place = place{}
		}
		g.places.add(a.place)
	}
	if len(unknown) > 0 {
		if err := pg.Probe(ctx, u.conn, p.scanAccounts, sql.look, unknown); err != nil {
			return nil, fmt.Errorf("read %d accounts: %w", len(unknown), err)
		}
	}
	for i, id := range p.names {
		s := p.accounts[ledger.AccountID(id)]
		if s == nil {
			return nil, nil
		}
		s.ID = ledger.AccountID(id) // the same text as the cache's key: one piece of memory for the collector
		g.before[i] = *s
	}
	return g, nil
}

func (p *posting) allPosted() bool {
	for i := range p.outcomes {
		if p.outcomes[i].Verdict != ledger.Posted {
			return false
		}
	}
	return true
}

// learn looks, with the accounts locked, for those that a guess was wrong about:
// they are handled with more care for a while.
func (p *posting) learn() {
	for i, id := range p.names {
		s, a := p.accounts[ledger.AccountID(id)], p.turn.accounts[i]
		switch b := &p.guessed.before[i]; {
		case s == nil || s.Version == b.Version && s.HeldDebits == b.HeldDebits && s.HeldCredits == b.HeldCredits:
		case p.guessed.fresh[i]:
			a.lock = contested
		default:
			a.reread = contested
		}
	}
}

// columns returns the parameters of postSQL, the accounts in the order in which
// all lock them.
func (p *posting) columns(w *writes, g *guess) []any {
	var nos, befores, versions integers
	var heldDebits, heldCredits, floors, debits, credits, debitsBefore, creditsBefore numerics
	for i, id := range p.names {
		before, after := &g.before[i], p.accounts[ledger.AccountID(id)]
		nos.add(p.numbers[after.ID])
		befores.add(before.Version)
		versions.add(after.Version)
		heldDebits.add(before.HeldDebits)
		heldCredits.add(before.HeldCredits)
		floors.addFloor(before.Floor)
		debitsBefore.add(before.Debits)
		creditsBefore.add(before.Credits)
		debits.add(after.Debits)
		credits.add(after.Credits)
	}
	columns := []any{nos.String(), befores.String(), heldDebits.String(), heldCredits.String(), floors.String(), versions.String(), debits.String(), credits.String()}
	columns = append(columns, w.posted.all()...)
	columns = append(columns, w.decidedColumns()[:3]...)
	return append(columns, g.places.String(), p.names, debitsBefore.String(), creditsBefore.String())
}
