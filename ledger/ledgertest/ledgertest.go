// Package ledgertest is the test of a [ledger.Store]: a backend that passes
// [Run] keeps the guarantees of package ledger.
//
//	func TestStore(t *testing.T) {
//		ledgertest.Run(t, func(t testing.TB) ledger.Store { return mystore.New(t.TempDir()) })
//	}
//
// [Flaky] makes any store fail, for tests of what uses a ledger.
//
// It needs the standard library and decimal only.
package ledgertest

import (
	"fmt"
	"testing"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// Run runs the suite. newStore returns an empty store that lives until the end
// of the test it is given; it is called once for each part of the suite, from
// several goroutines.
func Run(t *testing.T, newStore func(testing.TB) ledger.Store) {
	t.Helper()
	for _, part := range []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"Open", testOpen},
		{"Verdicts", testVerdicts},
		{"NeighboursOfABadOne", testNeighbours},
		{"AllPostingsOrNone", testAllOrNone},
		{"FloorAtTheEndOfATransaction", testFloorAtEnd},
		{"PostedOnce", testPostedOnce},
		{"RefusalIsPermanent", testRefusalIsPermanent},
		{"RepeatWithinABatch", testRepeatWithinBatch},
		{"OtherContentUnderOneID", testConflict},
		{"CommittedThenReportedFailed", testLostAnswer},
		{"Holds", testHolds},
		{"HoldRefusals", testHoldRefusals},
		{"HoldExpiry", testHoldExpiry},
		{"ExpireHolds", testExpireHolds},
		{"HoldClosedOnce", testHoldClosedOnce},
		{"Reverse", testReverse},
		{"Conditions", testConditions},
		{"Chains", testChains},
		{"ChainFaults", testChainFaults},
		{"BehindARepeat", testBehindARepeat},
		{"DecimalPlaces", testDecimalPlaces},
		{"LowestFloor", testLowestFloor},
		{"BigAmounts", testBigAmounts},
		{"BalanceOverflow", testBalanceOverflow},
		{"Entries", testEntries},
		{"OddIDs", testOddIDs},
		{"ImpossibleIDs", testImpossibleIDs},
		{"FullBatch", testFullBatch},
		{"TwoDebitsOneBalance", testTwoDebits},
		{"SameBatchTwiceAtOnce", testSameBatchAtOnce},
		{"OppositeOrders", testOppositeOrders},
		{"ManyAtOnce", testManyAtOnce},
		{"AgainstTheModel", testModel},
		{"AgainstTheModelWithFaults", testModelWithFaults},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.test(t, newFixture(t, newStore(t)))
		})
	}
}

// fixture is a ledger with a few accounts in NGN: "bank" grows by debits and
// has no floor, "wallet:0" to "wallet:7" grow by credits and cannot fall below 0.
type fixture struct {
	*ledger.Ledger
	store ledger.Store
}

const wallets = 8

func wallet(n int) ledger.AccountID { return ledger.AccountID(fmt.Sprintf("wallet:%d", n)) }

func newFixture(t testing.TB, store ledger.Store) *fixture {
	t.Helper()
	l, err := ledger.New(store, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Ledger: l, store: store}
	accounts := []ledger.Account{{ID: "bank", Currency: "NGN", Normal: ledger.Debit}}
	for n := range wallets {
		accounts = append(accounts, ledger.Account{ID: wallet(n), Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)})
	}
	if err := l.Open(t.Context(), accounts...); err != nil {
		t.Fatalf("open: %v", err)
	}
	return f
}

// move is a transaction of one posting in NGN.
func move(id string, debit, credit ledger.AccountID, amount string) ledger.Transaction {
	return ledger.Transaction{ID: ledger.TransactionID(id), Postings: []ledger.Posting{ngn(debit, credit, amount)}}
}

func ngn(debit, credit ledger.AccountID, amount string) ledger.Posting {
	return ledger.Posting{Debit: debit, Credit: credit, Amount: decimal.RequireFromString(amount), Currency: "NGN"}
}

func (f *fixture) post(t testing.TB, txs ...ledger.Transaction) []ledger.Result {
	t.Helper()
	results, err := f.Post(t.Context(), txs)
	if err != nil {
		t.Fatalf("post: %v", err)
	}
	if len(results) != len(txs) {
		t.Fatalf("%d results for %d transactions", len(results), len(txs))
	}
	for i, r := range results {
		if r.ID != txs[i].ID {
			t.Fatalf("result %d is of %q, not of %q", i, r.ID, txs[i].ID)
		}
	}
	return results
}

// want posts the transactions and checks their verdicts.
func (f *fixture) want(t testing.TB, verdict ledger.Verdict, txs ...ledger.Transaction) []ledger.Result {
	t.Helper()
	results := f.post(t, txs...)
	for i, r := range results {
		if r.Verdict != verdict {
			t.Fatalf("transaction %d, %q: %v, want %v", i, r.ID, r.Verdict, verdict)
		}
	}
	return results
}

// balance checks what an account has, and its version.
func (f *fixture) balance(t testing.TB, id ledger.AccountID, posted string, version int64) {
	t.Helper()
	b, err := f.Balances(t.Context(), id)
	if err != nil {
		t.Fatalf("balance: %v", err)
	}
	if !b[0].Posted.Equal(decimal.RequireFromString(posted)) || b[0].Version != version {
		t.Fatalf("%s has %s at version %d, want %s at %d", id, b[0].Posted, b[0].Version, posted, version)
	}
}

func (f *fixture) verify(t testing.TB) ledger.Report {
	t.Helper()
	r, err := f.Verify(t.Context())
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	for _, b := range r.Breaks {
		t.Errorf("verify: %v", b)
	}
	return r
}
