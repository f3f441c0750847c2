package pgledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/ledger"
)

const (
	maxAttempts  = 4
	firstBackoff = 5 * time.Millisecond
)

// Post is [ledger.Store.Post]: one transaction of two round trips and five
// statements, however many drafts there are; in a transaction of the caller's they are
// behind a savepoint, which takes a third where the connection has not posted in one
// before or where a draft refers to another transaction. What PostgreSQL asks to be repeated is, 3
// times at most; in the caller's transaction only the caller can repeat it, and
// the error's method Retryable() bool says whether that is of use. On accounts that the
// store remembers it is one statement and one round trip, see [Options.Cache].
func (s *Store) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		outcomes, err := s.post(ctx, drafts)
		if err == nil {
			return outcomes, nil
		}
		if attempt == maxAttempts || !s.again(err) {
			return nil, pg.Classify(migration("").Explain(err))
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		case <-time.After(backoff/2 + rand.N(backoff)):
			backoff *= 4
		}
	}
}

// again tells whether another attempt can do better. In the caller's transaction
// the locks of its earlier statements stay, and so may its snapshot.
func (s *Store) again(err error) bool {
	if errors.Is(err, errLateTarget) {
		return true
	}
	if _, callers := s.db.(pgx.Tx); callers {
		return raced(err)
	}
	return raced(err) || pg.Retryable(err)
}

// raced tells that an id was free when we looked and taken when we inserted: the
// next attempt finds what another batch decided of it.
func raced(err error) bool {
	constraint, ok := pg.IsUniqueViolation(err)
	return ok && constraint == "ledger_transactions_pkey"
}

// stale is raced in a transaction whose snapshot is older than the other batch.
// PostgreSQL reports only the duplicate key, which would tell the caller that a
// repeat is of no use; in a new transaction it finds what was decided.
func stale(err error) error {
	return &pgconn.PgError{
		Severity: "ERROR", Code: "40001", Detail: err.Error(),
		Message: "could not serialize access: the id of a transaction was taken after the snapshot",
	}
}

func (s *Store) post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	p := posting{drafts: drafts, outcomes: make([]ledger.Outcome, len(drafts))}
	if tx, callers := s.db.(pgx.Tx); callers {
		return p.outcomes, p.within(ctx, s, tx)
	}
	if err := p.readTargets(ctx, s); err != nil {
		return nil, err
	}
	p.name()
	if s.cache == nil {
		return p.outcomes, p.locked(ctx, s)
	}
	var err error
	if p.turn, err = s.cache.take(ctx, p.names); err != nil {
		return nil, fmt.Errorf("wait for %d accounts: %w", len(p.names), err)
	}
	committed := false
	defer func() { // also when the driver, or a tracer of the caller's, panics: others wait for their turn
		if !committed {
			p.forget(0) // nobody knows what has become of the accounts
		}
		p.turn.end(p.accounts, p.numbers)
	}()
	done, err := p.quick(ctx, s)
	if !done && err == nil {
		err = p.locked(ctx, s)
	}
	committed = err == nil
	return p.outcomes, err
}

// locked posts the batch on accounts that it locks and reads.
func (p *posting) locked(ctx context.Context, s *Store) error {
	u, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer u.end(ctx)
	return p.write(ctx, s, u)
}

// within posts the batch in the caller's transaction, of which a failure must
// leave nothing but what was there. What may fail before the statements of
// u.first is behind the savepoint too.
func (p *posting) within(ctx context.Context, s *Store, tx pgx.Tx) error {
	u := &unit{tx: tx, callers: true, release: func() {}}
	defer u.end(ctx)
	refers := slices.ContainsFunc(p.drafts, func(d ledger.Draft) bool { return d.Of != "" })
	if refers || !prepared(tx.Conn(), s.sql.schema) {
		if err := u.save(ctx); err != nil {
			return err
		}
	}
	if err := p.readTargets(ctx, s); err != nil {
		return err
	}
	p.name()
	return p.write(ctx, s, u)
}

// write locks and reads the accounts, decides, and writes it down.
func (p *posting) write(ctx context.Context, s *Store, u *unit) error {
	// Why this order cannot post an id twice:
	//   A locks its accounts, B (same id, same accounts) waits for them;
	//   A sees the id is free, posts, commits;
	//   B gets the locks, and only then looks for the id, with a new snapshot.
	// With other accounts B does not wait: the primary key then refuses its
	// insert, and it starts again. Two captures of one hold have its accounts in
	// common, and the second finds it closed.
	if err := p.lock(ctx, u, &s.sql); err != nil {
		return err
	}
	if p.guessed != nil {
		p.learn()
	}
	w := p.decide()
	if err := u.last(ctx, func(b *pgx.Batch) { w.queue(b, &s.sql, p.at) }); err != nil {
		if u.snapshot && raced(err) {
			err = stale(err)
		}
		return fmt.Errorf("write %d transactions: %w", len(w.decided), err)
	}
	return nil
}

// posting is one attempt to post a batch.
type posting struct {
	drafts   []ledger.Draft
	outcomes []ledger.Outcome
	ids      []string // to look up
	names    []string // of the accounts, sorted
	turn     *turn    // nil: the store has no cache
	guessed  *guess   // what was wrong in it is not known yet

	accounts map[ledger.AccountID]*ledger.State
	numbers  map[ledger.AccountID]int64              // ledger_accounts.no
	decided  []bool                                  // by draft: it was decided on before
	targets  map[ledger.TransactionID]*ledger.Target // what drafts refer to; nil: there is no such thing
	seq      int64
	at       time.Time
}

// lock locks the accounts and reads what was decided of the ids before.
func (p *posting) lock(ctx context.Context, u *unit, sql *statements) error {
	p.forget(len(p.names))
	err := u.first(ctx, sql.schema, func(b *pgx.Batch) {
		b.Queue(sql.lock, p.names).Query(p.scanAccounts)
		b.Queue(sql.decided, p.ids).Query(p.readDecided)
	})
	if err != nil {
		return fmt.Errorf("lock %d accounts: %w", len(p.names), err)
	}
	return nil
}

// forget makes room for n accounts, none of which is known.
func (p *posting) forget(n int) {
	p.accounts = make(map[ledger.AccountID]*ledger.State, n)
	p.numbers = make(map[ledger.AccountID]int64, n)
	p.decided = make([]bool, len(p.drafts))
	p.seq, p.at = 0, time.Time{}
}

func (p *posting) scanAccounts(rows pgx.Rows) error {
	var no int64
	return eachState(rows, func(s *ledger.State) { p.accounts[s.ID], p.numbers[s.ID] = s, no }, &no)
}

// name collects the ids to look up, and the accounts: those of the postings, of
// the conditions, and of what is referred to.
func (p *posting) name() {
	ids := make([]string, len(p.drafts), len(p.drafts)+len(p.targets))
	accounts := make([]string, 0, 2*len(p.drafts))
	add := func(postings []ledger.DraftPosting) {
		for _, m := range postings {
			accounts = append(accounts, string(m.Debit), string(m.Credit))
		}
	}
	for i, d := range p.drafts {
		ids[i] = string(d.ID)
		add(d.Postings)
		for _, c := range d.If {
			accounts = append(accounts, string(c.Account))
		}
	}
	for id, t := range p.targets {
		ids = append(ids, string(id))
		if t != nil {
			add(t.Postings)
		}
	}
	slices.Sort(accounts)
	p.ids, p.names = ids, slices.Compact(accounts)
}

// readDecided reads the first outcome of the ids that have one, with the accounts read.
func (p *posting) readDecided(rows pgx.Rows) error {
	defer rows.Close()
	before := map[ledger.TransactionID]known{}
	for rows.Next() {
		var id *string
		var k known
		var fingerprint []byte
		var verdict, posting *int16
		var at *time.Time
		var closed bool
		if err := rows.Scan(&id, &fingerprint, &verdict, &posting, &at, &closed, &p.seq, &p.at); err != nil {
			return err
		}
		if id == nil { // none of the ids has one
			continue
		}
		copy(k.fingerprint[:], fingerprint)
		k.outcome = ledger.Outcome{Verdict: ledger.Verdict(*verdict), Posting: int(*posting), At: *at}
		before[ledger.TransactionID(*id)] = k
		if t, ok := p.targets[ledger.TransactionID(*id)]; ok {
			if t == nil { // it came after we looked, and its accounts are not locked
				return errLateTarget
			}
			t.Closed = closed
		}
	}
	book := ledger.Book{Accounts: p.accounts}
	for i := range p.drafts {
		if k, ok := before[p.drafts[i].ID]; ok {
			p.outcomes[i] = book.Again(&p.drafts[i], k.fingerprint, k.outcome)
			p.decided[i] = true
		}
	}
	return rows.Err()
}

type known struct {
	fingerprint ledger.Fingerprint
	outcome     ledger.Outcome
}

// decide decides on the drafts that are not decided yet.
func (p *posting) decide() *writes {
	w := newWrites(len(p.drafts))
	book := ledger.Book{Accounts: p.accounts, Now: p.at, Target: func(id ledger.TransactionID) *ledger.Target { return p.targets[id] }}
	before := func(i int) bool { return p.decided[i] }
	book.Decide(p.drafts, before, func(i int, v ledger.Verdict, posting int, lines []ledger.Line) {
		d, o := &p.drafts[i], &p.outcomes[i]
		o.Verdict, o.Posting = v, posting
		if v == ledger.LinkFailed { // not recorded: it was not about this one
			return
		}
		o.At = p.at
		w.add(d, p.seq+int64(i), o, lines, p.numbers)
		if _, wanted := p.targets[d.ID]; wanted && v == ledger.Posted { // by a later one of this batch
			p.targets[d.ID] = asTarget(d, lines)
		}
	})
	return w
}
