package ledgertest

import (
	"testing"

	"github.com/safetill/safetill/ledger"
)

// chain links transactions.
func chain(txs ...ledger.Transaction) []ledger.Transaction {
	for i := range txs[:len(txs)-1] {
		txs[i].Linked = true
	}
	return txs
}

// verdicts posts and compares.
func (f *fixture) verdicts(t testing.TB, txs []ledger.Transaction, want ...ledger.Verdict) []ledger.Result {
	t.Helper()
	results := f.post(t, txs...)
	for i, r := range results {
		if r.Verdict != want[i] {
			t.Fatalf("transaction %d, %q: %v, want %v", i, r.ID, r.Verdict, want[i])
		}
	}
	return results
}

func testChains(t *testing.T, f *fixture) {
	const posted, link = ledger.Posted, ledger.LinkFailed
	good := chain(move("a1", "bank", wallet(0), "10"), move("a2", wallet(0), wallet(1), "10"), hold("a3", ngn(wallet(1), wallet(2), "4")))
	f.verdicts(t, good, posted, posted, posted)
	f.has(t, wallet(1), "10", "6", 1)

	bad := chain(hold("b1", ngn(wallet(1), wallet(2), "6")), of(ledger.KindRelease, "b2", "a3"), move("b3", wallet(1), wallet(0), "10.01"), move("b4", "bank", wallet(0), "1"))
	f.verdicts(t, append(bad, move("alone", "bank", wallet(3), "1")), link, link, ledger.InsufficientFunds, link, posted)
	f.has(t, wallet(1), "10", "6", 1) // the hold is still there, and the new one is not
	f.has(t, wallet(0), "0", "0", 2)

	for i, r := range f.verdicts(t, bad, link, link, ledger.InsufficientFunds, link) {
		if r.Duplicate != (i == 2) {
			t.Errorf("repeated chain, transaction %d: duplicate %v", i, r.Duplicate)
		}
	}
	for i, r := range f.verdicts(t, good, posted, posted, posted) {
		if !r.Duplicate {
			t.Errorf("repeated chain, transaction %d is no duplicate", i)
		}
	}
	f.verdicts(t, []ledger.Transaction{of(ledger.KindCapture, "c", "a3")}, posted)
	f.verify(t)
}

func testChainFaults(t *testing.T, f *fixture) {
	const posted, link = ledger.Posted, ledger.LinkFailed
	open := []ledger.Transaction{move("a", "bank", wallet(0), "1"), move("b", "bank", wallet(0), "1")}
	open[0].Linked, open[1].Linked = true, true
	f.verdicts(t, open, link, ledger.InvalidKind)

	f.verdicts(t, chain(move("c", "bank", wallet(0), "1"), move("d", "bank", wallet(0), "0.001"), move("e", "bank", wallet(0), "1")),
		link, ledger.OverScale, link)
	f.verdicts(t, chain(move("c", "bank", wallet(0), "1"), move("c", "bank", wallet(0), "1")), link, ledger.InvalidKind)

	f.verdicts(t, []ledger.Transaction{move("x", "bank", wallet(0), "1")}, posted)
	f.verdicts(t, chain(move("x", "bank", wallet(0), "1"), move("y", "bank", wallet(0), "1")), ledger.Conflict, link) // x stood alone
	// So whether what is with x would succeed is not asked, and not recorded.
	f.verdicts(t, chain(move("x", "bank", wallet(0), "1"), move("poor", wallet(6), "bank", "1")), ledger.Conflict, link)
	f.verdicts(t, []ledger.Transaction{move("fund", "bank", wallet(6), "1"), move("poor", wallet(6), "bank", "1")}, posted, posted)
	f.has(t, wallet(0), "1", "1", 1)

	// One chain twice in a call, as when two callers share a batch.
	twice := chain(move("t1", "bank", wallet(1), "1"), move("t2", wallet(1), wallet(2), "1"))
	results := f.verdicts(t, append(append([]ledger.Transaction{}, twice...), twice...), posted, posted, posted, posted)
	if results[0].Duplicate || results[1].Duplicate || !results[2].Duplicate || !results[3].Duplicate {
		t.Errorf("a chain twice: %+v", results)
	}
	f.has(t, wallet(2), "1", "1", 1)
	f.verify(t)
}

// What fails with its chain may come again in the same call, and then what stands
// behind it finds what it has done.
func testBehindARepeat(t *testing.T, f *fixture) {
	const posted, link, short = ledger.Posted, ledger.LinkFailed, ledger.InsufficientFunds
	broke, fund := move("broke", wallet(7), "bank", "1"), move("fund", "bank", wallet(0), "10")
	spend := move("spend", wallet(0), wallet(1), "10")
	f.verdicts(t, append(chain(broke, fund), fund, spend), short, link, posted, posted)
	f.has(t, wallet(1), "10", "10", 1)

	// The same of a chain with an id of another before it.
	broke, fund, spend = move("broke 2", wallet(7), "bank", "1"), move("fund 2", "bank", wallet(0), "10"), move("spend 2", wallet(0), wallet(1), "10")
	failed, fits := chain(broke, fund), chain(move("other", "bank", wallet(2), "1"), fund)
	f.verdicts(t, append(append(failed, fits...), spend, fund, spend), short, link, posted, posted, posted, posted, posted)
	f.has(t, wallet(1), "20", "20", 2)
	f.verify(t)
}
