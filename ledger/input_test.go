package ledger_test

import (
	"errors"
	"strings"
	"testing"

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
		require.Contains(t, err.Error(), `"tx", posting 3`)
	}
	unknown := ledger.Verdict(200)
	require.Equal(t, "verdict(200)", unknown.String())
	require.Error(t, ledger.Result{Verdict: unknown}.Err())
	require.NotContains(t, ledger.Result{Verdict: unknown}.Err().Error(), "nil")
}

func TestSidesHaveNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"invalid side", "debit", "credit", "invalid side"},
		[]string{ledger.Side(0).String(), ledger.Debit.String(), ledger.Credit.String(), ledger.Side(3).String()})
}
