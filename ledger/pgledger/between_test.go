package pgledger_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
)

// between does something when a batch has looked at its accounts and is about to write without a lock, and notes whether it then takes locks.
type between struct {
	do     func()
	done   atomic.Bool
	locked atomic.Bool
}

func (b *between) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		if strings.Contains(q.SQL, "WITH moved AS") && !b.done.Swap(true) {
			b.do()
		}
		if strings.Contains(q.SQL, "FOR NO KEY UPDATE") {
			b.locked.Store(true)
		}
	}
	return ctx
}

func (*between) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (*between) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData)     {}
func (*between) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (*between) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// A row that has moved is mostly noticed by its place. It may be back there, so each thing that a batch goes by is compared by itself. The
// accounts are read for the batch here: no place is known.
func TestWhateverABatchGoesByIsCompared(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	f := openOn(t, newPool(t, url, func(*pgxpool.Config) {}))
	for name, change := range map[string]string{
		"nothing":      "",
		"version":      "version = 1",
		"debits":       "debits = 1",
		"credits":      "credits = 1",
		"held debits":  "held_debits = 1",
		"held credits": "held_credits = 1",
		"floor":        "floor = -1",
		"no floor":     "floor = NULL",
		"id":           "id = 'another'",
	} {
		account := ledger.AccountID(name)
		require.NoError(t, f.Open(t.Context(), ledger.Account{ID: account, Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.New(-1, 0))}))
		spy := &between{do: func() {
			if change != "" {
				exec(t, f.pool, "UPDATE ledger_accounts SET "+change+" WHERE id = $1", name)
			}
		}}
		l := on(t, newPool(t, url, func(c *pgxpool.Config) { c.ConnConfig.Tracer = spy }))
		r, err := l.Post(t.Context(), []ledger.Transaction{move(name, "bank", account, "1")})
		require.NoError(t, err, name)
		require.True(t, spy.done.Load(), name)
		require.Equal(t, change != "", spy.locked.Load(), "%s: %+v", name, r)
	}
}
