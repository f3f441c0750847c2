package pglock_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/pglock"
)

// New takes a pool of the locker's own: nothing is dialled until the first lock is taken.
func ExampleNew() {
	pool, err := pgxpool.New(context.Background(), "postgres://127.0.0.1:5432/shop?pool_max_conns=16")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	locker, err := pglock.New(pool, &pglock.Options{Wait: -1})
	fmt.Println(locker != nil, err)
	// Output: true <nil>
}

// A lock of any kind, here on the connection, and a transaction that its late holder cannot commit. This needs a server, so it
// is compiled and not run.
func ExampleFence_Pass() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://127.0.0.1:5432/shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	locker, err := pglock.New(pool, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fence := pglock.NewFence(nil)
	err = locker.Do(ctx, "tenant-7", "account/42", func(ctx context.Context, held lock.Held) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if err := fence.Pass(ctx, tx, "tenant-7", "account/42", held.Token); err != nil {
				return err // lock.ErrStale rolls back
			}
			_, err := tx.Exec(ctx, `UPDATE accounts SET balance = balance - 80 WHERE id = 42 AND balance >= 80`)
			return err
		})
	})
	if err != nil {
		fmt.Println(err)
	}
}

// NewFence names the schema, where the search_path does not.
func ExampleNewFence() {
	fence := pglock.NewFence(&pglock.FenceOptions{Schema: "payments"})
	fmt.Println(fence != nil)
	// Output: true
}

// Two accounts stay locked until the transfer is committed. This needs a server, so it is compiled and not run.
func ExampleInTx() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://127.0.0.1:5432/shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := pglock.InTx(ctx, tx, 2*time.Second, "tenant-7", "account/42", "account/43"); err != nil {
			return err // lock.ErrHeld: payment in progress
		}
		_, err := tx.Exec(ctx, `UPDATE accounts SET balance = balance + CASE id WHEN 43 THEN 80 ELSE -80 END WHERE id IN (42, 43)`)
		return err
	})
	if err != nil {
		fmt.Println(err)
	}
}
