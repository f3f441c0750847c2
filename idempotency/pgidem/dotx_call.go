package pgidem

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/pg"
)

// txCall is one call of DoTx.
type txCall struct {
	g           *TxGuard
	key         idempotency.Key
	id          []byte // the key as it is stored
	lock        int64  // the key's advisory lock
	fingerprint idempotency.Fingerprint
	patience    time.Time // the end of waiting for others
	token       int64     // the record's, once the key is ours; 0: PostgreSQL makes it
	guessed     bool      // the work was run as that of a new key
	since, read time.Time // when that was, by the server's clock and by ours
}

func newTxCall(g *TxGuard, key idempotency.Key, fp idempotency.Fingerprint) *txCall {
	c := &txCall{g: g, key: key, id: []byte(key.String()), fingerprint: fp, patience: time.Now().Add(g.wait)}
	c.lock = lockOf(c.id)
	return c
}

// lockOf is the advisory lock of a key. Two keys with one lock would wait for each other, and by a hash that is easily
// inverted a client could make another's key wait; so it is cut from SHA-256.
func lockOf(id []byte) int64 {
	sum := sha256.Sum256(append([]byte("safetill idempotency "), id...))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

const (
	txFirstBackoff   = 5 * time.Millisecond // before an attempt is repeated; then four times as long
	txLongestBackoff = 500 * time.Millisecond
	// txLongestWait is what PostgreSQL's settings hold, in milliseconds.
	txLongestWait = 24 * 24 * time.Hour
	// txAskAgain is what a duplicate of a running transaction is told: there is no lease that could say more.
	txAskAgain = time.Second
)

// What makes an attempt begin again, beside what PostgreSQL says.
var (
	// errTaken: a claim of Do, which does not take the lock, or a transaction that is not in our snapshot, was quicker.
	errTaken = errors.New("the key was taken meanwhile")
	// errStale: the snapshot is older than what was waited for.
	errStale = errors.New("the snapshot is older than the lock")
)

// undone is the error of a COMMIT whose answer was lost, and which turned out to have had no effect.
type undone struct{ error }

func (e undone) Unwrap() error   { return e.error }
func (e undone) Retryable() bool { return true }

// unknown is the error of one of which that could not be found out. To ask again is safe, and answers it.
type unknown struct{ error }

func (e unknown) Unwrap() error   { return e.error }
func (e unknown) Retryable() bool { return true }

// do runs the work unless there is a result. A transaction of the caller's is not waited for here: its result holds only
// when it is committed.
func (c *txCall) do(ctx context.Context, work txWork) (result *txResult, err error) {
	if _, callers := c.g.db.(pgx.Tx); !callers {
		v, answer, err := c.g.local.enter(ctx, c)
		if v == nil {
			return answer, err
		}
		defer func() { v.leave(result) }()
	}
	if c.g.local.seen(c.lock) {
		if result, err = c.look(ctx); result != nil || err != nil {
			return result, err
		}
	}
	result, err = c.repeat(ctx, work)
	if err == nil {
		c.g.local.saw(c.lock)
	}
	return result, err
}

// repeat runs attempts until one answers.
func (c *txCall) repeat(ctx context.Context, work txWork) (*txResult, error) {
	backoff := txFirstBackoff
	for attempt := 1; ; {
		result, err := c.attempt(ctx, work)
		switch {
		case err == nil:
			return result, nil
		case errors.Is(err, errStale): // that it waited bounds how often
			continue
		case !c.again(err):
			return nil, err
		case attempt == c.g.attempts:
			return nil, gaveUp(err, attempt)
		}
		attempt++
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("pgidem: before another attempt: %w: %w", err, context.Cause(ctx))
		case <-time.After(backoff/2 + rand.N(backoff)):
			backoff = min(4*backoff, txLongestBackoff)
		}
	}
}

// again tells whether another attempt may do better. In the caller's transaction the locks of its earlier statements stay,
// and so may its snapshot.
func (c *txCall) again(err error) bool {
	if errors.Is(err, errTaken) {
		return true
	}
	if errors.Is(err, ErrUnknown) { // it says so, whatever came after
		return false
	}
	if _, callers := c.g.db.(pgx.Tx); callers {
		return false
	}
	_, known := errors.AsType[undone](err)
	return known || pg.Retryable(err)
}

// attempt runs the work in one transaction. Only errors of the work come as they are.
func (c *txCall) attempt(ctx context.Context, work txWork) (*txResult, error) {
	limited, cancel := c.limited(ctx)
	u, err := c.g.acquire(limited)
	cancel()
	if err != nil {
		return nil, pg.Classify(fmt.Errorf("pgidem: %w", err))
	}
	defer u.end(ctx)
	var failure error // of a guess
	if c.g.optimistic && !c.guessed {
		var result *txResult
		if result, failure, err = c.guess(ctx, u, work); result != nil || err != nil {
			return result, err
		}
	}
	if result, err := c.enter(ctx, u); result != nil || err != nil {
		return result, err
	}
	if failure != nil {
		return nil, failure
	}
	result, err := u.run(ctx, work)
	if err != nil {
		return nil, err
	}
	if result.refusal != nil {
		return c.refuse(ctx, u, &result)
	}
	return c.finish(ctx, u, &result)
}

// limited bounds what comes before the work. The caller's context may have no deadline, as those of net/http have none, and a
// pool whose connections are all taken, or a server that is frozen, would hold each request for as long as its client stays.
func (c *txCall) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, max(0, time.Until(c.patience))+c.g.commitTimeout)
}

// enter begins, locks the key and looks it up. neither: the key is ours, and there is no record of it.
func (c *txCall) enter(ctx context.Context, u *txUnit) (*txResult, error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	var f txFound
	err := u.begin(ctx, c.g.db, func(b *pgx.Batch) { f.enter(b, c.g.sql.enter, c) })
	for range looks {
		if err != nil {
			break
		}
		if result, err := c.judge(f.record); result != nil || err != nil {
			return result, err
		}
		if !f.locked {
			if err = c.await(ctx, u, &f); errors.Is(err, idempotency.ErrInFlight) {
				return nil, err
			}
			if err == nil && f.record == nil && u.snapshot() {
				return nil, errStale // the one who had the key may have committed
			}
			continue
		}
		ours := f.record == nil
		if !ours {
			ours, err = u.takeOver(ctx, c, f.record.token)
		}
		switch {
		case ours:
			c.own(&f)
			return nil, u.restore(ctx, &f)
		case err == nil: // it is another by now
			err = f.look(ctx, u.tx, c)
		}
	}
	return nil, pg.Classify(fail("look a key up", cmp.Or(err, errRaces)))
}

// own notes that the key is ours. A record grows from the token of the one that it follows.
func (c *txCall) own(f *txFound) {
	c.since, c.read, c.token = f.now, f.read, f.now.UnixMicro()
	if f.record != nil {
		c.token = max(c.token, f.record.token+1)
	}
}

// await waits for the one who has the lock, and looks the key up again.
func (c *txCall) await(ctx context.Context, u *txUnit, f *txFound) error {
	limit := time.Until(c.patience)
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end))
	}
	inFlight := &idempotency.InFlightError{Key: c.key, RetryAfter: txAskAgain}
	if limit <= 0 {
		return inFlight
	}
	b := &pgx.Batch{}
	f.record = nil
	f.wait(b, c, limit)
	err := u.tx.SendBatch(ctx, b).Close()
	if err != nil && ctx.Err() != nil { // however the driver has ended the wait
		return fmt.Errorf("%w: %w", inFlight, context.Cause(ctx))
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == "55P03" || e.Code == "57014") { // lock_timeout, statement_timeout
		return inFlight
	}
	return err
}

// finish commits the work with its key and result.
func (c *txCall) finish(ctx context.Context, u *txUnit, result *txResult) (*txResult, error) {
	if ctx.Err() != nil { // whoever asked is gone, and nothing has happened yet
		return nil, fmt.Errorf("pgidem: before the commit: %w", context.Cause(ctx))
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.g.commitTimeout)
	defer cancel()
	fate, err := u.commit(limited, func(b *pgx.Batch) { c.record(b, result) })
	switch fate {
	case fateDone:
		return result, nil
	case fateUndone:
		if c.token == 0 && isLocked(err) {
			return nil, errTaken
		}
		if constraint, ok := pg.IsUniqueViolation(err); ok && constraint == "idempotency_records_pkey" {
			return nil, c.taken(limited, u, err)
		}
		return nil, pg.Classify(fail("commit", err))
	default:
		u.end(ctx) // the search must not wait for the connection of the lost
		return c.resolve(ctx, result, err)
	}
}

// record queues what writes the result.
func (c *txCall) record(b *pgx.Batch, result *txResult) {
	if c.token == 0 {
		b.Queue(c.g.sql.guess, c.lock, c.id, c.fingerprint[:], result.status, c.g.ttl.Microseconds(), result.response)
		return
	}
	end := c.since.Add(time.Since(c.read) + c.g.ttl)
	b.Queue(c.g.sql.insert, c.id, c.fingerprint[:], c.token, result.status, c.since, end, result.response)
}

// taken is the error of a record that was there before ours. A caller's transaction whose snapshot does not have it would
// find the key free again and again.
func (c *txCall) taken(ctx context.Context, u *txUnit, err error) error {
	if !u.callers {
		return fmt.Errorf("pgidem: %w: %w", errTaken, err)
	}
	var single bool
	_ = u.rollback(ctx)
	if err := u.tx.QueryRow(ctx, "SELECT current_setting('transaction_isolation') NOT LIKE 'read %'").Scan(&single); err != nil {
		return pg.Classify(fmt.Errorf("pgidem: commit: %w", err))
	}
	if !single {
		return errTaken
	}
	return pg.Classify(fmt.Errorf("pgidem: %w", &pgconn.PgError{
		Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "40001", Detail: err.Error(),
		Message: "could not serialize access: the key was taken after the snapshot",
	}))
}

// refuse commits a refusal without what the work has written.
func (c *txCall) refuse(ctx context.Context, u *txUnit, result *txResult) (*txResult, error) {
	err := u.rollback(ctx)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var earlier *txResult
	if err == nil {
		earlier, err = c.enter(ctx, u)
	}
	if err == nil && earlier == nil {
		earlier, err = c.finish(ctx, u, result)
	}
	if err != nil && !c.again(err) {
		err = fmt.Errorf("%w: %w: %w", idempotency.ErrNotRecorded, err, result.refusal)
	}
	return earlier, err
}

// resolve finds out what has become of a COMMIT whose answer was lost. Its lock is held for as long as it may still happen, by
// a server that has not noticed that nobody listens: so who has the lock sees what has come of it. That of a guess may have yet to be
// taken, by a server that has not read so far: see bury.
func (c *txCall) resolve(ctx context.Context, result *txResult, lost error) (*txResult, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.g.commitTimeout)
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		if conn, only := c.g.db.(*pgx.Conn); only && conn.IsClosed() {
			return nil, unknown{fmt.Errorf("%w: %w", ErrUnknown, lost)}
		}
		record, err := c.settled(ctx)
		switch {
		case err != nil:
		case record != nil && record.completed && record.token == c.token:
			return result, nil
		default:
			if record != nil && record.completed && c.token == 0 {
				if result, err := c.recognize(record, result); result != nil || err != nil {
					return result, err
				}
			}
			// What is there now, another attempt will see.
			return nil, undone{fmt.Errorf("pgidem: the answer to the commit was lost, and it was not made: %w", lost)}
		}
		select {
		case <-ctx.Done():
			return nil, unknown{fmt.Errorf("%w: %w; then: %w", ErrUnknown, lost, err)}
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// errStandby: who was asked what became of a COMMIT is not the one that makes it.
var errStandby = errors.New("pgidem: the server is a standby, which may be behind")

// settled returns the record once nobody has the lock. A standby cannot tell:
//
//	the primary commits, its answer is lost, and the next connection goes elsewhere, as after a failover;
//	a standby gives the lock to whoever asks, and has not heard of the commit yet;
//	the caller is told that nothing was committed, and pays by another way.
func (c *txCall) settled(ctx context.Context) (*txRecord, error) {
	u, err := c.g.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer u.end(ctx)
	u.level = pgx.ReadCommitted // one snapshot for all would be older than what is waited for
	end, _ := ctx.Deadline()
	var f txFound
	standby := false
	err = u.begin(ctx, c.g.db, func(b *pgx.Batch) {
		b.Queue("SELECT pg_is_in_recovery()").QueryRow(func(row pgx.Row) error { return row.Scan(&standby) })
		f.wait(b, c, time.Until(end))
	})
	if err == nil && standby {
		err = errStandby
	}
	if err == nil && f.record == nil && c.token == 0 {
		err = c.bury(ctx, u)
	}
	return f.record, err
}
