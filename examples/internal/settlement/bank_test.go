package settlement_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/settlement"
)

// Two servers have one bank: what one has told it to pay, the other finds.
func TestABookIsSharedByProcesses(t *testing.T) {
	t.Parallel()
	book := filepath.Join(t.TempDir(), "book")
	a, b := &settlement.FakeBank{Book: book}, &settlement.FakeBank{Book: book}
	for _, key := range []string{"s1/pay", "s2/pay"} {
		receipt, err := b.Find(t.Context(), key)
		require.NoError(t, err)
		require.Empty(t, receipt, "nobody has paid")
		paid, err := a.Pay(t.Context(), key, hundred)
		require.NoError(t, err)
		receipt, err = b.Find(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, paid, receipt)
		receipt, err = b.Pay(t.Context(), key, hundred)
		require.NoError(t, err)
		require.Equal(t, paid, receipt)
		_, err = b.Pay(t.Context(), key, decimal.New(99, 0))
		require.Error(t, err)
	}
	text, err := os.ReadFile(book)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(text), "amount"), "%s", text)
	for _, bank := range []*settlement.FakeBank{a, b} {
		total, times := bank.Paid()
		require.Equal(t, "200", total.String())
		require.Equal(t, 2, times)
	}
}

// A line that was cut off is no payment, and spoils none after it.
func TestABookWithHalfALine(t *testing.T) {
	t.Parallel()
	book := filepath.Join(t.TempDir(), "book")
	bank := &settlement.FakeBank{Book: book}
	require.NoError(t, os.WriteFile(book, []byte("\n{\"key\":\"s1/pay\",\"amo"), 0o600))
	receipt, err := bank.Find(t.Context(), "s1/pay")
	require.NoError(t, err)
	require.Empty(t, receipt)
	_, err = bank.Pay(t.Context(), "s1/pay", hundred)
	require.NoError(t, err)
	for _, bank := range []*settlement.FakeBank{bank, {Book: book}} {
		receipt, err = bank.Find(t.Context(), "s1/pay")
		require.NoError(t, err)
		require.NotEmpty(t, receipt)
		_, times := bank.Paid()
		require.Equal(t, 1, times)
	}
}

// Two processes whose lease of one settlement overlaps tell the bank to pay at the same
// moment. It pays once, and everybody who reads the book finds the same payment.
func TestABookIsWrittenByTwoAtOnce(t *testing.T) {
	t.Parallel()
	book := filepath.Join(t.TempDir(), "book")
	for n := range 100 {
		key, told := fmt.Sprint("s", n, "/pay"), []decimal.Decimal{hundred, decimal.New(99, 0)}
		banks, errs := make([]settlement.FakeBank, 2), make([]error, 2)
		var paying sync.WaitGroup
		for i := range banks {
			banks[i].Book = book
			paying.Go(func() { _, errs[i] = banks[i].Pay(t.Context(), key, told[i]) })
		}
		paying.Wait()
		paid := 0
		if errs[0] != nil {
			paid = 1
		}
		require.NoError(t, errs[paid])
		require.Error(t, errs[1-paid], "the other amount is not the one that was paid")
		for _, bank := range []*settlement.FakeBank{&banks[0], &banks[1], {Book: book}} {
			_, err := bank.Pay(t.Context(), key, told[paid])
			require.NoError(t, err)
			_, err = bank.Pay(t.Context(), key, told[1-paid])
			require.Error(t, err)
		}
	}
}

// The bank said that it has not paid, and has not: what is written later does not make
// a payment of a line that lacks nothing but its end.
func TestABookWithALineThatLacksItsEnd(t *testing.T) {
	t.Parallel()
	book := filepath.Join(t.TempDir(), "book")
	bank := &settlement.FakeBank{Book: book}
	_, err := bank.Pay(t.Context(), "s0/pay", hundred)
	require.NoError(t, err)
	whole, err := os.ReadFile(book)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(book, bytes.TrimRight(whole, "\n"), 0o600))
	bank = &settlement.FakeBank{Book: book}
	for _, other := range []string{"", "s1/pay", "s2/pay"} {
		if other != "" {
			_, err := bank.Pay(t.Context(), other, hundred)
			require.NoError(t, err)
		}
		for _, bank := range []*settlement.FakeBank{bank, {Book: book}} {
			receipt, err := bank.Find(t.Context(), "s0/pay")
			require.NoError(t, err)
			require.Empty(t, receipt)
			receipt, err = bank.Find(t.Context(), other)
			require.NoError(t, err)
			require.Equal(t, other != "", receipt != "")
		}
	}
}

// A bank whose book cannot be read does not know what it has paid, and says nothing.
func TestABookThatCannotBeRead(t *testing.T) {
	t.Parallel()
	bank := &settlement.FakeBank{Book: t.TempDir()}
	_, err := bank.Find(t.Context(), "s1/pay")
	require.Error(t, err)
	_, err = bank.Pay(t.Context(), "s1/pay", hundred)
	require.Error(t, err)
	_, times := bank.Paid()
	require.Zero(t, times)
}

// A bank that has paid does not say no afterwards: the hold would be released.
func TestABankDeclinesNothingThatItHasPaid(t *testing.T) {
	t.Parallel()
	bank := &settlement.FakeBank{Faults: []settlement.Fault{settlement.Lost, settlement.Declined}}
	_, err := bank.Pay(t.Context(), "s1/pay", hundred)
	require.Error(t, err)
	receipt, err := bank.Pay(t.Context(), "s1/pay", hundred)
	require.NoError(t, err)
	require.NotEmpty(t, receipt)
}
