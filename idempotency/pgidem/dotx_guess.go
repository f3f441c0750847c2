package pgidem

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/internal/pg"
)

// guess runs the work as that of a new key, which is locked and looked for only by the statement that records it: see
// [TxOptions.Optimistic]. Neither an answer nor err: the unit is rolled back, and what is known of the key decides. Either it was
// used, or the work has failed, as it does where its effect is there already: to answer a repeat of a payment that has emptied an
// account with "insufficient funds" would have it made again, elsewhere.
func (c *txCall) guess(ctx context.Context, u *txUnit, work txWork) (answer *txResult, failure, err error) {
	c.guessed = true
	limited, cancel := c.limited(ctx)
	err = u.beginBare(limited, c.g.db)
	cancel()
	if err != nil {
		return nil, nil, pg.Classify(fmt.Errorf("pgidem: begin: %w", err))
	}
	result, failure := u.run(ctx, work)
	switch {
	case pg.Retryable(failure), errors.Is(failure, errEnded), errors.Is(failure, errReading):
		return nil, nil, failure
	case failure != nil:
	case result.refusal != nil:
		answer, err = c.refuse(ctx, u, &result)
		return answer, nil, err
	default:
		if answer, err = c.finish(ctx, u, &result); !errors.Is(err, errTaken) {
			return answer, nil, err
		}
	}
	if err := u.rollback(ctx); err != nil {
		return nil, nil, pg.Classify(fmt.Errorf("pgidem: roll back: %w", err))
	}
	return nil, failure, nil
}

// beginBare begins with no other statement.
func (u *txUnit) beginBare(ctx context.Context, db DB) (err error) {
	if u.conn == nil {
		return u.begin(ctx, db, func(*pgx.Batch) {})
	}
	u.tx, err = u.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: u.level})
	u.open = err == nil
	return err
}

// isLocked tells whether the record of a guess was refused because another has the key.
func isLocked(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "23502" && e.ColumnName == "token"
}

// recognize answers from a record that is ours or another's: that of a guess has a token that we do not know. Neither: it is
// another's, and over. Ours, if it comes late, is in its way.
func (c *txCall) recognize(r *txRecord, ours *txResult) (*txResult, error) {
	if r.same && r.status == ours.status && bytes.Equal(r.response, ours.response) {
		return ours, nil
	}
	return c.judge(r)
}

// bury keeps the COMMIT of a guess, whose answer was lost, from being made later. The server that it was sent to may hang: it
// would find the key free when it goes on, after the caller has been told that nothing was committed. A record that is over is in its
// way, and in nobody else's.
func (c *txCall) bury(ctx context.Context, u *txUnit) error {
	_, err := u.commit(ctx, func(b *pgx.Batch) { b.Queue(c.g.sql.bury, c.id, c.fingerprint[:]) })
	return err
}
