package ledger_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// fields returns the fields of all InputErrors in err, which is nothing but those, joined.
func fields(t *testing.T, err error) (names []string) {
	t.Helper()
	var walk func(error)
	walk = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				walk(e)
			}
			return
		}
		e, ok := errors.AsType[*ledger.InputError](err)
		require.True(t, ok, "%v", err)
		require.NotEmpty(t, e.Reason)
		names = append(names, e.Field)
	}
	if err != nil {
		walk(err)
	}
	return names
}

func TestNewNamesEveryFault(t *testing.T) {
	t.Parallel()
	store := ledger.NewMemory(nil)
	for _, c := range []struct {
		store ledger.Store
		o     *ledger.Options
		want  []string
	}{
		{store, nil, nil},
		{store, &ledger.Options{}, nil},
		{store, &ledger.Options{Currencies: map[string]uint8{"ETH": 18, "BTC": 8, "NGN": 2, "LOYALTY2026X": 0, "X": 30}}, nil},
		{nil, nil, []string{"store"}},
		{(*ledger.Memory)(nil), nil, []string{"store"}},
		{nil, &ledger.Options{Currencies: map[string]uint8{"eth": 18}}, []string{"store", `Options.Currencies["eth"]`}},
		{store, &ledger.Options{Currencies: map[string]uint8{"": 2, "ABCDEFGHIJKLM": 2, "A-B": 2, "ETH": 31, "NGN": 3, "OK": 1, "É": 2}}, []string{
			`Options.Currencies[""]`, `Options.Currencies["A-B"]`, `Options.Currencies["ABCDEFGHIJKLM"]`, `Options.Currencies["ETH"]`,
			`Options.Currencies["NGN"]`, `Options.Currencies["É"]`,
		}},
	} {
		l, err := ledger.New(c.store, c.o)
		require.Equal(t, c.want, fields(t, err), "%v", err)
		require.Equal(t, err == nil, l != nil)
	}
}

func TestOpenNamesEveryFault(t *testing.T) {
	t.Parallel()
	store := ledger.NewMemory(nil)
	l, err := ledger.New(store, &ledger.Options{Currencies: map[string]uint8{"ETH": 18}})
	require.NoError(t, err)
	floor := func(s string) *decimal.Decimal { return new(decimal.RequireFromString(s)) }
	good := ledger.Account{ID: "good", Currency: "ETH", Normal: ledger.Debit, Floor: floor("-0.000000000000000001")}
	for _, c := range []struct {
		account ledger.Account
		want    []string
	}{
		{ledger.Account{}, []string{"ID", "Normal", "Currency"}},
		{ledger.Account{ID: "x", Currency: "NGN", Normal: 3}, []string{"Normal"}},
		{ledger.Account{ID: "x", Currency: "ngn", Normal: ledger.Debit}, []string{"Currency"}},
		{ledger.Account{ID: "x", Currency: "BTC", Normal: ledger.Debit}, []string{"Currency"}},
		{ledger.Account{ID: "x", Currency: "BTC", Normal: ledger.Debit, Floor: floor("0.01")}, []string{"Currency"}},
		{ledger.Account{ID: "x", Currency: "NGN", Normal: ledger.Debit, Floor: floor("0.01")}, []string{"Floor"}},
		{ledger.Account{ID: "x", Currency: "NGN", Normal: ledger.Debit, Floor: floor("-0.001")}, []string{"Floor"}},
		{ledger.Account{ID: "x", Currency: "NGN", Normal: ledger.Debit, Floor: floor("-1e37")}, []string{"Floor"}},
		{ledger.Account{ID: "a\x7fb", Currency: "NGN", Normal: ledger.Debit, Floor: floor("1")}, []string{"ID", "Floor"}},
		{ledger.Account{ID: ledger.AccountID(strings.Repeat("x", 129)), Currency: "NGN", Normal: ledger.Debit}, []string{"ID"}},
		{ledger.Account{ID: "\xc3", Currency: "NGN", Normal: ledger.Debit}, []string{"ID"}},
	} {
		err := l.Open(t.Context(), good, c.account, good)
		var want []string
		for _, field := range c.want {
			want = append(want, "accounts[1]."+field)
		}
		require.Equal(t, want, fields(t, err), "%v", err)
	}
	err = l.Open(t.Context(), ledger.Account{ID: "x", Currency: "NGN", Normal: ledger.Debit, Floor: floor("-0.001")})
	require.EqualError(t, err, "ledger: accounts[0].Floor has more decimal places than the currency")
	_, err = l.Balances(t.Context(), "good")
	require.ErrorIs(t, err, ledger.ErrUnknownAccount, "nothing was written")
	require.NoError(t, l.Open(t.Context()))
	require.NoError(t, l.Open(t.Context(), good))
}

func TestVerdictsHaveANameAndAnError(t *testing.T) {
	t.Parallel()
	all := map[ledger.Verdict]struct {
		name string
		err  error
	}{
		ledger.InvalidID:         {"invalid_id", ledger.ErrInvalidID},
		ledger.InvalidPostings:   {"invalid_postings", ledger.ErrInvalidPostings},
		ledger.SameAccount:       {"same_account", ledger.ErrSameAccount},
		ledger.UnknownCurrency:   {"unknown_currency", ledger.ErrUnknownCurrency},
		ledger.InvalidAmount:     {"invalid_amount", ledger.ErrInvalidAmount},
		ledger.OverScale:         {"over_scale", ledger.ErrOverScale},
		ledger.Overflow:          {"overflow", ledger.ErrOverflow},
		ledger.InvalidKind:       {"invalid_kind", ledger.ErrInvalidKind},
		ledger.LinkFailed:        {"link_failed", ledger.ErrLinkFailed},
		ledger.Conflict:          {"conflict", ledger.ErrConflict},
		ledger.UnknownTarget:     {"unknown_target", ledger.ErrUnknownTarget},
		ledger.TargetClosed:      {"target_closed", ledger.ErrTargetClosed},
		ledger.HoldExpired:       {"hold_expired", ledger.ErrHoldExpired},
		ledger.NotHeld:           {"not_held", ledger.ErrNotHeld},
		ledger.ConditionFailed:   {"condition_failed", ledger.ErrConditionFailed},
		ledger.UnknownAccount:    {"unknown_account", ledger.ErrUnknownAccount},
		ledger.CurrencyMismatch:  {"currency_mismatch", ledger.ErrCurrencyMismatch},
		ledger.BalanceOverflow:   {"balance_overflow", ledger.ErrBalanceOverflow},
		ledger.InsufficientFunds: {"insufficient_funds", ledger.ErrInsufficientFunds},
	}
	require.Equal(t, "posted", ledger.Posted.String())
	require.NoError(t, ledger.Result{ID: "x"}.Err())
	for v := ledger.Posted + 1; int(v) <= len(all); v++ {
		want, ok := all[v]
		require.True(t, ok, "%d is a gap", v)
		require.Equal(t, want.name, v.String())
		err := ledger.Result{ID: "tx", Verdict: v, Posting: 3}.Err()
		for other, o := range all {
			require.Equal(t, other == v, errors.Is(err, o.err), "%v is %v", err, o.err)
		}
		e, ok := errors.AsType[*ledger.VerdictError](err)
		require.True(t, ok)
		require.Equal(t, &ledger.VerdictError{ID: "tx", Verdict: v, Posting: 3}, e)
		require.Contains(t, err.Error(), `transaction "tx"`)
	}
	unknown := ledger.Verdict(200)
	require.Equal(t, "verdict(200)", unknown.String())
	require.Error(t, ledger.Result{Verdict: unknown}.Err())
	require.NotContains(t, ledger.Result{Verdict: unknown}.Err().Error(), "nil")
}

func TestARefusalNamesThePostingThatItIsAbout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ledger.Result
		want string
	}{
		{ledger.Result{ID: "tx", Verdict: ledger.InvalidAmount, Posting: 3}, `transaction "tx", posting 3: ledger: amount must be more than 0`},
		{ledger.Result{ID: "tx", Verdict: ledger.UnknownAccount}, `transaction "tx", posting 0: ledger: unknown account`},
		{
			ledger.Result{ID: "tx", Verdict: ledger.InvalidID, Posting: 1, Fault: &ledger.InputError{Field: "Postings[1].Credit", Reason: "is empty"}},
			`transaction "tx": ledger: invalid id: Postings[1].Credit is empty`,
		},
		{ledger.Result{Verdict: ledger.InvalidID}, `transaction "": ledger: invalid id`},
		{ledger.Result{ID: "tx", Verdict: ledger.InvalidPostings}, `transaction "tx": ledger: no postings, or too many`},
		{ledger.Result{ID: "tx", Verdict: ledger.Conflict}, `transaction "tx": ledger: id is taken by other content`},
		{ledger.Result{ID: "tx", Verdict: ledger.TargetClosed}, `transaction "tx": ledger: captured, released or reversed before`},
	} {
		require.EqualError(t, c.Err(), c.want)
	}
}

func TestAMalformedTransactionNamesTheField(t *testing.T) {
	t.Parallel()
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	require.NoError(t, err)
	target := func(kind ledger.Kind, of ledger.TransactionID) func(*ledger.Transaction) {
		return func(tx *ledger.Transaction) { tx.Kind, tx.Of, tx.Postings = kind, of, nil }
	}
	for _, c := range []struct {
		spoil func(tx *ledger.Transaction)
		want  string
	}{
		{func(tx *ledger.Transaction) { tx.ID = "" }, "ID is empty"},
		{func(tx *ledger.Transaction) { tx.ID = ledger.TransactionID(strings.Repeat("x", 129)) }, "ID is longer than 128 bytes"},
		{func(tx *ledger.Transaction) { tx.Postings[1].Debit = "a\x00" }, "Postings[1].Debit has a control character"},
		{func(tx *ledger.Transaction) { tx.Postings[1].Credit = "\xff" }, "Postings[1].Credit is not valid UTF-8"},
		{func(tx *ledger.Transaction) { ask(tx, 1, ledger.Condition{}) }, "If[0].Account is empty"},
		{target(ledger.KindCapture, ""), "Of is empty"},
		{func(tx *ledger.Transaction) { tx.Postings = nil }, "Postings is empty"},
		{func(tx *ledger.Transaction) { tx.Kind, tx.Of = ledger.KindRelease, "hold" }, "Postings is not empty, but the kind has none"},
		{func(tx *ledger.Transaction) { tx.Postings = slices.Repeat(tx.Postings, 5000) }, "Postings has 10000 postings, more than 8192"},
		{func(tx *ledger.Transaction) { ask(tx, 8193, available(decimal.New(1, 0))) }, "If has 8193 conditions, more than 8192"},
		{func(tx *ledger.Transaction) { tx.Postings[1].Credit = "x" }, "Postings[1].Credit is the same account as Debit"},
		{func(tx *ledger.Transaction) { tx.Postings[1].Currency = "ngn" }, `Postings[1].Currency "ngn" is unknown`},
		{func(tx *ledger.Transaction) { tx.Postings[1].Amount = decimal.Zero }, "Postings[1].Amount is not more than 0"},
		{func(tx *ledger.Transaction) { grow(tx, 1, decimal.New(1, -3)) }, "Postings[1].Amount has more decimal places than the currency"},
		{func(tx *ledger.Transaction) { grow(tx, 1, decimal.New(1, 36)) }, "Postings[1].Amount has more than 38 digits"},
		{func(tx *ledger.Transaction) { ask(tx, 1, available(decimal.New(1, -31))) }, "If[0].Available has more than 30 decimal places"},
		{func(tx *ledger.Transaction) { ask(tx, 1, available(decimal.New(1, 38))) }, "If[0].Available has more than 38 digits"},
		{func(tx *ledger.Transaction) { tx.Kind = 9 }, "Kind 9 is unknown"},
		{func(tx *ledger.Transaction) { tx.Of = "hold" }, "Of is not empty, but the kind refers to nothing"},
		{target(ledger.KindReverse, "tx"), "Of is the transaction itself"},
		{func(tx *ledger.Transaction) { tx.Kind, tx.Expires = ledger.KindHold, -time.Second }, "Expires is negative"},
		{func(tx *ledger.Transaction) { tx.Kind, tx.Expires = ledger.KindHold, 1 }, "Expires is not in whole microseconds"},
		{func(tx *ledger.Transaction) { tx.Expires = time.Second }, "Expires is not 0, but the kind is no hold"},
		{func(tx *ledger.Transaction) { tx.Linked = true }, "Linked is set, but no transaction follows"},
	} {
		tx := ledger.Transaction{ID: "tx", Postings: slices.Repeat([]ledger.Posting{
			{Debit: "x", Credit: "y", Currency: "NGN", Amount: decimal.New(1, 0)},
		}, 2)}
		c.spoil(&tx)
		r, err := l.PostOne(t.Context(), tx)
		require.NotNil(t, r.Fault, c.want)
		require.Equal(t, c.want, r.Fault.Field+" "+r.Fault.Reason)
		require.ErrorContains(t, err, c.want)
		require.True(t, r.At.IsZero())
	}
	one := ledger.Transaction{ID: "one", Linked: true, Postings: []ledger.Posting{{Debit: "x", Credit: "y", Currency: "NGN", Amount: decimal.New(1, 0)}}}
	same := one
	same.Linked = false
	results, err := l.Post(t.Context(), []ledger.Transaction{one, same})
	require.NoError(t, err)
	require.EqualError(t, results[1].Err(), `transaction "one": ledger: invalid kind, target, expiry or chain: ID is that of another one of its chain`)
	require.Nil(t, results[0].Fault)
}

func TestSidesHaveNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"invalid side", "debit", "credit", "invalid side"},
		[]string{ledger.Side(0).String(), ledger.Debit.String(), ledger.Credit.String(), ledger.Side(3).String()})
}

// faults make a transaction malformed, each in one way: the posting of index i where the fault is of a posting.
var faults = []struct {
	verdict ledger.Verdict
	posting bool
	add     func(tx *ledger.Transaction, i int)
}{
	{ledger.InvalidID, false, func(tx *ledger.Transaction, _ int) { tx.ID = "" }},
	{ledger.InvalidID, false, func(tx *ledger.Transaction, _ int) { ask(tx, 1, ledger.Condition{}) }},
	{ledger.InvalidID, true, func(tx *ledger.Transaction, i int) { tx.Postings[i].Debit = "" }},
	{ledger.InvalidPostings, false, func(tx *ledger.Transaction, _ int) { ask(tx, ledger.MaxPostings+1, ledger.Condition{Account: "x"}) }},
	{ledger.SameAccount, true, func(tx *ledger.Transaction, i int) { tx.Postings[i].Credit = tx.Postings[i].Debit }},
	{ledger.UnknownCurrency, true, func(tx *ledger.Transaction, i int) { tx.Postings[i].Currency = "XXX" }},
	{ledger.InvalidAmount, true, func(tx *ledger.Transaction, i int) { tx.Postings[i].Amount = tx.Postings[i].Amount.Abs().Neg() }},
	{ledger.OverScale, true, func(tx *ledger.Transaction, i int) { grow(tx, i, decimal.New(1, -3)) }},
	{ledger.OverScale, false, func(tx *ledger.Transaction, _ int) { ask(tx, 1, available(decimal.New(1, -31))) }},
	{ledger.Overflow, true, func(tx *ledger.Transaction, i int) { grow(tx, i, decimal.New(1, 36)) }},
	{ledger.Overflow, false, func(tx *ledger.Transaction, _ int) { ask(tx, 1, available(decimal.New(-1, 38))) }},
	{ledger.InvalidKind, false, func(tx *ledger.Transaction, _ int) { tx.Expires = 1 }},
}

func ask(tx *ledger.Transaction, times int, c ledger.Condition) {
	tx.If = append(tx.If, slices.Repeat([]ledger.Condition{c}, times)...)
}

func available(d decimal.Decimal) ledger.Condition {
	return ledger.Condition{Account: "x", Available: &d}
}

// grow moves the amount away from 0.
func grow(tx *ledger.Transaction, i int, by decimal.Decimal) {
	a := &tx.Postings[i].Amount
	*a = a.Add(by.Mul(decimal.New(int64(a.Sign()), 0)))
}

// Of two faults the one whose verdict stands first counts, wherever it is, and of two of one verdict the first posting's.
func TestVerdictsOfTheMalformedStandInOrder(t *testing.T) {
	t.Parallel()
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	require.NoError(t, err)
	for a, one := range faults {
		for b, other := range faults {
			for i := range 3 { // the posting of the one; that of the other is 1
				tx := ledger.Transaction{ID: "tx", Postings: slices.Repeat([]ledger.Posting{
					{Debit: "x", Credit: "y", Currency: "NGN", Amount: decimal.New(1, 0)},
				}, 3)}
				one.add(&tx, i)
				other.add(&tx, 1)
				want := ledger.Result{ID: tx.ID, Verdict: min(one.verdict, other.verdict)}
				switch {
				case one.verdict == other.verdict && one.posting && other.posting:
					want.Posting = min(i, 1)
				case one.verdict < other.verdict && one.posting:
					want.Posting = i
				case other.verdict < one.verdict && other.posting:
					want.Posting = 1
				}
				results, err := l.Post(t.Context(), []ledger.Transaction{tx})
				require.NoError(t, err)
				require.NotNil(t, results[0].Fault)
				want.Fault = results[0].Fault
				require.Equal(t, want, results[0], "fault %d in posting %d and fault %d in posting 1", a, i, b)
			}
		}
	}
}

// What is asked of an account is part of the fingerprint, and is compared with the balance while others wait: 1 followed by a billion zeros
// must cost nothing there, as it costs nothing in a posting.
func TestConditionsAreNoLongerThanBalances(t *testing.T) {
	t.Parallel()
	l, err := ledger.New(ledger.NewMemory(nil), &ledger.Options{Currencies: map[string]uint8{"FINE": 30}})
	require.NoError(t, err)
	require.NoError(t, l.Open(t.Context(),
		ledger.Account{ID: "x", Currency: "FINE", Normal: ledger.Debit}, ledger.Account{ID: "y", Currency: "FINE", Normal: ledger.Credit}))
	for i, c := range []struct {
		asked decimal.Decimal
		want  ledger.Verdict
	}{
		{decimal.New(-1, 37), ledger.Posted},
		{decimal.New(-1, -30), ledger.Posted},
		{decimal.New(1, -30), ledger.Posted},
		{decimal.New(1, 37), ledger.ConditionFailed},
		{decimal.New(-1, 38), ledger.Overflow},
		{decimal.New(1, 1_000_000_000), ledger.Overflow},
		{decimal.New(-1, 1_000_000_000), ledger.Overflow},
		{decimal.New(0, 1_000_000_000), ledger.Overflow},
		{decimal.New(1, -31), ledger.OverScale},
		{decimal.New(1, -1_000_000_000), ledger.OverScale},
		{decimal.New(0, -1_000_000_000), ledger.OverScale},
	} {
		results, err := l.Post(t.Context(), []ledger.Transaction{{
			ID: ledger.TransactionID(fmt.Sprint(i)), If: []ledger.Condition{available(c.asked)},
			Postings: []ledger.Posting{{Debit: "x", Credit: "y", Amount: decimal.New(1, 0), Currency: "FINE"}},
		}})
		require.NoError(t, err)
		require.Equal(t, c.want, results[0].Verdict, "case %d", i)
	}
}

// The most is allowed, and one more is not.
func TestTheMostThatATransactionHas(t *testing.T) {
	t.Parallel()
	l, _ := newGroup(t, ledger.NewMemory(nil), nil)
	for name, c := range map[string]struct {
		most int
		add  func(*ledger.Transaction, int)
	}{
		"postings":   {ledger.MaxPostings, func(tx *ledger.Transaction, n int) { tx.Postings = slices.Repeat(tx.Postings, n) }},
		"conditions": {ledger.MaxPostings, func(tx *ledger.Transaction, n int) { ask(tx, n, ledger.Condition{Account: "shop"}) }},
		"id":         {ledger.MaxIDLength, func(tx *ledger.Transaction, n int) { tx.ID = ledger.TransactionID(strings.Repeat("x", n)) }},
	} {
		most, more := pay("most "+name), pay("more "+name)
		c.add(&most, c.most)
		c.add(&more, c.most+1)
		_, err := l.PostOne(t.Context(), most)
		require.NoError(t, err, name)
		_, err = l.PostOne(t.Context(), more)
		require.Error(t, err, name)
	}
	_, err := l.Post(t.Context(), make([]ledger.Transaction, ledger.MaxBatch))
	require.NoError(t, err)
	_, err = l.Post(t.Context(), make([]ledger.Transaction, ledger.MaxBatch+1))
	require.ErrorAs(t, err, new(*ledger.InputError))
}
