package pgsaga

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Sweep is [saga.Sweeper.Sweep]: one statement, by an index of the sagas that may be
// swept. Some hundreds at a time hold no lock for long. Several processes may sweep at
// once.
func (s *Store) Sweep(ctx context.Context, age time.Duration, limit int) (int, error) {
	if limit < 1 {
		return 0, refuse("limit", "is less than 1")
	}
	n := 0
	err := s.probeAgain(ctx, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error { return nil })
		return err
	}, s.sql.sweep, age.Microseconds(), limit)
	if err != nil {
		return 0, fail("sweep", err)
	}
	return n, nil
}
