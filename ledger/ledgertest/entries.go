package ledgertest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

func testEntries(t *testing.T, f *fixture) {
	const n = 1203 // more than two pages
	var txs []ledger.Transaction
	for i := range n {
		if i%3 == 2 {
			txs = append(txs, move(fmt.Sprint("t", i), wallet(0), wallet(1), "0.50"))
		} else {
			txs = append(txs, move(fmt.Sprint("t", i), "bank", wallet(0), "1"))
		}
	}
	f.want(t, ledger.Posted, txs...)

	version, balance := int64(0), decimal.Zero
	for e, err := range f.Entries(t.Context(), wallet(0), 0) {
		if err != nil {
			t.Fatal(err)
		}
		i := int(version)
		version++
		want := ledger.Entry{Side: ledger.Credit, Contra: "bank", Amount: decimal.New(1, 0)}
		if i%3 == 2 {
			want = ledger.Entry{Side: ledger.Debit, Contra: wallet(1), Amount: decimal.New(5, -1)}
			balance = balance.Sub(want.Amount)
		} else {
			balance = balance.Add(want.Amount)
		}
		if e.Version != version || e.Transaction != txs[i].ID || e.Account != wallet(0) || e.Side != want.Side ||
			e.Contra != want.Contra || !e.Amount.Equal(want.Amount) || !e.Balance.Equal(balance) || e.At.IsZero() {
			t.Fatalf("entry %d: %+v, balance should be %s", version, e, balance)
		}
	}
	if version != n {
		t.Fatalf("%d entries, want %d", version, n)
	}
	seen := 0
	for e, err := range f.Entries(t.Context(), wallet(0), n-2) {
		if err != nil || e.Version != n-1 {
			t.Fatalf("entry after %d: %+v, %v", n-2, e, err)
		}
		seen++
		break // stopping early is allowed
	}
	for e, err := range f.Entries(t.Context(), wallet(0), n) {
		t.Fatalf("entry after the last: %+v, %v", e, err)
	}
	for e, err := range f.Entries(t.Context(), wallet(0), -9) {
		if err != nil || e.Version != 1 {
			t.Fatalf("entry after -9: %+v, %v", e, err)
		}
		break
	}
	if page, err := f.store.Lines(t.Context(), "nobody", 0, 10); err != nil || len(page) != 0 {
		t.Fatalf("lines of an unknown account: %+v, %v", page, err)
	}
	for _, err := range f.Entries(t.Context(), "nobody", 0) {
		if !errors.Is(err, ledger.ErrUnknownAccount) {
			t.Fatalf("entries of an unknown account: %v", err)
		}
		seen++
	}
	if seen != 2 {
		t.Fatalf("%d of 2 things seen", seen)
	}
	f.verify(t)
}

func testFullBatch(t *testing.T, f *fixture) {
	var txs []ledger.Transaction
	for i := range ledger.MaxBatch {
		txs = append(txs, move(fmt.Sprint("t", i), "bank", wallet(i%wallets), "0.01"))
	}
	f.want(t, ledger.Posted, txs...)
	f.balance(t, "bank", "81.92", ledger.MaxBatch)
	_, err := f.Post(t.Context(), append(txs, move("more", "bank", wallet(0), "1")))
	if input, ok := errors.AsType[*ledger.InputError](err); !ok || input.Field != "txs" {
		t.Fatalf("a batch too long: %v", err)
	}
	if r := f.verify(t); r.Entries != 2*ledger.MaxBatch {
		t.Fatalf("%d entries", r.Entries)
	}
}
