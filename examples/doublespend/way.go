package main

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"
)

// payment asks to take an amount from an account. A repeat of it has the same request.
type payment struct {
	request, account string
	amount           int64 // in minor units
}

// verdict is the answer to a payment. A repeat must get the same one.
type verdict string

const (
	paid     verdict = "paid"
	declined verdict = "declined" // there is not enough on the account
)

// errBusy says that another was first, and nothing has happened: ask again.
var errBusy = errors.New("payment in progress, ask again")

// payer is one way of paying, on one server. Its error is errBusy, or what broke.
type payer interface {
	pay(ctx context.Context, p payment) (verdict, error)
}

// way is what is compared.
type way struct {
	name, title string
	unsafe      string // how it loses money, where it does
	tables      string // SQL beyond the tables that all have
	setUp       func(context.Context, *pgxpool.Pool) error
	open        func(*server) (payer, error)
	books       func(*pgxpool.Pool) (books, error) // default: sqlBooks
}

// ways in the order of the table: the counter-example, and the five with their variants.
var ways = []way{
	{name: "none", title: "none", open: openNone, unsafe: "reads a balance and writes another"},
	{name: "key", title: "idempotency key, Redis", open: openKey},
	{name: "keytx", title: "idempotency key, one commit", open: openKeyTx, setUp: setUpKeyTx},
	{name: "unique", title: "database uniqueness", open: openUnique, tables: uniqueTables},
	{name: "lock", title: "lock on Redis, fence", open: openLock},
	{name: "locktx", title: "lock in the transaction", open: openLockTx},
	{name: "redsync", title: "lock on 3 Redis, no fence", open: openRedsync, unsafe: "a holder that wakes up late writes over others"},
	{name: "version", title: "optimistic version", open: openVersion},
	{name: "events", title: "event sourcing", open: openEvents, setUp: setUpEvents, books: openLedgerBooks},
	{name: "group", title: "event sourcing, grouped", open: openGroup, setUp: setUpEvents, books: openLedgerBooks},
}

func names() []string {
	all := make([]string, len(ways))
	for i, w := range ways {
		all[i] = w.name
	}
	return all
}

func wayNamed(name string) (way, bool) {
	i := slices.IndexFunc(ways, func(w way) bool { return w.name == name })
	if i < 0 {
		return way{}, false
	}
	return ways[i], true
}
