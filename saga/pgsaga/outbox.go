package pgsaga

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/saga"
)

// Relay is [saga.Outbox.Relay]: one transaction of four round trips, which is open
// while publish works; its ctx should have a deadline. Messages are removed when they
// are published, and not passed over by a number up to which all are: those of a
// transaction that is slow to commit have lower ids than others that are visible already.
func (s *Store) Relay(ctx context.Context, limit int, publish func(ctx context.Context, msgs []saga.Message) error) (int, error) {
	if limit < 1 {
		return 0, refuse("limit", "is less than 1")
	}
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return 0, fail("relay", err)
	}
	defer func() { // does nothing after a commit
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	msgs, err := s.waiting(ctx, tx, limit)
	if err != nil {
		return 0, fail("relay", err)
	}
	if len(msgs) == 0 {
		return 0, nil
	}
	if err := publish(ctx, msgs); err != nil {
		return 0, err
	}
	ids := make([]int64, len(msgs))
	for n, m := range msgs {
		ids[n] = m.ID
	}
	if _, err := tx.Exec(ctx, s.sql.relayed, ids); err != nil {
		return 0, fail("relay", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, fail("relay", err)
	}
	return len(msgs), nil
}

// waiting reads the oldest messages, if nobody else is at it. The lock is taken by a
// statement of its own: the messages are to be seen as they are once it is ours.
func (s *Store) waiting(ctx context.Context, tx pgx.Tx, limit int) (msgs []saga.Message, err error) {
	var mine bool
	if err := tx.QueryRow(ctx, s.sql.relayLock).Scan(&mine); err != nil || !mine {
		return nil, err
	}
	rows, err := tx.Query(ctx, s.sql.outbox, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[saga.Message])
}
