package pglock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/internal/pg"
)

const (
	// limitSQL bounds the waits of the statements behind it in the same batch, which is one transaction.
	limitSQL  = `SELECT set_config('lock_timeout', $1, true)`
	lockSQL   = `SELECT pg_advisory_lock($1)`
	trySQL    = `SELECT pg_try_advisory_lock($1)`
	leaseSQL  = `SELECT set_config('idle_session_timeout', $1, false)`
	unlockSQL = `SELECT pg_advisory_unlock($1)`
	resetSQL  = `RESET idle_session_timeout`

	// tokenSQL waits for a transaction that has passed the fence and is still open.
	tokenSQL = `
INSERT INTO {fences} AS f (key, token) VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ON CONFLICT (key) DO UPDATE SET token = greatest(f.token + 1, excluded.token)
RETURNING token`

	lockNotAvailable = "55P03" // lock_timeout is over
	queryCanceled    = "57014" // statement_timeout is, which may be shorter
)

// session is a lock that is held, or about to be, on a connection that nobody else uses.
type session struct {
	locker *Locker
	key    idempotency.Key
	conn   *pgxpool.Conn
	token  idempotency.Token
	heard  time.Time // since then the server has heard of the session

	stop context.CancelFunc // of the watch; nil while there is none
	gone chan struct{}      // closed when the watch has ended
}

// open waits for the name and takes it.
func (l *Locker) open(ctx context.Context, key idempotency.Key) (*session, error) {
	over := time.Now().Add(l.wait)
	if err := l.line.enter(ctx, key, l.wait); err != nil {
		return nil, err
	}
	s, err := l.connect(ctx, key)
	if err == nil {
		err = s.take(ctx, time.Until(over))
	}
	if err == nil {
		return s, nil
	}
	s.close()
	if _, held := errors.AsType[*lock.HeldError](err); held {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("pglock: %w: %w", context.Cause(ctx), err)
	}
	return nil, fmt.Errorf("pglock: %w", pg.Classify(migration("").Explain(err)))
}

// connect takes a connection of the pool.
func (l *Locker) connect(ctx context.Context, key idempotency.Key) (*session, error) {
	limit := l.wait
	if limit == 0 {
		limit = l.writeTimeout
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := l.pool.Acquire(waiting)
	switch {
	case err == nil:
	case waiting.Err() != nil && ctx.Err() == nil:
		err = fmt.Errorf("no connection in %v: %w", limit, err)
	default:
		err = fmt.Errorf("no connection: %w", err)
	}
	return &session{locker: l, key: key, conn: conn}, err
}

// take takes the lock, and then its token in a transaction of its own: one that began before the wait would not see, where
// transactions are REPEATABLE READ, what the holder before has written. Each may have to wait. The caller's context may have no
// deadline, as those of net/http have none, and a server that is frozen would hold each request for as long as its client stays.
func (s *session) take(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 2*max(0, wait)+s.locker.writeTimeout)
	defer cancel()
	won := true
	b := &pgx.Batch{}
	b.Queue(limitSQL, millis(wait))
	if s.locker.wait > 0 {
		b.Queue(lockSQL, hash(s.key))
	} else {
		b.Queue(trySQL, hash(s.key)).QueryRow(func(row pgx.Row) error { return row.Scan(&won) })
	}
	err := s.conn.SendBatch(ctx, b).Close()
	switch {
	case !won:
		return &lock.HeldError{Name: s.key.Value}
	case err != nil:
		s.giveBack()
		return s.refused(ctx, err)
	}
	sent := time.Now()
	b = &pgx.Batch{}
	b.Queue(limitSQL, millis(wait))
	b.Queue(leaseSQL, millis(s.locker.lease))
	b.Queue(s.locker.token, []byte(s.key.String())).QueryRow(func(row pgx.Row) error { return row.Scan(&s.token) })
	if err := s.conn.SendBatch(ctx, b).Close(); err != nil {
		s.giveBack()
		return s.refused(ctx, err)
	}
	s.heard = sent
	if time.Since(sent) < s.locker.lease/3 {
		return nil
	}
	// It was a wait for one who has passed the fence, of which a lease may not have much left. That of the server begins only now.
	sent = time.Now()
	if err := s.conn.Ping(ctx); err != nil {
		s.giveBack()
		return err
	}
	s.heard = sent
	return nil
}

// refused is err, or that the name is held where the server has waited for long enough.
func (s *session) refused(ctx context.Context, err error) error {
	if isTimeout(err) && ctx.Err() == nil {
		return &lock.HeldError{Name: s.key.Value, Cause: err}
	}
	return err
}

func isTimeout(err error) bool { return hasCode(err, lockNotAvailable) || hasCode(err, queryCanceled) }

func hasCode(err error, code string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == code
}

// until is the end of the lease, not later than on the server, which counts from heard on or later. A hundredth is for clocks that do
// not run equally fast.
func (s *session) until() time.Time { return s.heard.Add(s.locker.lease - s.locker.lease/100) }

// watch lets the server hear of the session until close, and calls lose when the connection is gone.
func (s *session) watch(lose context.CancelCauseFunc) {
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.gone = stop, make(chan struct{})
	go func() {
		defer close(s.gone)
		if err := s.keep(ctx); err != nil {
			lose(fmt.Errorf("%w: its connection failed: %w", lock.ErrLost, err))
		}
	}()
}

// keep returns nil when ctx ends, or why the connection is gone.
func (s *session) keep(ctx context.Context) error {
	for ctx.Err() == nil {
		// Nothing comes on this connection but its end, and that is heard of at once. Or somebody used LISTEN and gave it back:
		// the server counts what it hears, not what it says, so that notifications put nothing off.
		due, cancel := context.WithDeadline(ctx, s.heard.Add(s.locker.lease/3))
		_, err := s.conn.Conn().WaitForNotification(due)
		cancel()
		if err == nil || ctx.Err() != nil {
			continue
		}
		if s.conn.Conn().IsClosed() {
			return err
		}
		sent := time.Now()
		if err := s.ping(ctx); err != nil {
			return err
		}
		s.heard = sent
	}
	return nil
}

// ping asks the server to answer. Where ctx ends meanwhile it has a little longer: a ping that is cut short closes the connection.
func (s *session) ping(ctx context.Context) error {
	alive, cancel := context.WithDeadline(context.Background(), s.until())
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(s.locker.writeTimeout, cancel) })
	defer stop()
	return s.conn.Ping(alive)
}

// close gives back whatever open has taken.
func (s *session) close() {
	defer s.locker.line.leave(s.key)
	if s.conn == nil {
		return
	}
	defer s.conn.Release()
	if s.stop == nil { // the lock was not won
		return
	}
	s.stop()
	<-s.gone
	if !s.conn.Conn().IsClosed() { // it was not lost
		s.unlock(true)
	}
}

// giveBack frees what the connection has locked or waits for, when the lock was not won. It may be locked all the same: a session's locks
// are not rolled back, and a wait may be over just when the holder lets go:
//
//	the holder's session hands the lock to ours, whose lock_timeout is over before its process runs again;
//	the server answers 55P03, and ours has the lock: nobody gets it for as long as the pool keeps the connection.
func (s *session) giveBack() {
	if !s.conn.Conn().IsClosed() {
		s.unlock(false)
		return
	}
	// The driver closes a connection whose context has ended, and meanwhile the server may go on waiting, and win.
	select {
	case <-s.conn.Conn().PgConn().CleanupDone(): // the server has closed its end too
	case <-time.After(s.locker.writeTimeout):
	}
}

// unlock gives the lock back, if it was won or may have been, under a deadline of its own: whoever hangs up must not keep others waiting.
func (s *session) unlock(won bool) {
	ctx, cancel := context.WithTimeout(context.Background(), s.locker.writeTimeout)
	defer cancel()
	held := false
	b := &pgx.Batch{}
	b.Queue(unlockSQL, hash(s.key)).QueryRow(func(row pgx.Row) error { return row.Scan(&held) })
	b.Queue(resetSQL)
	err := s.conn.SendBatch(ctx, b).Close()
	if err == nil && (held || !won) {
		return
	}
	s.locker.logger.LogAttrs(ctx, slog.LevelWarn, "pglock: lock not released, its connection is closed",
		slog.Bool("held", held), slog.Any("error", err))
	_ = s.conn.Conn().Close(ctx) // and with it whatever it has locked; however that ends, the pool does not keep it
}
