package pgsaga_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/sagatest"
)

// counted is a store with a table for the effects of its transactions.
type counted struct{ fixture }

func openCounted(tb testing.TB) counted {
	f := open(tb)
	_, err := f.pool.Exec(tb.Context(), `CREATE TABLE effects (id text NOT NULL)`)
	require.NoError(tb, err)
	return counted{f}
}

func (c counted) Effect(ctx context.Context, tx any, id string) error {
	_, err := tx.(pgx.Tx).Exec(ctx, `INSERT INTO effects (id) VALUES ($1)`, id)
	return err
}

func (c counted) Effects(ctx context.Context, id string) (n int, err error) {
	err = c.pool.QueryRow(ctx, `SELECT count(*) FROM effects WHERE id = $1`, id).Scan(&n)
	return n, err
}

func (c counted) InTx(ctx context.Context, work func(tx any) error) error {
	return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error { return work(tx) })
}

func TestContract(t *testing.T) {
	t.Parallel()
	sagatest.Run(t, func(tb testing.TB) saga.Store { return openCounted(tb) })
}

func TestEngine(t *testing.T) {
	t.Parallel()
	store := open(t)
	sagatest.RunEngine(t, func(testing.TB) saga.Store { return store }, 0)
}

// transfer is a payment through a bank whose funds are held in our own books.
type transfer struct {
	Amount int64
	Bank   string
}

// book writes a row, and the same one twice is an error.
func book(sign int64) saga.TxFunc[transfer, pgx.Tx] {
	return func(ctx context.Context, tx pgx.Tx, p *transfer) error {
		_, err := tx.Exec(ctx, `INSERT INTO books (saga, key, amount) VALUES ($1, $2, $3)`,
			saga.CallFrom(ctx).SagaID, saga.CallFrom(ctx).Key(), sign*p.Amount)
		return err
	}
}

func TestCrashAPaymentEverywhere(t *testing.T) {
	t.Parallel()
	f := open(t)
	_, err := f.pool.Exec(t.Context(), `CREATE TABLE books (saga text NOT NULL, key text PRIMARY KEY, amount bigint NOT NULL)`)
	require.NoError(t, err)
	got := sagatest.CrashEverywhere(t, sagatest.Scenario[transfer]{
		Store: func(testing.TB) saga.Store { return f }, Input: transfer{Amount: 100},
		Lease: 100 * time.Millisecond, Parallel: 16, Pairs: 40,
		Saga: func(w *sagatest.World) (*saga.Definition[transfer], []saga.Registered) {
			bank := w.Provider("bank")
			bank.Forgets = true
			return saga.MustDefine("payment", 1,
				saga.StepTx("hold", book(1)).Undo(book(-1)),
				saga.Step("bank", func(ctx context.Context, p *transfer) (err error) {
					p.Bank, err = bank.Do(ctx, saga.CallFrom(ctx).DoKey(), p.Amount)
					return err
				}).Undo(func(ctx context.Context, _ *transfer) error { return bank.Undo(ctx, saga.CallFrom(ctx).DoKey()) }).
					Verify(func(ctx context.Context, p *transfer) (o saga.Outcome, err error) {
						p.Bank, o, err = bank.Verify(ctx, saga.CallFrom(ctx).DoKey())
						return o, err
					}),
				saga.PivotTx("capture", book(1))), nil
		},
		Check: func(_ *sagatest.World, r saga.Result[transfer]) error {
			var sum int64
			if err := f.pool.QueryRow(context.Background(), `SELECT coalesce(sum(amount), 0) FROM books WHERE saga = $1`, r.ID).Scan(&sum); err != nil {
				return err
			}
			if want := map[saga.Status]int64{saga.Completed: 200}[r.Status]; sum != want {
				return fmt.Errorf("the books say %d, and not %d", sum, want)
			}
			return nil
		},
	})
	require.Greater(t, got.Runs, 100)
}

// purchase is the data of an order.
type purchase struct {
	Amount             int64
	Reserved, Charged  string
	Confirmed, Written bool
}

func TestCrashAnOrderEverywhere(t *testing.T) {
	t.Parallel()
	f := open(t)
	key := func(ctx context.Context) string { return saga.CallFrom(ctx).DoKey() }
	got := sagatest.CrashEverywhere(t, sagatest.Scenario[purchase]{
		Store: func(testing.TB) saga.Store { return f }, Input: purchase{Amount: 100}, Lease: 100 * time.Millisecond, Parallel: 16,
		Saga: func(w *sagatest.World) (*saga.Definition[purchase], []saga.Registered) {
			stock, bank, mail := w.Provider("stock"), w.Provider("bank"), w.Provider("mail")
			undo := func(p *sagatest.Provider) saga.Func[purchase] {
				return func(ctx context.Context, _ *purchase) error { return p.Undo(ctx, key(ctx)) }
			}
			return saga.MustDefine("order", 1,
				saga.Pure("validate", func(_ context.Context, p *purchase) error {
					if p.Amount <= 0 {
						return saga.Reject(errors.New("nothing to pay"))
					}
					return nil
				}),
				saga.Step("reserve", func(ctx context.Context, p *purchase) (err error) {
					p.Reserved, err = stock.Do(ctx, key(ctx), 1)
					return err
				}).Idempotent().Undo(undo(stock)),
				saga.Step("charge", func(ctx context.Context, p *purchase) (err error) {
					p.Charged, err = bank.Do(ctx, key(ctx), p.Amount)
					return err
				}).Undo(undo(bank)).Verify(func(ctx context.Context, p *purchase) (o saga.Outcome, err error) {
					p.Charged, o, err = bank.Verify(ctx, key(ctx))
					return o, err
				}),
				saga.Pivot("confirm", func(ctx context.Context, p *purchase) error {
					p.Confirmed = true
					_, err := stock.Do(ctx, key(ctx), 1)
					return err
				}).Idempotent(),
				saga.Retriable("notify", func(ctx context.Context, p *purchase) error {
					p.Written = true
					_, err := mail.Do(ctx, key(ctx), 1)
					return err
				})), nil
		},
	})
	require.Greater(t, got.Runs, 300)
}

// A saga that does two steps at once, has a child, sleeps, and waits for a signal. It waits often for the ends of leases: in memory, sagatest does
// the same in short.
func TestCrashASagaThatWaitsEverywhere(t *testing.T) {
	t.Parallel()
	if os.Getenv("SAFETILL_PROOF") != "full" {
		t.Skip("takes minutes; SAFETILL_PROOF=full runs it")
	}
	f := open(t)
	effect := func(w *sagatest.World, provider, name string) *saga.StepPart[purchase] {
		p := w.Provider(provider)
		return saga.Step(name, func(ctx context.Context, _ *purchase) error {
			_, err := p.Do(ctx, saga.CallFrom(ctx).DoKey(), 1)
			return err
		}).Idempotent().Undo(func(ctx context.Context, _ *purchase) error { return p.Undo(ctx, saga.CallFrom(ctx).DoKey()) })
	}
	got := sagatest.CrashEverywhere(t, sagatest.Scenario[purchase]{
		Store: func(testing.TB) saga.Store { return f }, Input: purchase{Amount: 100}, Lease: 100 * time.Millisecond, Parallel: 16, Pairs: 20,
		Drive: func(ctx context.Context, e *saga.Engine, id string) error { return e.Signal(ctx, id, "approve", "ann") },
		Saga: func(w *sagatest.World) (*saga.Definition[purchase], []saga.Registered) {
			child := saga.MustDefine("child", 1, effect(w, "courier", "book"), effect(w, "courier", "label"))
			return saga.MustDefine("waiting", 1,
				saga.Parallel("both", effect(w, "stock", "reserve"), effect(w, "bank", "charge")),
				saga.Child("ship", child,
					func(p *purchase) (purchase, error) { return *p, nil },
					func(_ *purchase, r saga.Result[purchase]) error { return saga.Reject(r.Err()) }).
					Undo(func(ctx context.Context, _ *purchase) error { // the courier takes both back
						courier, key := w.Provider("courier"), saga.CallFrom(ctx).DoKey()
						return errors.Join(courier.Undo(ctx, key+"/book"), courier.Undo(ctx, key+"/label"))
					}),
				saga.Sleep("rest", func(*purchase) time.Duration { return 50 * time.Millisecond }),
				saga.Await("approve", 10*time.Minute, func(p *purchase, by string) error {
					p.Charged = by
					return nil
				}),
				saga.Pivot("confirm", func(context.Context, *purchase) error { return nil }).Idempotent()), []saga.Registered{child}
		},
	})
	require.Greater(t, got.Runs, 200)
}
