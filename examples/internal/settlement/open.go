package settlement

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// Options are a server's: where it settles from and to, and its bank.
type Options struct {
	Accounts Accounts
	Bank     FakeBank
	Log      *slog.Logger
}

// Flags adds the flags that set the bank.
func (o *Options) Flags(f *cli.Flags) {
	f.StringVar(&o.Bank.Book, "bank-book", "", "`file` in which the fake bank writes what it has paid; default: memory")
	f.Float64Var(&o.Bank.Trouble, "bank-trouble", 0, "share of the fake bank's calls that get no answer, 0 to 0.9; it has paid at every other")
}

// Demand refuses what is out of range.
func (o *Options) Demand(f *cli.Flags) {
	f.Demand(o.Bank.Trouble >= 0 && o.Bank.Trouble <= 0.9, "bank-trouble", "in 0..0.9")
}

// engine: a server that is told to stop has ten seconds for all.
func (o *Options) engine() *saga.Options { return &saga.Options{Drain: 3 * time.Second, Logger: o.Log} }

// InMemory settles from a ledger in memory.
func (o *Options) InMemory(l *ledger.Ledger) *Service {
	in := func(*saga.MemoryTx) (*ledger.Ledger, error) { return l, nil }
	return must(New(saga.NewMemory(nil), o.engine(), o.Accounts, in, &o.Bank))
}

// InPostgres settles from a ledger in PostgreSQL, whose schema [Prepare] has made.
func (o *Options) InPostgres(pool *pgxpool.Pool) *Service {
	books := pgledger.NewStore(pool, nil)
	in := func(tx pgx.Tx) (*ledger.Ledger, error) { return ledger.New(books.In(tx), nil) }
	return must(New(pgsaga.NewStore(pool, nil), o.engine(), o.Accounts, in, &o.Bank))
}

func must(s *Service, err error) *Service {
	if err != nil {
		panic(err) // only bad options are refused, and these are not
	}
	return s
}

// Prepare brings the schema of the sagas up to date, or else checks that it is.
func Prepare(ctx context.Context, pool *pgxpool.Pool, migrate bool) error {
	var err error
	if migrate {
		err = pgsaga.Migrate(ctx, pool, nil)
	}
	return errors.Join(err, pgsaga.NewStore(pool, nil).CheckSchema(ctx))
}
