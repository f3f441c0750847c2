package ledgertest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

func testOpen(t *testing.T, f *fixture) {
	euro := ledger.Account{ID: "euro", Currency: "EUR", Normal: ledger.Credit, Floor: new(decimal.New(-50, 0))}
	for range 2 { // the second time does nothing
		if err := f.Open(t.Context(), euro, euro); err != nil {
			t.Fatalf("open: %v", err)
		}
	}
	other := euro
	other.Floor = nil
	err := f.Open(t.Context(), ledger.Account{ID: "new", Currency: "EUR", Normal: ledger.Debit}, other)
	if exists, ok := errors.AsType[*ledger.AccountExistsError](err); !ok || exists.ID != "euro" {
		t.Fatalf("open with another floor: %v", err)
	}
	if _, err := f.Balances(t.Context(), "new"); !errors.Is(err, ledger.ErrUnknownAccount) {
		t.Fatalf("a refused Open opened its other account: %v", err)
	}
	testOpenAgain(t, f, euro)
	_, err = f.Balances(t.Context(), "bank", "nobody")
	if unknown, ok := errors.AsType[*ledger.UnknownAccountError](err); !ok || unknown.ID != "nobody" {
		t.Fatalf("balance of an unknown account: %v", err)
	}
	f.balance(t, "euro", "0", 0)
	f.verify(t)
}

// testOpenAgain opens what is open: nothing of it changes.
func testOpenAgain(t *testing.T, f *fixture, euro ledger.Account) {
	bank := ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit}
	same := ledger.Account{ID: wallet(0), Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.New(0, 3))}
	f.want(t, ledger.Posted, move("in", "bank", wallet(0), "1"))
	if err := f.Open(t.Context(), same, bank, same); err != nil {
		t.Fatalf("open accounts that have entries: %v", err)
	}
	f.balance(t, wallet(0), "1", 1)
	for name, edit := range map[string]func(*ledger.Account){
		"currency": func(a *ledger.Account) { a.Currency = "USD" },
		"side":     func(a *ledger.Account) { a.Normal = ledger.Debit },
		"floor":    func(a *ledger.Account) { a.Floor = new(decimal.New(-5001, -2)) },
		"no floor": func(a *ledger.Account) { a.Floor = nil },
	} {
		other, twice := euro, euro
		twice.ID = "twice"
		another := twice
		edit(&other)
		edit(&another)
		for _, accounts := range [][]ledger.Account{{other}, {twice, another}} {
			if err := f.Open(t.Context(), accounts...); !errors.As(err, new(*ledger.AccountExistsError)) {
				t.Errorf("open with another %s: %v", name, err)
			}
		}
		if _, err := f.Balances(t.Context(), "twice"); !errors.Is(err, ledger.ErrUnknownAccount) {
			t.Errorf("opened with two contents: %v", err)
		}
	}
	bank.Floor = new(decimal.Zero)
	if err := f.Open(t.Context(), bank); !errors.As(err, new(*ledger.AccountExistsError)) {
		t.Errorf("open with a floor of 0 instead of none: %v", err)
	}
}

func testVerdicts(t *testing.T, f *fixture) {
	if err := f.Open(t.Context(), ledger.Account{ID: "euro", Currency: "EUR", Normal: ledger.Credit}); err != nil {
		t.Fatal(err)
	}
	with := func(edit func(*ledger.Posting)) []ledger.Posting {
		p := ngn("bank", wallet(0), "10")
		edit(&p)
		return []ledger.Posting{p}
	}
	amount := func(s string) []ledger.Posting {
		return with(func(p *ledger.Posting) { p.Amount = decimal.RequireFromString(s) })
	}
	for i, c := range []struct {
		want     ledger.Verdict
		err      error
		postings []ledger.Posting
	}{
		{ledger.Posted, nil, amount("10")},
		{ledger.InvalidPostings, ledger.ErrInvalidPostings, nil},
		{ledger.InvalidID, ledger.ErrInvalidID, with(func(p *ledger.Posting) { p.Debit = "" })},
		{ledger.InvalidID, ledger.ErrInvalidID, with(func(p *ledger.Posting) { p.Credit = "a\x00b" })},
		{ledger.InvalidID, ledger.ErrInvalidID, with(func(p *ledger.Posting) { p.Credit = "\xff" })},
		{ledger.SameAccount, ledger.ErrSameAccount, with(func(p *ledger.Posting) { p.Debit = p.Credit })},
		{ledger.UnknownCurrency, ledger.ErrUnknownCurrency, with(func(p *ledger.Posting) { p.Currency = "ngn" })},
		{ledger.InvalidAmount, ledger.ErrInvalidAmount, amount("0")},
		{ledger.InvalidAmount, ledger.ErrInvalidAmount, amount("-1")},
		{ledger.OverScale, ledger.ErrOverScale, amount("0.001")},
		{ledger.Overflow, ledger.ErrOverflow, amount("1" + strings.Repeat("0", 36))},
		{ledger.UnknownAccount, ledger.ErrUnknownAccount, with(func(p *ledger.Posting) { p.Credit = "nobody" })},
		{ledger.CurrencyMismatch, ledger.ErrCurrencyMismatch, with(func(p *ledger.Posting) { p.Credit = "euro" })},
		{ledger.CurrencyMismatch, ledger.ErrCurrencyMismatch, with(func(p *ledger.Posting) { p.Currency = "EUR" })},
		{ledger.InsufficientFunds, ledger.ErrInsufficientFunds, []ledger.Posting{ngn(wallet(7), "bank", "0.01")}},
		// Two faults: the first in the order of the constants counts.
		{ledger.UnknownAccount, ledger.ErrUnknownAccount, []ledger.Posting{ngn(wallet(7), "bank", "1"), ngn("nobody", "bank", "1")}},
		{ledger.OverScale, ledger.ErrOverScale, []ledger.Posting{ngn("nobody", "bank", "1"), ngn("bank", wallet(0), "0.001")}},
	} {
		r := f.want(t, c.want, ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("v", i)), Postings: c.postings})[0]
		if !errors.Is(r.Err(), c.err) {
			t.Errorf("case %d: error %v, want %v", i, r.Err(), c.err)
		}
		if len(c.postings) == 2 && r.Posting != 1 {
			t.Errorf("case %d: refusal is about posting %d, want 1", i, r.Posting)
		}
		if recorded := c.want == ledger.Posted || c.want > ledger.Conflict; recorded == r.At.IsZero() {
			t.Errorf("case %d, %v: decided at %v", i, c.want, r.At)
		}
	}
	for _, id := range []string{"", strings.Repeat("x", 129), "a\nb", "\xfe"} {
		f.want(t, ledger.InvalidID, move(id, "bank", wallet(0), "1"))
	}
	f.balance(t, wallet(0), "10", 1)
	f.balance(t, "euro", "0", 0)
	f.verify(t)
}

func testNeighbours(t *testing.T, f *fixture) {
	results := f.post(t,
		move("early", wallet(0), wallet(1), "5"), // before there is money
		move("fund", "bank", wallet(0), "10"),
		move("unknown", "bank", "nobody", "1"),
		move("spend", wallet(0), wallet(1), "10"),
		move("zero", "bank", wallet(0), "0"),
		move("again", wallet(0), wallet(1), "0.01"), // all is spent by now
		move("onward", wallet(1), wallet(2), "4"),
	)
	for i, want := range []ledger.Verdict{
		ledger.InsufficientFunds, ledger.Posted, ledger.UnknownAccount, ledger.Posted,
		ledger.InvalidAmount, ledger.InsufficientFunds, ledger.Posted,
	} {
		if results[i].Verdict != want {
			t.Errorf("%q: %v, want %v", results[i].ID, results[i].Verdict, want)
		}
	}
	f.balance(t, "bank", "10", 1)
	f.balance(t, wallet(0), "0", 2)
	f.balance(t, wallet(1), "6", 2)
	f.balance(t, wallet(2), "4", 1)
	f.verify(t)
}

func testAllOrNone(t *testing.T, f *fixture) {
	f.want(t, ledger.Posted, move("fund", "bank", wallet(0), "10"))
	r := f.want(t, ledger.InsufficientFunds, ledger.Transaction{ID: "split", Postings: []ledger.Posting{
		ngn(wallet(0), wallet(1), "6"), ngn("bank", wallet(2), "1"), ngn(wallet(0), wallet(3), "6"),
	}})[0]
	if r.Posting != 0 { // the first posting of the account that is short
		t.Errorf("refusal is about posting %d, want 0", r.Posting)
	}
	f.balance(t, wallet(0), "10", 1)
	f.balance(t, wallet(1), "0", 0)
	f.balance(t, wallet(2), "0", 0)
	f.want(t, ledger.Posted, ledger.Transaction{ID: "fits", Postings: []ledger.Posting{
		ngn(wallet(0), wallet(1), "6"), ngn(wallet(0), wallet(3), "4"),
	}})
	f.balance(t, wallet(0), "0", 3)
	if r := f.verify(t); r.Entries != 6 || r.Transactions != 3 || r.Accounts != wallets+1 {
		t.Errorf("report %+v", r)
	}
}

func testFloorAtEnd(t *testing.T, f *fixture) {
	f.want(t, ledger.Posted, ledger.Transaction{ID: "through", Postings: []ledger.Posting{
		ngn(wallet(0), wallet(1), "5"), // leaves before it arrives
		ngn("bank", wallet(0), "5"),
	}})
	f.balance(t, wallet(0), "0", 2)
	f.balance(t, wallet(1), "5", 1)
	f.verify(t)
}

func testPostedOnce(t *testing.T, f *fixture) {
	tx := move("once", "bank", wallet(0), "10")
	first := f.want(t, ledger.Posted, tx)[0]
	if first.Duplicate {
		t.Fatal("the first post is called a duplicate")
	}
	tx.Postings[0].Amount = decimal.RequireFromString("10.00") // the same amount
	for range 3 {
		again := f.want(t, ledger.Posted, tx)[0]
		if !again.Duplicate || !again.At.Equal(first.At) {
			t.Fatalf("repeat gives %+v, first gave %+v", again, first)
		}
	}
	f.balance(t, wallet(0), "10", 1)
	f.verify(t)
}

func testRefusalIsPermanent(t *testing.T, f *fixture) {
	short := ledger.Transaction{ID: "short", Postings: []ledger.Posting{
		ngn("bank", wallet(1), "1"), ngn(wallet(0), wallet(1), "5"),
	}}
	first := f.want(t, ledger.InsufficientFunds, short)[0]
	nobody := move("nobody", "bank", "later", "1")
	f.want(t, ledger.UnknownAccount, nobody)

	f.want(t, ledger.Posted, move("fund", "bank", wallet(0), "100"))
	if err := f.Open(t.Context(), ledger.Account{ID: "later", Currency: "NGN", Normal: ledger.Credit}); err != nil {
		t.Fatal(err)
	}
	again := f.want(t, ledger.InsufficientFunds, short)[0]
	if !again.Duplicate || again.Posting != first.Posting || first.Posting != 1 || !again.At.Equal(first.At) {
		t.Fatalf("repeat gives %+v, first gave %+v", again, first)
	}
	f.want(t, ledger.UnknownAccount, nobody)
	f.balance(t, wallet(0), "100", 1)
	f.balance(t, "later", "0", 0)
	f.verify(t)
}

func testRepeatWithinBatch(t *testing.T, f *fixture) {
	results := f.post(t,
		move("a", "bank", wallet(0), "1"), move("b", "bank", wallet(0), "2"), move("a", "bank", wallet(0), "1"),
		move("a", "bank", wallet(0), "3"), move("b", "bank", wallet(1), "2"), move("b", "bank", wallet(0), "2"),
	)
	for i, want := range []struct {
		verdict   ledger.Verdict
		duplicate bool
	}{
		{ledger.Posted, false},
		{ledger.Posted, false},
		{ledger.Posted, true},
		{ledger.Conflict, false},
		{ledger.Conflict, false},
		{ledger.Posted, true},
	} {
		if r := results[i]; r.Verdict != want.verdict || r.Duplicate != want.duplicate {
			t.Errorf("transaction %d: %v, duplicate %v; want %v, %v", i, r.Verdict, r.Duplicate, want.verdict, want.duplicate)
		}
	}
	f.balance(t, wallet(0), "3", 2)
	// The id was taken before the batch by the content that comes second in it.
	results = f.post(t, move("a", "bank", wallet(5), "9"), move("a", "bank", wallet(0), "1"))
	if results[0].Verdict != ledger.Conflict || results[1].Verdict != ledger.Posted || !results[1].Duplicate {
		t.Errorf("wrong content, then the right one: %+v", results)
	}
	for i, r := range f.want(t, ledger.Conflict, move("a", "bank", wallet(5), "9"), move("a", "bank", wallet(5), "9")) {
		if r.Duplicate || !r.At.IsZero() {
			t.Errorf("wrong content twice, transaction %d: %+v", i, r)
		}
	}
	f.balance(t, wallet(0), "3", 2)
	f.verify(t)
}

func testConflict(t *testing.T, f *fixture) {
	f.want(t, ledger.Posted, move("id", "bank", wallet(0), "10"))
	f.want(t, ledger.Conflict,
		move("id", "bank", wallet(0), "10.01"))
	f.want(t, ledger.Conflict, move("id", "bank", wallet(1), "10"))
	f.want(t, ledger.Conflict, ledger.Transaction{ID: "id", Postings: []ledger.Posting{
		ngn("bank", wallet(0), "10"), ngn("bank", wallet(0), "10"),
	}})
	f.want(t, ledger.Conflict, move("id", "nobody", "nowhere", "10"))
	if r := f.want(t, ledger.Posted, move("id", "bank", wallet(0), "10"))[0]; !r.Duplicate {
		t.Error("a conflict changed what is recorded")
	}
	f.balance(t, wallet(0), "10", 1)
	f.verify(t)
}

// The store commits and then reports that it failed.
func testLostAnswer(t *testing.T, f *fixture) {
	broken, err := ledger.New(&Flaky{Store: f.store, Fault: func(int64) Fault { return DoneNotSaid }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	batch := []ledger.Transaction{move("a", "bank", wallet(0), "1"), move("b", wallet(1), "bank", "1")}
	if results, err := broken.Post(t.Context(), batch); !errors.Is(err, ErrInjected) || results != nil {
		t.Fatalf("results %v, error %v", results, err)
	}
	results := f.post(t, batch...)
	if r := results[0]; r.Verdict != ledger.Posted || !r.Duplicate {
		t.Errorf("repeat after a lost answer: %+v", r)
	}
	if r := results[1]; r.Verdict != ledger.InsufficientFunds || !r.Duplicate {
		t.Errorf("repeat after a lost answer: %+v", r)
	}
	f.balance(t, wallet(0), "1", 1)
	f.verify(t)
}

func testBigAmounts(t *testing.T, f *fixture) {
	big := strings.Repeat("9", 35) + ".99"
	f.want(t, ledger.Posted, move("big", "bank", wallet(0), big), move("cent", "bank", wallet(0), "0.01"))
	f.balance(t, wallet(0), "1"+strings.Repeat("0", 35), 2)
	f.want(t, ledger.Posted, move("out", wallet(0), wallet(1), big))
	f.balance(t, wallet(1), big, 1)
	f.balance(t, wallet(0), "0.01", 3)
	f.verify(t)
}

func testBalanceOverflow(t *testing.T, f *fixture) {
	most := strings.Repeat("9", 36) + ".99"
	f.want(t, ledger.Posted, move("most", "bank", wallet(0), most))
	r := f.want(t, ledger.BalanceOverflow, ledger.Transaction{ID: "more", Postings: []ledger.Posting{
		ngn(wallet(0), wallet(1), "1"), ngn("bank", wallet(1), "0.01"),
	}})[0]
	if r.Posting != 1 {
		t.Errorf("refusal is about posting %d, want 1", r.Posting)
	}
	f.balance(t, wallet(0), most, 1)
	f.balance(t, wallet(1), "0", 0)
	f.verify(t)
}

func testOddIDs(t *testing.T, f *fixture) {
	for i, id := range []string{
		`"quoted"`, `{a,b}`, `back\slash`, "emoji 🏦", "NULL", "'; DROP TABLE x; --", " ", strings.Repeat("é", 64), "%s",
	} {
		if err := f.Open(t.Context(), ledger.Account{ID: ledger.AccountID(id), Currency: "NGN", Normal: ledger.Credit}); err != nil {
			t.Fatalf("open %q: %v", id, err)
		}
		f.want(t, ledger.Posted, move(id, "bank", ledger.AccountID(id), "1"))
		f.balance(t, ledger.AccountID(id), "1", 1)
		for e, err := range f.Entries(t.Context(), "bank", int64(i)) {
			if err != nil || e.Transaction != ledger.TransactionID(id) || e.Contra != ledger.AccountID(id) {
				t.Fatalf("entry %+v of %q: %v", e, id, err)
			}
		}
	}
	f.verify(t)
}

// Two processes are told different decimal places for one currency: what the one
// calls 1 must not become 10.
func testDecimalPlaces(t *testing.T, f *fixture) {
	with := func(places uint8) *fixture {
		l, err := ledger.New(f.store, &ledger.Options{Currencies: map[string]uint8{"GOLD": places}})
		if err != nil {
			t.Fatal(err)
		}
		return &fixture{Ledger: l, store: f.store}
	}
	two, three := with(2), with(3)
	mine, vault := ledger.Account{ID: "mine", Currency: "GOLD", Normal: ledger.Debit}, ledger.Account{ID: "vault", Currency: "GOLD", Normal: ledger.Credit}
	if err := two.Open(t.Context(), mine, vault); err != nil {
		t.Fatal(err)
	}
	gold := func(amount string) ledger.Posting {
		p := ngn("mine", "vault", amount)
		p.Currency = "GOLD"
		return p
	}
	two.want(t, ledger.Posted, ledger.Transaction{ID: "post", Postings: []ledger.Posting{gold("1")}}, hold("hold", gold("2")), hold("hold 2", gold("4")))
	for range 2 { // a repeat is answered as the first
		three.want(t, ledger.CurrencyMismatch, ledger.Transaction{ID: "post 3", Postings: []ledger.Posting{gold("1")}}, hold("hold 3", gold("2")))
	}
	// 0.100 are as many units as 1.00, and another amount by the same id.
	three.want(t, ledger.Conflict, ledger.Transaction{ID: "post", Postings: []ledger.Posting{gold("0.1")}}, hold("hold", gold("0.2")))
	two.want(t, ledger.Posted, ledger.Transaction{ID: "post", Postings: []ledger.Posting{gold("1")}}, hold("hold", gold("2")))
	// 1.999 is more units than 2.00, and 0.100 more than 0.10.
	three.want(t, ledger.NotHeld, of(ledger.KindCapture, "capture too much", "hold", gold("1.999")))
	three.want(t, ledger.CurrencyMismatch, of(ledger.KindCapture, "capture a part", "hold", gold("0.1")))
	// What names no amount is in the units of the accounts.
	three.want(t, ledger.Posted, of(ledger.KindCapture, "capture all", "hold"), of(ledger.KindRelease, "release", "hold 2"), of(ledger.KindReverse, "reverse", "post"))
	three.has(t, "vault", "2", "2", 3)
	if err := three.Open(t.Context(), mine); err == nil {
		t.Error("an account was opened again with other decimal places")
	}
	// One that was opened with them cannot take part either.
	if err := three.Open(t.Context(), ledger.Account{ID: "new", Currency: "GOLD", Normal: ledger.Credit}); err != nil {
		t.Fatal(err)
	}
	for i, l := range []*fixture{two, three} {
		p := gold("1")
		p.Credit = "new"
		l.want(t, ledger.CurrencyMismatch, ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("mixed ", i)), Postings: []ledger.Posting{p}})
	}
	f.verify(t)
}

// What is available can be less than any number of 38 digits: that is still below
// the lowest floor there is.
func testLowestFloor(t *testing.T, f *fixture) {
	most := decimal.RequireFromString(strings.Repeat("9", 36) + ".99")
	if err := f.Open(t.Context(), ledger.Account{ID: "deep", Currency: "NGN", Normal: ledger.Credit, Floor: new(most.Neg())}); err != nil {
		t.Fatal(err)
	}
	f.want(t, ledger.Posted, move("all", "deep", "bank", most.String()))
	f.has(t, "deep", most.Neg().String(), most.Neg().String(), 1)
	f.want(t, ledger.InsufficientFunds, hold("more", ngn("deep", "bank", "0.01")))
	f.has(t, "deep", most.Neg().String(), most.Neg().String(), 1)
	f.verify(t)
}

// An id that no account can have is that of an unknown account, and no error of
// the store's.
func testImpossibleIDs(t *testing.T, f *fixture) {
	for _, id := range []ledger.AccountID{"", "a\x00b", "\xff", "a\nb", ledger.AccountID(strings.Repeat("x", 129))} {
		unknown := func(what string, err error) {
			if e, ok := errors.AsType[*ledger.UnknownAccountError](err); !ok || e.ID != id {
				t.Errorf("%s of %q: %v", what, id, err)
			}
		}
		_, err := f.Balances(t.Context(), "bank", id)
		unknown("balance", err)
		_, err = f.BalanceAt(t.Context(), id, time.Now())
		unknown("past balance", err)
		for _, err := range f.Entries(t.Context(), id, 0) {
			unknown("entries", err)
		}
	}
}
