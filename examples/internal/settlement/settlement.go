package settlement

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/saga"
)

// Accounts are where the money is, and where it goes.
type Accounts struct {
	From, To ledger.AccountID
	Currency string
}

// Order is the data of the saga.
type Order struct {
	Amount  decimal.Decimal `json:"amount"`
	Receipt string          `json:"receipt,omitempty"` // the bank's
}

// Bank pays. It has an effect once per key.
type Bank interface {
	// Pay returns the bank's receipt. It returns [ErrDeclined] if the bank says no; any
	// other error may mean that it has paid.
	Pay(ctx context.Context, key string, amount decimal.Decimal) (receipt string, err error)
	// Find returns the receipt of a payment, or "" if there is none and the key will
	// not be paid for later either.
	Find(ctx context.Context, key string) (receipt string, err error)
}

// ErrDeclined is the bank's no.
var ErrDeclined = errors.New("the bank declines")

// define makes the saga, over a store whose transactions are Tx.
func define[Tx any](a Accounts, in func(Tx) (*ledger.Ledger, error), bank Bank) (*saga.Definition[Order], error) {
	post := func(kind ledger.Kind, step, of string) saga.TxFunc[Order, Tx] {
		return func(ctx context.Context, tx Tx, o *Order) error {
			l, err := in(tx)
			if err != nil {
				return err
			}
			id := saga.CallFrom(ctx).SagaID
			t := ledger.Transaction{ID: entry(id, step), Kind: kind}
			if of != "" {
				t.Of = entry(id, of)
			} else {
				t.Postings = []ledger.Posting{{Debit: a.To, Credit: a.From, Amount: o.Amount, Currency: a.Currency}}
				t.If = []ledger.Condition{{Account: a.From, Available: &o.Amount}}
				account := ledger.Account{ID: a.To, Currency: a.Currency, Normal: ledger.Debit}
				if err := l.Open(ctx, account); err != nil {
					return err
				}
			}
			_, err = l.PostOne(ctx, t)
			if _, refused := errors.AsType[*ledger.VerdictError](err); refused {
				return saga.Reject(err)
			}
			return err
		}
	}
	pay := func(ctx context.Context, o *Order) (err error) {
		o.Receipt, err = bank.Pay(ctx, saga.CallFrom(ctx).Key(), o.Amount)
		if errors.Is(err, ErrDeclined) {
			return saga.Reject(err)
		}
		return saga.InDoubt(err)
	}
	find := func(ctx context.Context, o *Order) (saga.Outcome, error) {
		receipt, err := bank.Find(ctx, saga.CallFrom(ctx).DoKey())
		o.Receipt = receipt
		switch {
		case err != nil:
			return saga.Unknown, err
		case receipt == "":
			return saga.NeverApplied, nil
		}
		return saga.Applied, nil
	}
	return saga.Define("settlement", 1,
		saga.StepTx("hold", post(ledger.KindHold, "hold", "")).Undo(post(ledger.KindRelease, "release", "hold")),
		saga.Pivot("pay", pay).Verify(find).Idempotent().Timeout(10*time.Second).Retry(saga.Retry{Attempts: 100, Max: time.Minute}),
		saga.RetriableTx("capture", post(ledger.KindCapture, "capture", "hold")),
	)
}

func entry(id, step string) ledger.TransactionID {
	return ledger.TransactionID(fmt.Sprintf("settlement:%s:%s", id, step))
}

// Settlement is one as its clients see it.
type Settlement struct {
	ID      string          `json:"settlement"`
	Status  saga.Status     `json:"status"`
	Step    string          `json:"step,omitempty"`
	Amount  decimal.Decimal `json:"amount"`
	Receipt string          `json:"receipt,omitempty"`
	Reason  string          `json:"reason,omitempty"`
}

// Service settles.
type Service struct {
	engine *saga.Engine
	order  *saga.Definition[Order]
	log    *slog.Logger
}

// New returns a service on a store of sagas whose transactions are Tx; in returns
// the ledger within one. nil options of the engine are its defaults. [Service.Run]
// must run.
func New[Tx any](store saga.Store, o *saga.Options, a Accounts, in func(Tx) (*ledger.Ledger, error), bank Bank) (*Service, error) {
	order, err := define(a, in, bank)
	if err != nil {
		return nil, err
	}
	options := *cmp.Or(o, &saga.Options{})
	options.Definitions = []saga.Registered{order}
	engine, err := saga.New(store, &options)
	if err != nil {
		return nil, err
	}
	return &Service{engine, order, options.Logger}, nil
}

// Run settles until ctx ends and the steps under way are done.
func (s *Service) Run(ctx context.Context) error { return s.engine.Run(ctx) }

// Admin is for the settlements that need a person.
func (s *Service) Admin() *saga.Admin { return s.engine.Admin() }

// Begin begins a settlement; what it returns is durable. It may be repeated.
func (s *Service) Begin(ctx context.Context, id string, amount decimal.Decimal) error {
	_, err := s.order.Start(ctx, s.engine, id, Order{Amount: amount}, nil)
	return err
}

// Find returns a settlement, or [saga.ErrNotFound].
func (s *Service) Find(ctx context.Context, id string) (Settlement, error) {
	rec, err := s.engine.Admin().Inspect(ctx, id)
	if err != nil {
		return Settlement{}, err
	}
	o, err := s.order.Data(rec)
	return Settlement{ID: rec.ID, Status: rec.Status, Step: rec.Step(), Amount: o.Amount, Receipt: o.Receipt, Reason: rec.Error}, err
}
