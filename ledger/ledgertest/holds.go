package ledgertest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

func hold(id string, postings ...ledger.Posting) ledger.Transaction {
	return ledger.Transaction{ID: ledger.TransactionID(id), Kind: ledger.KindHold, Postings: postings}
}

func of(kind ledger.Kind, id, target string, postings ...ledger.Posting) ledger.Transaction {
	return ledger.Transaction{ID: ledger.TransactionID(id), Kind: kind, Of: ledger.TransactionID(target), Postings: postings}
}

// has checks an account's posted and available balance, and its version.
func (f *fixture) has(t testing.TB, id ledger.AccountID, posted, available string, version int64) {
	t.Helper()
	b, err := f.Balances(t.Context(), id)
	if err != nil {
		t.Fatalf("balance: %v", err)
	}
	if !b[0].Posted.Equal(decimal.RequireFromString(posted)) || !b[0].Available.Equal(decimal.RequireFromString(available)) || b[0].Version != version {
		t.Fatalf("%s has %s, available %s, at version %d; want %s, %s at %d",
			id, b[0].Posted, b[0].Available, b[0].Version, posted, available, version)
	}
}

func testHolds(t *testing.T, f *fixture) {
	f.want(t, ledger.Posted, move("fund", "bank", wallet(0), "100"))
	f.want(t, ledger.Posted, hold("h1", ngn(wallet(0), wallet(1), "60")))
	f.has(t, wallet(0), "100", "40", 1)
	f.has(t, wallet(1), "0", "0", 0) // what a hold may bring is not there yet
	f.want(t, ledger.InsufficientFunds, move("spend", wallet(0), wallet(2), "41"), hold("h2", ngn(wallet(0), wallet(2), "40.01")))
	f.want(t, ledger.Posted, move("spend less", wallet(0), wallet(2), "40"))

	part := f.want(t, ledger.Posted, of(ledger.KindCapture, "c1", "h1", ngn(wallet(0), wallet(1), "25")))[0]
	f.has(t, wallet(0), "35", "35", 3) // the rest is free again
	f.has(t, wallet(1), "25", "25", 1)
	f.want(t, ledger.TargetClosed, of(ledger.KindCapture, "c2", "h1"), of(ledger.KindRelease, "r2", "h1"))
	again := f.want(t, ledger.Posted, of(ledger.KindCapture, "c1", "h1", ngn(wallet(0), wallet(1), "25")))[0]
	if !again.Duplicate || !again.At.Equal(part.At) {
		t.Errorf("repeat gives %+v, first gave %+v", again, part)
	}
	f.want(t, ledger.Posted, hold("h3", ngn(wallet(0), wallet(1), "35")), of(ledger.KindRelease, "r3", "h3"))
	f.has(t, wallet(0), "35", "35", 3)
	f.want(t, ledger.Posted, hold("h4", ngn(wallet(0), wallet(1), "10"), ngn(wallet(0), wallet(2), "20")), of(ledger.KindCapture, "c4", "h4"))
	f.has(t, wallet(0), "5", "5", 5)
	f.has(t, wallet(2), "60", "60", 2)
	f.verify(t)
}

func testHoldRefusals(t *testing.T, f *fixture) {
	f.want(t, ledger.Posted, move("fund", "bank", wallet(0), "100"), hold("h", ngn(wallet(0), wallet(1), "10"), ngn(wallet(0), wallet(2), "20")))
	f.want(t, ledger.InsufficientFunds, hold("refused hold", ngn(wallet(5), wallet(1), "10")), move("refused post", wallet(5), wallet(1), "10"))
	f.want(t, ledger.Posted, hold("given up", ngn(wallet(0), wallet(1), "1")), of(ledger.KindRelease, "release", "given up"))
	for i, c := range []struct {
		want ledger.Verdict
		tx   ledger.Transaction
	}{
		{ledger.UnknownTarget, of(ledger.KindCapture, "", "nothing")},
		{ledger.UnknownTarget, of(ledger.KindCapture, "", "fund")}, // a post is no hold
		{ledger.UnknownTarget, of(ledger.KindRelease, "", "fund")},
		{ledger.UnknownTarget, of(ledger.KindReverse, "", "h")}, // a hold has posted nothing
		{ledger.UnknownTarget, of(ledger.KindCapture, "", "refused hold")},
		{ledger.UnknownTarget, of(ledger.KindRelease, "", "refused hold")},
		{ledger.UnknownTarget, of(ledger.KindReverse, "", "refused post")},
		{ledger.UnknownTarget, of(ledger.KindReverse, "", "release")},
		{ledger.NotHeld, of(ledger.KindCapture, "", "h", ngn(wallet(0), wallet(1), "10.01"))},
		{ledger.NotHeld, of(ledger.KindCapture, "", "h", ngn(wallet(0), wallet(3), "1"))},
		{ledger.NotHeld, of(ledger.KindCapture, "", "h", ngn(wallet(1), wallet(0), "1"))},
		{ledger.NotHeld, of(ledger.KindCapture, "", "h", ngn(wallet(0), wallet(2), "1"), ngn(wallet(0), wallet(1), "1"))}, // not its order
		{ledger.InvalidID, of(ledger.KindCapture, "", "")},
		{ledger.InvalidKind, of(ledger.KindPost, "", "h", ngn(wallet(0), wallet(1), "1"))},
		{ledger.InvalidKind, of(5, "", "")}, // one more than there are
		{ledger.InvalidKind, of(9, "", "h")},
		{ledger.InvalidPostings, of(ledger.KindRelease, "", "h", ngn(wallet(0), wallet(1), "1"))},
		{ledger.InvalidPostings, of(ledger.KindReverse, "", "fund", ngn("bank", wallet(0), "1"))},
		{ledger.InvalidPostings, hold("")},
		{ledger.InvalidKind, ledger.Transaction{Expires: time.Second, Postings: []ledger.Posting{ngn(wallet(0), wallet(1), "1")}}},
		{ledger.InvalidKind, ledger.Transaction{Kind: ledger.KindHold, Expires: -time.Second, Postings: []ledger.Posting{ngn(wallet(0), wallet(1), "1")}}},
		{ledger.UnknownAccount, hold("", ngn(wallet(0), "nobody", "1"))},
		{ledger.InsufficientFunds, hold("", ngn(wallet(5), wallet(1), "1"))},
	} {
		c.tx.ID = ledger.TransactionID(fmt.Sprint("case ", i))
		f.want(t, c.want, c.tx)
	}
	f.has(t, wallet(0), "100", "70", 1)
	f.want(t, ledger.Posted, of(ledger.KindCapture, "last of it", "h", ngn(wallet(0), wallet(2), "20")))
	f.has(t, wallet(0), "80", "80", 2)
	f.verify(t)
}

func testHoldExpiry(t *testing.T, f *fixture) {
	short, long := hold("short", ngn("bank", wallet(0), "10")), hold("long", ngn("bank", wallet(0), "10"))
	short.Expires, long.Expires = time.Microsecond, time.Hour
	f.want(t, ledger.Posted, short, long)
	time.Sleep(2 * time.Millisecond) // by the store's clock, which nobody can turn
	f.want(t, ledger.HoldExpired, of(ledger.KindCapture, "late", "short"))
	f.want(t, ledger.Posted, of(ledger.KindRelease, "give up", "short")) // what is expired can be given up
	f.want(t, ledger.HoldExpired, of(ledger.KindCapture, "late", "short"))
	f.want(t, ledger.Posted, of(ledger.KindCapture, "in time", "long"))
	f.has(t, wallet(0), "10", "10", 1)
	f.verify(t)
}

func testExpireHolds(t *testing.T, f *fixture) {
	if _, ok := f.store.(ledger.Expirer); !ok {
		t.Skip("its holds never expire")
	}
	f.want(t, ledger.Posted, move("fund", "bank", wallet(0), "100"))
	const n = 20
	var holds, refused []ledger.Transaction // what was refused is not in the way of those behind it
	for i := range n {
		h := hold(fmt.Sprint("refused ", i), ngn(wallet(5), wallet(1), "5"))
		h.Expires = time.Microsecond
		refused = append(refused, h)
	}
	f.want(t, ledger.InsufficientFunds, refused...)
	for i := range n {
		h := hold(fmt.Sprintf("%0128d", i), ngn(wallet(0), wallet(1), "5")) // the longest ids
		h.Expires = time.Microsecond
		holds = append(holds, h)
	}
	long := hold("long", ngn("bank", wallet(0), "1"))
	long.Expires = time.Hour
	f.want(t, ledger.Posted, append(holds, long, hold("for ever", ngn("bank", wallet(0), "1")))...)
	f.has(t, wallet(0), "100", "0", 1)
	time.Sleep(2 * time.Millisecond)
	f.want(t, ledger.Posted, of(ledger.KindRelease, "by hand", string(holds[0].ID)))

	for _, limit := range []int{0, -1} {
		if _, err := f.ExpireHolds(t.Context(), limit); !errors.As(err, new(*ledger.InputError)) {
			t.Errorf("expire %d holds: %v", limit, err)
		}
	}
	if k, err := f.ExpireHolds(t.Context(), 3); err != nil || k != 3 {
		t.Errorf("%d of 3 holds expired: %v", k, err)
	}
	var released atomic.Int64
	released.Store(3)
	atOnce(4, func(int) { // several processes do it
		for range n {
			k, err := f.ExpireHolds(t.Context(), 7)
			if err != nil {
				t.Errorf("expire: %v", err)
			}
			released.Add(int64(k))
		}
	})
	if released.Load() != n-1 {
		t.Errorf("%d holds expired, want %d", released.Load(), n-1)
	}
	f.has(t, wallet(0), "100", "100", 1)
	f.want(t, ledger.TargetClosed, of(ledger.KindCapture, "late", string(holds[1].ID)))

	// What was released long ago is not in the way of what has expired since.
	last := hold("last", ngn(wallet(0), wallet(1), "5"))
	last.Expires = time.Microsecond
	f.want(t, ledger.Posted, last)
	time.Sleep(2 * time.Millisecond)
	if k, err := f.ExpireHolds(t.Context(), 1); err != nil || k != 1 {
		t.Errorf("%d of 1 hold expired: %v", k, err)
	}
	f.verify(t)
}

// 64 capture and release one hold at once: one of them does.
func testHoldClosedOnce(t *testing.T, f *fixture) {
	f.want(t, ledger.Posted, move("fund", "bank", wallet(0), "100"), hold("h", ngn(wallet(0), wallet(1), "100")))
	var closed, posted atomic.Int64
	atOnce(64, func(i int) {
		tx := of(ledger.KindCapture, fmt.Sprint("c", i), "h", ngn(wallet(0), wallet(1), "60"))
		if i%2 == 1 {
			tx = of(ledger.KindRelease, fmt.Sprint("r", i), "h")
		}
		switch r := f.postOne(t, tx); r.Verdict {
		case ledger.Posted:
			closed.Add(1)
			if i%2 == 0 {
				posted.Add(60)
			}
		case ledger.TargetClosed:
		default:
			t.Errorf("%q: %v", tx.ID, r.Verdict)
		}
	})
	if closed.Load() != 1 {
		t.Errorf("the hold was closed %d times", closed.Load())
	}
	f.has(t, wallet(1), fmt.Sprint(posted.Load()), fmt.Sprint(posted.Load()), posted.Load()/60)
	f.verify(t)
}

func testReverse(t *testing.T, f *fixture) {
	f.want(t, ledger.Posted, move("fund", "bank", wallet(0), "100"))
	f.want(t, ledger.Posted, ledger.Transaction{ID: "split", Postings: []ledger.Posting{
		ngn(wallet(0), wallet(1), "30"), ngn(wallet(0), wallet(2), "20"),
	}})
	f.want(t, ledger.Posted, move("spent", wallet(1), wallet(3), "1"))
	f.want(t, ledger.InsufficientFunds, of(ledger.KindReverse, "too late", "split"))
	f.want(t, ledger.Posted, move("back", wallet(3), wallet(1), "1"), of(ledger.KindReverse, "undo", "split"))
	f.has(t, wallet(0), "100", "100", 5)
	f.has(t, wallet(1), "0", "0", 4)
	f.want(t, ledger.TargetClosed, of(ledger.KindReverse, "undo twice", "split"))
	f.want(t, ledger.Posted, of(ledger.KindReverse, "redo", "undo"))
	f.has(t, wallet(2), "20", "20", 3)
	f.want(t, ledger.Posted, hold("h", ngn(wallet(0), wallet(4), "50")), of(ledger.KindCapture, "c", "h", ngn(wallet(0), wallet(4), "7")))
	f.want(t, ledger.Posted, of(ledger.KindReverse, "refund", "c"))
	f.has(t, wallet(4), "0", "0", 2)
	f.has(t, wallet(0), "50", "50", 9)

	// A capture of all names no posting, and has made some.
	f.want(t, ledger.Posted, hold("all", ngn(wallet(0), wallet(5), "50")), of(ledger.KindCapture, "capture all", "all"))
	f.want(t, ledger.Posted, of(ledger.KindReverse, "refund all", "capture all"))
	f.has(t, wallet(5), "0", "0", 2)
	f.want(t, ledger.Posted, hold("all 2", ngn(wallet(0), wallet(5), "50")),
		of(ledger.KindCapture, "capture all 2", "all 2"), of(ledger.KindReverse, "refund all 2", "capture all 2"))
	f.has(t, wallet(5), "0", "0", 4)
	f.has(t, wallet(0), "50", "50", 13)
	f.verify(t)
}

func testConditions(t *testing.T, f *fixture) {
	f.want(t, ledger.Posted, move("fund", "bank", wallet(0), "100"), hold("h", ngn(wallet(0), wallet(1), "40")))
	when := func(id string, c ...ledger.Condition) ledger.Transaction {
		tx := move(id, "bank", wallet(2), "1")
		tx.If = c
		return tx
	}
	at := func(s string) *decimal.Decimal { return new(decimal.RequireFromString(s)) }
	f.want(t, ledger.Posted,
		when("enough", ledger.Condition{Account: wallet(0), Available: at("60")}),
		when("version", ledger.Condition{Account: wallet(0), Version: new(int64(1))}, ledger.Condition{Account: wallet(2), Version: new(int64(1))}),
		when("nothing asked", ledger.Condition{Account: wallet(0)}))
	f.want(t, ledger.ConditionFailed,
		when("a kobo short", ledger.Condition{Account: wallet(0), Available: at("60.01")}),
		when("less than a kobo", ledger.Condition{Account: wallet(0), Available: at("60.0000001")}),
		when("old version", ledger.Condition{Account: wallet(2), Version: new(int64(1))}),
		when("one of two", ledger.Condition{Account: wallet(0), Version: new(int64(1))}, ledger.Condition{Account: wallet(0), Available: at("61")}))
	f.want(t, ledger.UnknownAccount, when("unknown", ledger.Condition{Account: "nobody"}))
	f.want(t, ledger.InvalidID, when("no account", ledger.Condition{Version: new(int64(1))}))
	f.verify(t)
}
