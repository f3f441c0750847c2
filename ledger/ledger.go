package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/safetill/safetill/internal/absent"
)

// Ledger is a double-entry ledger over a [Store]. It is safe for concurrent use
// and holds no state of its own. Make one with [New]; the zero value is not usable.
type Ledger struct {
	store  Store
	scales map[string]uint8
}

// Options are the optional settings of a [Ledger].
type Options struct {
	// Currencies adds to the currencies of ISO 4217: a code of 1 to 12 upper
	// case letters and digits, and its decimal places, 0 to 30. A code of ISO
	// 4217 keeps its own. All processes of a ledger must give the same, for ever:
	// to accounts that were opened with other decimal places nothing can be posted.
	// Default: none.
	Currencies map[string]uint8
}

// New returns a ledger over store. It does not touch the store. Its error joins
// an [*InputError] for each fault.
func New(store Store, o *Options) (*Ledger, error) {
	var faults []error
	if absent.Is(store) {
		faults = append(faults, &InputError{Field: "store", Reason: "is nil"})
	}
	if o == nil {
		o = &Options{}
	}
	l := &Ledger{store: store, scales: iso4217}
	if len(o.Currencies) > 0 {
		l.scales = maps.Clone(iso4217)
	}
	for _, code := range slices.Sorted(maps.Keys(o.Currencies)) {
		if err := checkCurrency(code, o.Currencies[code]); err != nil {
			faults = append(faults, err)
		}
		l.scales[code] = o.Currencies[code]
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return l, nil
}

const maxScale = 30 // decimal places that a currency can have

func checkCurrency(code string, scale uint8) error {
	field := fmt.Sprintf("Options.Currencies[%q]", code)
	if iso, ok := iso4217[code]; ok && iso != scale {
		return &InputError{Field: field, Reason: fmt.Sprintf("has %d decimal places in ISO 4217, not %d", iso, scale)}
	}
	if scale > maxScale {
		return &InputError{Field: field, Reason: "has more than 30 decimal places"}
	}
	if len(code) == 0 || len(code) > 12 {
		return &InputError{Field: field, Reason: "is not 1 to 12 characters"}
	}
	for _, c := range code {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return &InputError{Field: field, Reason: "has other characters than A-Z and 0-9"}
		}
	}
	return nil
}

// Open opens accounts, all or none. Opening one again with the same properties
// does nothing, so it is safe to repeat; with others it is an
// [*AccountExistsError]. Bad input is an [*InputError] for each fault, joined.
// Cost: one commit.
func (l *Ledger) Open(ctx context.Context, accounts ...Account) error {
	states := make([]State, 0, len(accounts))
	var faults []error
	for i, a := range accounts {
		s, err := l.state(fmt.Sprintf("accounts[%d].", i), a)
		if err != nil {
			faults = append(faults, err)
		}
		states = append(states, s)
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	if len(states) == 0 {
		return nil
	}
	return l.store.Open(ctx, states)
}

func (l *Ledger) state(field string, a Account) (State, error) {
	var faults []error
	fault := func(part, reason string) {
		faults = append(faults, &InputError{Field: field + part, Reason: reason})
	}
	if err := checkID(field+"ID", string(a.ID)); err != nil {
		faults = append(faults, err)
	}
	if a.Normal != Debit && a.Normal != Credit {
		fault("Normal", "is neither Debit nor Credit")
	}
	s := State{ID: a.ID, Currency: a.Currency, Normal: a.Normal}
	var known bool
	if s.Scale, known = l.scales[a.Currency]; !known {
		fault("Currency", fmt.Sprintf("%q is unknown", a.Currency))
	}
	if a.Floor != nil && known {
		switch floor, err := AmountOf(*a.Floor, s.Scale); {
		case errors.Is(err, ErrOverScale):
			fault("Floor", "has more decimal places than the currency")
		case err != nil:
			fault("Floor", fmt.Sprintf("has more than %d digits", MaxDigits))
		case floor.Sign() > 0:
			fault("Floor", "is above 0, where the account starts")
		default:
			s.Floor = &floor
		}
	}
	return s, errors.Join(faults...)
}

// Post decides on up to [MaxBatch] transactions in order and writes down what
// was decided, in one commit. Results are in the order of txs; look at each one's
// Verdict or Err. A repeat within the batch is a duplicate like any other.
//
// An error means that no result is known: the store failed, and posting the
// same batch again is safe. More than [MaxBatch] are an [*InputError]. Cost: one commit, however many transactions there
// are. Where one has an id of a chain before it in the batch, or is a chain with an
// id from before it, the batch goes on behind it in another commit; and one that
// has an id of the batch with other content has one of its own.
func (l *Ledger) Post(ctx context.Context, txs []Transaction) ([]Result, error) {
	if len(txs) > MaxBatch {
		return nil, &InputError{Field: "txs", Reason: fmt.Sprintf("has %d transactions, more than %d", len(txs), MaxBatch)}
	}
	b := l.newBatch(txs)
	if len(b.drafts) == 0 { // then nothing repeats an id of it either
		return b.results, nil
	}
	outcomes, err := l.store.Post(ctx, b.drafts)
	if err != nil {
		return nil, fmt.Errorf("ledger: post %d transactions: %w", len(b.drafts), err)
	}
	if len(outcomes) != len(b.drafts) {
		return nil, fmt.Errorf("ledger: store gave %d outcomes for %d drafts", len(outcomes), len(b.drafts))
	}
	b.settle(outcomes)
	for _, i := range b.later {
		if err := l.postRest(ctx, txs[i:i+1], b.results[i:i+1]); err != nil {
			return nil, err
		}
	}
	if err := l.postRest(ctx, txs[b.rest:], b.results[b.rest:]); err != nil {
		return nil, err
	}
	return b.results, nil
}

// postRest posts what had to wait for the commit of what came before it.
func (l *Ledger) postRest(ctx context.Context, txs []Transaction, into []Result) error {
	if len(txs) == 0 {
		return nil
	}
	results, err := l.Post(ctx, txs)
	copy(into, results)
	return err
}

// PostOne is [Ledger.Post] of one transaction, with a refusal as a
// [*VerdictError]. Where many are at hand, one Post is far cheaper.
func (l *Ledger) PostOne(ctx context.Context, tx Transaction) (Result, error) {
	results, err := l.Post(ctx, []Transaction{tx})
	if err != nil {
		return Result{ID: tx.ID}, err
	}
	return results[0], results[0].Err()
}

// Balances returns the balances of accounts, in the order of ids, as of one
// moment; an unknown one is an [*UnknownAccountError]. Cost: one round trip.
func (l *Ledger) Balances(ctx context.Context, ids ...AccountID) ([]Balance, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	states, err := l.states(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("ledger: balances: %w", err)
	}
	balances := make([]Balance, len(ids))
	for i, s := range states {
		balances[i] = Balance{
			Account: s.ID, Currency: s.Currency, Normal: s.Normal, Version: s.Version,
			Debits: s.Debits.Decimal(s.Scale), Credits: s.Credits.Decimal(s.Scale), Posted: s.Balance().Decimal(s.Scale),
			HeldDebits: s.HeldDebits.Decimal(s.Scale), HeldCredits: s.HeldCredits.Decimal(s.Scale),
			Available: s.Available().Decimal(s.Scale),
		}
	}
	return balances, nil
}

// states returns the accounts, or an [*UnknownAccountError].
func (l *Ledger) states(ctx context.Context, ids ...AccountID) ([]*State, error) {
	for _, id := range ids {
		if checkID("", string(id)) != nil { // no account has it, and not every database takes it
			return nil, &UnknownAccountError{ID: id}
		}
	}
	states, err := l.store.States(ctx, ids)
	if err != nil {
		return nil, err
	}
	for i, s := range states {
		if s == nil {
			return nil, &UnknownAccountError{ID: ids[i]}
		}
	}
	return states, nil
}

// entryPage is how many entries are read at a time.
const entryPage = 500

// Entries yields an account's entries with versions above after, oldest first;
// 0 begins at the first. It reads pages of 500, so entries that are posted while it
// runs are seen too. An unknown account is an [*UnknownAccountError]. Cost: one round
// trip, and one for each page.
func (l *Ledger) Entries(ctx context.Context, account AccountID, after int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		states, err := l.states(ctx, account)
		if err != nil {
			yield(Entry{}, fmt.Errorf("ledger: entries: %w", err))
			return
		}
		scale := states[0].Scale
		for version := after; ; {
			page, err := l.store.Lines(ctx, account, version, entryPage)
			if err != nil {
				yield(Entry{}, fmt.Errorf("ledger: entries of %q after %d: %w", account, version, err))
				return
			}
			for _, r := range page {
				if !yield(r.entry(account, scale), nil) {
					return
				}
				version = r.Version
			}
			if len(page) < entryPage {
				return
			}
		}
	}
}

func (r *Recorded) entry(account AccountID, scale uint8) Entry {
	return Entry{
		Account: account, Version: r.Version, Transaction: r.Transaction, Posting: r.Posting, Side: r.Side,
		Amount: r.Amount.Decimal(scale), Balance: r.Balance.Decimal(scale), Contra: r.Contra, At: r.At,
	}
}

// Verify proves that the ledger adds up: in every currency debits equal
// credits, every account's totals are the sum of its entries, and its entries
// are numbered 1 to its version; and where the store is a [Sealer], that nothing
// which was sealed has been changed, added or removed since. It reads every entry,
// as of one moment, and what is sealed, side by side where the store has a method
// Concurrent() bool that says so, without holding up those who post, but in memory.
// Contradictions are in the report, not in the error.
func (l *Ledger) Verify(ctx context.Context) (Report, error) {
	var r Report
	var seal Seal
	var broken *Seal
	entries := func() (err error) {
		r, err = l.store.Verify(ctx)
		return err
	}
	seals := func() (err error) {
		if s, ok := l.store.(Sealer); ok {
			seal, broken, err = s.VerifySeals(ctx)
		}
		return err
	}
	if err := l.both(entries, seals); err != nil {
		return Report{}, fmt.Errorf("ledger: verify: %w", err)
	}
	r.Seal, r.Broken = seal, broken
	return r, nil
}

// both asks the store twice, at once where it can do that.
func (l *Ledger) both(one, other func() error) error {
	if c, ok := l.store.(interface{ Concurrent() bool }); !ok || !c.Concurrent() {
		if err := one(); err != nil {
			return err
		}
		return other()
	}
	var wg sync.WaitGroup
	var fault error
	wg.Go(func() { fault = other() })
	err := one()
	wg.Wait()
	return errors.Join(err, fault)
}
