package pgsaga

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/saga"
)

// Relay is [saga.Outbox.Relay]: a transaction of two round trips, which is open while
// publish works; ctx should have a deadline. An advisory lock sees to it that one at a
// time relays.
//
// Messages are removed when they are published, and not passed over by a number up to
// which all are: those of a transaction that is slow to commit have lower ids than
// others that were visible before.
func (s *Store) Relay(ctx context.Context, limit int, publish func(ctx context.Context, msgs []saga.Message) error) (int, error) {
	if limit < 1 {
		return 0, refuse("limit", "is less than 1")
	}
	u, err := s.unit(ctx)
	if err != nil {
		return 0, fail("relay", err)
	}
	defer u.end(ctx)
	msgs, err := s.waiting(ctx, u, limit)
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
	err = u.commit(ctx, func(b *pgx.Batch) {
		b.Queue(probesOnly)
		b.Queue(s.sql.relayed, ids)
	})
	if err != nil {
		return 0, fail("relay", err)
	}
	return len(msgs), nil
}

// waiting reads the oldest messages, if nobody else is at it. The lock is taken by a
// statement of its own: the messages are to be seen as they are once it is ours.
func (s *Store) waiting(ctx context.Context, u *unit, limit int) (msgs []saga.Message, err error) {
	err = u.begin(ctx, func(b *pgx.Batch) {
		b.Queue(s.sql.relayLock)
		b.Queue(scansOff)
		b.Queue(s.sql.outbox, limit).Query(func(rows pgx.Rows) (err error) {
			msgs, err = pgx.CollectRows(rows, pgx.RowToStructByPos[saga.Message])
			return err
		})
		b.Queue(scansOn)
	})
	return msgs, err
}
