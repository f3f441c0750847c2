package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// finished is how many sagas are over before the claims are measured.
const finished = 1_000_000

// benchSagaMillion measures recovery where a table is full of sagas that are over.
func benchSagaMillion(ctx context.Context, s *settings, w io.Writer) error {
	server, err := localdb.StartPostgres(ctx, localdb.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	pool, err := pgxpool.New(ctx, server.URL())
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pgsaga.Migrate(ctx, pool, nil); err != nil {
		return err
	}
	store := pgsaga.NewStore(pool, nil)
	def := fiveSteps(func() {})
	e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}}) // it does not run: what it starts is free
	if err != nil {
		return err
	}
	if _, err := def.Start(ctx, e, "first", nothing{"first"}, nil); err != nil {
		return err
	}
	if err := copyFinished(ctx, pool); err != nil {
		return err
	}
	var idle, claims []time.Duration
	claim := saga.Claim{Owner: "bench", Lease: time.Hour, Limit: 100, Definitions: []string{"five"}}
	for n := range 50 * s.rounds {
		for i := range claim.Limit {
			id := fmt.Sprintf("due-%d-%d", n, i)
			if _, err := def.Start(ctx, e, id, nothing{id}, nil); err != nil {
				return err
			}
		}
		for _, want := range []struct {
			n    int
			took *[]time.Duration
		}{{claim.Limit, &claims}, {0, &idle}} {
			begun := time.Now()
			got, err := store.Claim(ctx, claim)
			if err != nil {
				return err
			}
			*want.took = append(*want.took, time.Since(begun))
			if len(got) != want.n {
				return fmt.Errorf("%d sagas were claimed of %d", len(got), want.n)
			}
		}
	}
	fmt.Fprintf(w, "\n## Claims beside %d sagas that are over\n\n%d of each, in turn. p50 and p99 of one call.\n\n", finished, len(claims))
	fmt.Fprintln(w, "| | p50 | p99 |\n|---|---|---|")
	fmt.Fprintf(w, "| nothing is due | %.2f ms | %.2f ms |\n| 100 sagas are due | %.2f ms | %.2f ms |\n", millis(quantile(idle, 50)), millis(quantile(idle, 99)), millis(quantile(claims, 50)), millis(quantile(claims, 99)))
	return nil
}

// copyFinished makes so many copies of the saga first, as if each had been completed, and completes it.
func copyFinished(ctx context.Context, pool *pgxpool.Pool) error {
	var columns string
	err := pool.QueryRow(ctx, `SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = 'sagas'::regclass AND attnum > 0 AND NOT attisdropped AND attname NOT IN ('id', 'status', 'due_at', 'over_at')`).Scan(&columns)
	if err != nil {
		return err
	}
	for _, sql := range []string{
		fmt.Sprintf(`INSERT INTO sagas (id, status, over_at, %s) SELECT 'over-' || n, 'COMPLETED', now(), %s FROM sagas, generate_series(1, %d) AS n WHERE id = 'first'`, columns, columns, finished),
		`UPDATE sagas SET status = 'COMPLETED', due_at = NULL, over_at = now() WHERE id = 'first'`, `VACUUM ANALYZE sagas`, `CHECKPOINT`,
	} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// quantile is the nearest rank: a figure that was measured.
func quantile(d []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[(len(sorted)*percent+99)/100-1]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
