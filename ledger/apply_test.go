package ledger_test

import (
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// nines is the most that an account's side can hold.
var nines = strings.Repeat("9", ledger.MaxDigits)

func minor(tb testing.TB, s string) ledger.Amount {
	tb.Helper()
	a, err := ledger.ParseMinor(s)
	require.NoError(tb, err)
	return a
}

type accounts map[ledger.AccountID]*ledger.State

// newAccounts: x has no floor, y and z cannot fall below 0, low not below −100, full has 10 left before its totals overflow, usd is in
// another currency.
func newAccounts(tb testing.TB) accounts {
	tb.Helper()
	zero, low := ledger.Minor(0), ledger.Minor(-100)
	full, _ := minor(tb, nines).Sub(ledger.Minor(10))
	m := accounts{}
	for _, s := range []ledger.State{
		{ID: "x", Normal: ledger.Debit},
		{ID: "y", Normal: ledger.Credit, Floor: &zero},
		{ID: "z", Normal: ledger.Debit, Floor: &zero},
		{ID: "low", Normal: ledger.Credit, Floor: &low},
		{ID: "full", Normal: ledger.Credit, Debits: full, Credits: full, Version: 7},
		{ID: "usd", Normal: ledger.Debit, Currency: "USD"},
	} {
		if s.Currency == "" {
			s.Currency = "NGN"
		}
		s.Scale = 2
		m[s.ID] = &s
	}
	return m
}

func (m accounts) copy() map[ledger.AccountID]ledger.State {
	c := map[ledger.AccountID]ledger.State{}
	for id, s := range m {
		c[id] = *s
	}
	return c
}

func draft(postings ...ledger.DraftPosting) *ledger.Draft {
	return &ledger.Draft{ID: "tx", Postings: postings}
}

func ngn(debit, credit ledger.AccountID, amount int64) ledger.DraftPosting {
	return ledger.DraftPosting{Debit: debit, Credit: credit, Amount: ledger.Minor(amount), Currency: "NGN", Scale: 2}
}

func TestApply(t *testing.T) {
	t.Parallel()
	usd := ngn("x", "y", 1)
	usd.Currency = "USD"
	huge := ngn("x", "y", 1)
	huge.Amount = minor(t, nines)
	for name, c := range map[string]struct {
		draft   *ledger.Draft
		verdict ledger.Verdict
		posting int
	}{
		"one posting":                         {draft(ngn("x", "y", 5)), ledger.Posted, 0},
		"unknown debit":                       {draft(ngn("nobody", "y", 5)), ledger.UnknownAccount, 0},
		"unknown credit, second posting":      {draft(ngn("x", "y", 5), ngn("x", "nobody", 5)), ledger.UnknownAccount, 1},
		"account in another currency":         {draft(ngn("x", "usd", 5)), ledger.CurrencyMismatch, 0},
		"posting in another currency":         {draft(ngn("x", "y", 1), usd), ledger.CurrencyMismatch, 1},
		"below the floor":                     {draft(ngn("y", "x", 1)), ledger.InsufficientFunds, 0},
		"below the floor of a debit account":  {draft(ngn("x", "z", 1)), ledger.InsufficientFunds, 0},
		"on the floor":                        {draft(ngn("low", "x", 100)), ledger.Posted, 0},
		"below a negative floor":              {draft(ngn("low", "x", 101)), ledger.InsufficientFunds, 0},
		"below the floor in between":          {draft(ngn("y", "x", 5), ngn("x", "y", 5)), ledger.Posted, 0},
		"below the floor at last":             {draft(ngn("x", "y", 5), ngn("x", "z", 1), ngn("y", "x", 4)), ledger.InsufficientFunds, 1},
		"the last that fits":                  {draft(ngn("full", "x", 10), ngn("x", "full", 10)), ledger.Posted, 0},
		"overflow of debits":                  {draft(ngn("full", "x", 11)), ledger.BalanceOverflow, 0},
		"overflow of credits, after others":   {draft(ngn("x", "y", 1), ngn("x", "full", 9), ngn("x", "full", 2)), ledger.BalanceOverflow, 2},
		"overflow of the debit side by huge":  {draft(huge, huge), ledger.BalanceOverflow, 1},
		"unknown comes before the floor":      {draft(ngn("y", "x", 1), ngn("nobody", "x", 1)), ledger.UnknownAccount, 1},
		"unknown comes before a mismatch":     {draft(usd, ngn("nobody", "x", 1)), ledger.UnknownAccount, 1},
		"unknown condition before a mismatch": {&ledger.Draft{ID: "t", Postings: []ledger.DraftPosting{usd}, If: []ledger.DraftCondition{{Account: "nobody"}}}, ledger.UnknownAccount, 0},
		"the first mismatch is named":         {draft(usd, ngn("x", "usd", 1)), ledger.CurrencyMismatch, 0},
		"unknown condition, not a posting":    {&ledger.Draft{ID: "t", Postings: []ledger.DraftPosting{ngn("x", "y", 1), usd}, If: []ledger.DraftCondition{{Account: "nobody"}}}, ledger.UnknownAccount, 0},
		"unknown posting before a condition":  {&ledger.Draft{ID: "t", Postings: []ledger.DraftPosting{ngn("x", "y", 1), ngn("nobody", "y", 1)}, If: []ledger.DraftCondition{{Account: "nobody"}}}, ledger.UnknownAccount, 1},
		"a target where there are none":       {&ledger.Draft{ID: "t", Kind: ledger.KindReverse, Of: "other"}, ledger.UnknownTarget, 0},
		"unknown comes before a condition":    {&ledger.Draft{ID: "t", Postings: []ledger.DraftPosting{ngn("x", "y", 1)}, If: []ledger.DraftCondition{{Account: "nobody"}, {Account: "x", Version: new(int64(99))}}}, ledger.UnknownAccount, 0},
		"mismatch comes before a condition":   {&ledger.Draft{ID: "t", Postings: []ledger.DraftPosting{usd}, If: []ledger.DraftCondition{{Account: "x", Version: new(int64(99))}}}, ledger.CurrencyMismatch, 0},
		"condition comes before the floor":    {&ledger.Draft{ID: "t", Postings: []ledger.DraftPosting{ngn("y", "x", 1)}, If: []ledger.DraftCondition{{Account: "x", Version: new(int64(99))}}}, ledger.ConditionFailed, 0},
		"overflow comes before the floor":     {draft(ngn("y", "x", 1), ngn("full", "x", 11)), ledger.BalanceOverflow, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newAccounts(t)
			before := m.copy()
			earlier := []ledger.Line{{Amount: ledger.Minor(77)}}
			lines, verdict, posting := (&ledger.Book{Accounts: m}).Apply(c.draft, earlier)
			require.Equal(t, c.verdict, verdict)
			require.Equal(t, c.posting, posting)
			require.Equal(t, ledger.Minor(77), lines[0].Amount)
			if verdict == ledger.Posted {
				require.Len(t, lines, 1+len(c.draft.Postings))
				return
			}
			require.Len(t, lines, 1)
			require.Equal(t, before, m.copy())
		})
	}
}

// What is referred to must have been done, be of the right kind and still be open; what is taken from it is refused by the number of the
// posting that asks for it.
func TestApplyToATarget(t *testing.T) {
	t.Parallel()
	const end = 1000 // seconds
	held := []ledger.DraftPosting{ngn("x", "y", 5), ngn("x", "full", 11)}
	target := func(kind ledger.Kind, verdict ledger.Verdict) *ledger.Target {
		return &ledger.Target{Kind: kind, Verdict: verdict, Postings: held, Expires: time.Unix(end, 0)}
	}
	hold := target(ledger.KindHold, ledger.Posted)
	usd := held[0]
	usd.Currency = "USD"
	capture := func(postings ...ledger.DraftPosting) *ledger.Draft {
		return &ledger.Draft{ID: "t", Kind: ledger.KindCapture, Of: "target", Postings: postings}
	}
	unknown := capture(ngn("x", "y", 6))
	unknown.If = []ledger.DraftCondition{{Account: "nobody"}}
	release := &ledger.Draft{ID: "t", Kind: ledger.KindRelease, Of: "target"}
	reverse := &ledger.Draft{ID: "t", Kind: ledger.KindReverse, Of: "target"}
	for name, c := range map[string]struct {
		target  *ledger.Target
		draft   *ledger.Draft
		now     time.Time
		verdict ledger.Verdict
		posting int
	}{
		"just before its end":              {hold, capture(held[0]), time.Unix(end, -1), ledger.Posted, 0},
		"at its end":                       {hold, capture(held[0]), time.Unix(end, 0), ledger.HoldExpired, 0},
		"given up at its end":              {hold, release, time.Unix(end, 0), ledger.Posted, 0},
		"capture of what was refused":      {target(ledger.KindHold, ledger.InsufficientFunds), capture(held[0]), time.Time{}, ledger.UnknownTarget, 0},
		"release of what was refused":      {target(ledger.KindHold, ledger.InsufficientFunds), release, time.Time{}, ledger.UnknownTarget, 0},
		"reversal of what was refused":     {target(ledger.KindPost, ledger.InsufficientFunds), reverse, time.Time{}, ledger.UnknownTarget, 0},
		"reversal of a release":            {target(ledger.KindRelease, ledger.Posted), reverse, time.Time{}, ledger.UnknownTarget, 0},
		"not held, and a condition":        {hold, unknown, time.Time{}, ledger.NotHeld, 0},
		"of another debit account":         {hold, capture(ngn("low", "y", 1)), time.Time{}, ledger.NotHeld, 0},
		"of another credit account":        {hold, capture(ngn("x", "low", 1)), time.Time{}, ledger.NotHeld, 0},
		"in another currency":              {hold, capture(usd), time.Time{}, ledger.NotHeld, 0},
		"one posting of a hold twice":      {hold, capture(held[0], held[0]), time.Time{}, ledger.NotHeld, 1},
		"overflow at the second of a hold": {hold, capture(), time.Time{}, ledger.BalanceOverflow, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newAccounts(t)
			for _, p := range held {
				m[p.Debit].HeldDebits, _ = m[p.Debit].HeldDebits.Add(p.Amount)
				m[p.Credit].HeldCredits, _ = m[p.Credit].HeldCredits.Add(p.Amount)
			}
			before, target := m.copy(), *c.target
			b := &ledger.Book{Accounts: m, Now: c.now, Target: func(ledger.TransactionID) *ledger.Target { return &target }}
			_, verdict, posting := b.Apply(c.draft, nil)
			require.Equal(t, c.verdict, verdict)
			require.Equal(t, c.posting, posting)
			require.Equal(t, verdict == ledger.Posted, target.Closed)
			if verdict != ledger.Posted {
				require.Equal(t, before, m.copy())
			}
		})
	}
}

// sides sums each currency's debits and credits, of all accounts, with integers of any size.
func (m accounts) sides(tb testing.TB) map[string][2]string {
	tb.Helper()
	sums := map[string][2]*big.Int{}
	for _, s := range m {
		if sums[s.Currency][0] == nil {
			sums[s.Currency] = [2]*big.Int{new(big.Int), new(big.Int)}
		}
		for i, a := range []ledger.Amount{s.Debits, s.Credits} {
			n, ok := new(big.Int).SetString(a.String(), 10)
			require.True(tb, ok)
			sums[s.Currency][i].Add(sums[s.Currency][i], n)
		}
	}
	texts := map[string][2]string{}
	for currency, s := range sums {
		texts[currency] = [2]string{s[0].String(), s[1].String()}
	}
	return texts
}

// applyOne applies d and checks all that must hold afterwards, whatever it was.
func applyOne(tb testing.TB, m accounts, d *ledger.Draft) ledger.Verdict {
	tb.Helper()
	before := m.copy()
	lines, verdict, posting := (&ledger.Book{Accounts: m}).Apply(d, nil)
	if verdict != ledger.Posted {
		require.Empty(tb, lines)
		require.Equal(tb, before, m.copy(), "%v left a trace", verdict)
		require.Less(tb, posting, len(d.Postings))
		return verdict
	}
	require.Len(tb, lines, len(d.Postings))
	versions := map[*ledger.State]int64{}
	last := map[*ledger.State]ledger.Amount{}
	for _, l := range lines {
		for _, side := range []struct {
			s       *ledger.State
			version int64
			balance ledger.Amount
		}{{l.Debit, l.DebitVersion, l.DebitBalance}, {l.Credit, l.CreditVersion, l.CreditBalance}} {
			versions[side.s]++
			require.Equal(tb, before[side.s.ID].Version+versions[side.s], side.version)
			last[side.s] = side.balance
		}
	}
	for s, n := range versions {
		require.Equal(tb, before[s.ID].Version+n, s.Version)
		require.Equal(tb, last[s], s.Balance())
		require.True(tb, s.Floor == nil || s.Balance().Cmp(*s.Floor) >= 0, "%s is below its floor", s.ID)
	}
	for currency, sums := range m.sides(tb) {
		require.Equal(tb, sums[0], sums[1], currency)
	}
	return verdict
}

// draftFrom makes a well-formed draft of what next gives: numbers from 0 to below n.
func draftFrom(next func(n int) int) *ledger.Draft {
	names := []ledger.AccountID{"x", "y", "z", "low", "full", "usd", "nobody"}
	sizes := []string{"1", "9", "50", "1000", "123456789012345678901234567890", "5" + strings.Repeat("0", ledger.MaxDigits-1)}
	d := &ledger.Draft{ID: "tx"}
	for range 1 + next(4) {
		debit := next(len(names))
		credit := (debit + 1 + next(len(names)-1)) % len(names)
		amount, _ := ledger.ParseMinor(sizes[next(len(sizes))])
		p := ledger.DraftPosting{Debit: names[debit], Credit: names[credit], Amount: amount, Currency: "NGN", Scale: 2}
		if next(16) == 0 {
			p.Currency = "USD"
		}
		d.Postings = append(d.Postings, p)
	}
	return d
}

func TestApplyKeepsItsInvariants(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	seen := map[ledger.Verdict]int{}
	for range 200 {
		m := newAccounts(t)
		for range 30 {
			seen[applyOne(t, m, draftFrom(r.IntN))]++
		}
	}
	t.Logf("%v", seen)
	for _, v := range []ledger.Verdict{
		ledger.Posted, ledger.UnknownAccount, ledger.CurrencyMismatch, ledger.BalanceOverflow, ledger.InsufficientFunds,
	} {
		require.NotZero(t, seen[v], v)
	}
}

func FuzzApply(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1})
	f.Add([]byte{3, 1, 0, 2, 1, 0, 3, 1, 1, 4, 5, 5, 1, 4, 0, 5, 1})
	f.Add([]byte(strings.Repeat("\x00\x00\x04\x05\x01", 20)))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newAccounts(t)
		next := func(n int) int {
			if len(data) == 0 {
				return 0
			}
			b := int(data[0]) % n
			data = data[1:]
			return b
		}
		for steps := 0; len(data) > 0 && steps < 64; steps++ {
			applyOne(t, m, draftFrom(next))
		}
	})
}
