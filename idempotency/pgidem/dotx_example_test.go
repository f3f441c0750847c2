package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

func ExampleNewTxGuard() {
	pool, err := pgxpool.New(context.Background(), "postgres://127.0.0.1:5432/shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	_, err = pgidem.NewTxGuard(pool, &pgidem.TxOptions{Isolation: pgx.Serializable})
	fmt.Println(err)
	_, err = pgidem.NewTxGuard(pool, &pgidem.TxOptions{Isolation: "snapshot", Attempts: -1})
	fmt.Println(err)
	// Output:
	// <nil>
	// idempotency: attempts is not positive
	// idempotency: isolation is not read committed, repeatable read or serializable
}

// A payment: the key, the postings, what else is written, and the receipt are one commit, so that a repeat gets the receipt
// and pays nothing, whatever was killed in between. This needs a server, so it is compiled and not run.
func ExampleDoTx() {
	type Receipt struct{ Number string }
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://127.0.0.1:5432/shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	guard, err := pgidem.NewTxGuard(pool, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	books := pgledger.NewStore(pool, nil)

	pay := func(key idempotency.Key, body []byte, amount decimal.Decimal) (idempotency.Result[Receipt], error) {
		return pgidem.DoTx(ctx, guard, key, idempotency.FingerprintOf(body), func(ctx context.Context, tx pgx.Tx) (Receipt, error) {
			l, err := ledger.New(books.In(tx), nil)
			if err != nil {
				return Receipt{}, err
			}
			id := key.ID("transfer") // also refuses the payment when the key is forgotten after its TTL
			posted, err := l.PostOne(ctx, ledger.Transaction{ID: ledger.TransactionID(id), Postings: []ledger.Posting{
				{Debit: "ada", Credit: "shop", Amount: amount, Currency: "NGN"},
			}})
			if posted.Verdict == ledger.InsufficientFunds {
				return Receipt{}, idempotency.Permanent(err) // the same for every repeat
			}
			if err != nil {
				return Receipt{}, err
			}
			_, err = tx.Exec(ctx, "UPDATE orders SET paid = true WHERE id = 42")
			return Receipt{Number: id}, err
		})
	}

	result, err := pay(idempotency.Key{Scope: "tenant-7", Op: "create-payment", Value: "k-1"}, []byte(`{"amount":"80.50"}`), decimal.RequireFromString("80.50"))
	switch {
	case errors.Is(err, idempotency.ErrInFlight):
		fmt.Println("409: it is being paid")
	case errors.Is(err, idempotency.ErrMismatch):
		fmt.Println("422: the key belongs to another payment")
	case err != nil:
		fmt.Println(err)
	default:
		fmt.Println(result.Value.Number, result.Replayed)
	}
}
