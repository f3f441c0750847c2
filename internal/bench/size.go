package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/internal/localdb"
)

// sized is a ledger that has had some life before.
type sized struct {
	postings int
	server   *localdb.Postgres
	db       *bank

	rates, cpu []float64
}

// benchSize compares posting into a table of 10^7 entries with one of 10^5. Each
// has a server of its own, so that neither's cache is the other's.
func benchSize(ctx context.Context, s *settings, w io.Writer) (err error) {
	field := []*sized{{postings: 50_000}, {postings: 5_000_000}}
	for _, f := range field {
		if err := f.open(ctx); err != nil {
			return errors.Join(err, f.close(ctx))
		}
		defer func() { err = errors.Join(err, f.close(ctx)) }()
	}
	for n := range s.rounds + 1 { // as in [rounds]
		for _, f := range field {
			if err := f.round(ctx, s.span); err != nil {
				return err
			}
			if n == 0 {
				f.rates, f.cpu = nil, nil
			}
		}
	}
	fmt.Fprintf(w, "\n## Posting into a large ledger, PostgreSQL, fsync on\n\nMedians of %d interleaved rounds of %v, after one to warm up, batches of 100 from 4 callers, uniform over %d accounts.\n\n",
		s.rounds, s.span, accounts)
	fmt.Fprintln(w, "| entries before | transfers/s | PostgreSQL CPU a transfer | × |\n|---|---|---|---|")
	for _, f := range field {
		fmt.Fprintf(w, "| %d | %.0f | %.1f µs | %.2f |\n", 2*f.postings, median(f.rates), median(f.cpu), median(f.cpu)/median(field[0].cpu))
	}
	return nil
}

func (f *sized) open(ctx context.Context) (err error) {
	if f.server, err = localdb.StartPostgres(ctx, localdb.Options{Settings: map[string]string{"shared_buffers": "2GB", "max_wal_size": "8GB"}}); err != nil {
		return err
	}
	if f.db, err = newBank(ctx, f.server.URL()); err != nil {
		return err
	}
	// Every account of the first half has debited one of the second, again and
	// again, so that versions and balances are as if it had been posted.
	for _, sql := range []string{
		fmt.Sprintf(`INSERT INTO ledger_transactions (id, seq, fingerprint, verdict, posting, at)
SELECT 'old' || k, k - 5000000, substr(sha256(convert_to(k::text, 'UTF8')), 1, 16), 0, 0, now() FROM generate_series(0, %d) k`, f.postings-1),
		fmt.Sprintf(`INSERT INTO ledger_postings (seq, posting, debit_no, credit_no, debit_version, credit_version, at, amount, debit_balance, credit_balance, transaction_id)
SELECT k - 5000000, 0, 1 + k %% %[1]d, 1 + %[1]d + k %% %[1]d, 1 + k / %[1]d, 1 + k / %[1]d, now(), 100, -100 * (1 + k / %[1]d), 100 * (1 + k / %[1]d), 'old' || k
FROM generate_series(0, %[2]d) k`, accounts/2, f.postings-1),
		fmt.Sprintf(`UPDATE ledger_accounts SET debits = CASE WHEN no <= %[1]d THEN n * 100 ELSE 0 END, credits = CASE WHEN no > %[1]d THEN n * 100 ELSE 0 END, version = n
FROM (SELECT %[2]d / %[1]d AS n) n WHERE no <= 2 * %[1]d`, accounts/2, f.postings),
	} {
		if _, err := f.db.pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("fill %d: %w", f.postings, err)
		}
	}
	return f.db.touch(ctx)
}

func (f *sized) close(ctx context.Context) error {
	if f.db != nil {
		f.db.pool.Close()
	}
	if f.server == nil {
		return nil
	}
	return f.server.Close(context.WithoutCancel(ctx))
}

func (f *sized) round(ctx context.Context, span time.Duration) error {
	if _, err := f.db.pool.Exec(ctx, "CHECKPOINT"); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var posted atomic.Int64
	cpu, start := cpuOf(f.server.Pid()), time.Now()
	if err := posts(4, 100)(limited, f.db, false, &posted); err != nil && limited.Err() == nil {
		return err
	}
	n := float64(posted.Load())
	f.rates = append(f.rates, n/time.Since(start).Seconds())
	f.cpu = append(f.cpu, float64((cpuOf(f.server.Pid())-cpu).Microseconds())/n)
	return nil
}
