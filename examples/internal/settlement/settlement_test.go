package settlement_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/settlement"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/saga"
)

var hundred = decimal.New(100, 0)

// till is a ledger that has collected 100, and a service that settles it.
func till(t *testing.T, bank settlement.Bank) (*ledger.Ledger, *settlement.Service) {
	t.Helper()
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	require.NoError(t, err)
	require.NoError(t, l.Open(t.Context(),
		ledger.Account{ID: "clearing", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit}))
	_, err = l.PostOne(t.Context(), ledger.Transaction{ID: "paid", Postings: []ledger.Posting{{Debit: "clearing", Credit: "ada", Amount: hundred, Currency: "NGN"}}})
	require.NoError(t, err)
	s, err := settlement.New(saga.NewMemory(nil), nil, settlement.Accounts{From: "clearing", To: "bank", Currency: "NGN"},
		func(*saga.MemoryTx) (*ledger.Ledger, error) { return l, nil }, bank)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return l, s
}

func settled(t *testing.T, s *settlement.Service, id string) settlement.Settlement {
	t.Helper()
	var got settlement.Settlement
	require.Eventually(t, func() bool {
		var err error
		got, err = s.Find(t.Context(), id)
		return err == nil && got.Status.Over()
	}, 20*time.Second, 5*time.Millisecond)
	return got
}

func posted(t *testing.T, l *ledger.Ledger, account ledger.AccountID) (posted, available string) {
	t.Helper()
	b, err := l.Balances(t.Context(), account)
	require.NoError(t, err)
	return b[0].Posted.String(), b[0].Available.String()
}

func TestASettlementIsPaidOnce(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string][]settlement.Fault{
		"at once":          nil,
		"the answer lost":  {settlement.Lost},
		"the bank down":    {settlement.Down, settlement.Down},
		"down, then lost":  {settlement.Down, settlement.Lost},
		"the answer twice": {settlement.Lost, settlement.Lost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bank := &settlement.FakeBank{Faults: faults, Book: filepath.Join(t.TempDir(), "book")}
			l, s := till(t, bank)
			for range 3 {
				require.NoError(t, s.Begin(t.Context(), "s1", hundred))
			}
			require.ErrorIs(t, s.Begin(t.Context(), "s1", decimal.New(99, 0)), saga.ErrConflict)
			got := settled(t, s, "s1")
			require.Equal(t, saga.Completed, got.Status, got.Reason)
			require.Equal(t, "receipt-s1/pay", got.Receipt)
			total, times := bank.Paid()
			require.Equal(t, 1, times)
			require.Equal(t, "100", total.String())
			at, available := posted(t, l, "clearing")
			require.Equal(t, "0", at)
			require.Equal(t, "0", available)
			again := &settlement.FakeBank{Book: bank.Book}
			receipt, err := again.Find(t.Context(), "s1/pay")
			require.NoError(t, err)
			require.Equal(t, got.Receipt, receipt, "the bank remembers")
		})
	}
}

func TestADeclinedSettlementIsReleased(t *testing.T) {
	t.Parallel()
	bank := &settlement.FakeBank{Faults: []settlement.Fault{settlement.Declined}}
	l, s := till(t, bank)
	require.NoError(t, s.Begin(t.Context(), "s1", hundred))
	got := settled(t, s, "s1")
	require.Equal(t, saga.Compensated, got.Status)
	require.Contains(t, got.Reason, "declines")
	at, available := posted(t, l, "clearing")
	require.Equal(t, "100", at)
	require.Equal(t, "100", available, "the hold is released")
	require.NoError(t, s.Begin(t.Context(), "s2", hundred), "and may be tried again")
	require.Equal(t, saga.Completed, settled(t, s, "s2").Status)
}

func TestMoreThanThereIsIsNotHeld(t *testing.T) {
	t.Parallel()
	bank := &settlement.FakeBank{}
	_, s := till(t, bank)
	require.NoError(t, s.Begin(t.Context(), "s1", decimal.New(101, 0)))
	require.Equal(t, saga.Compensated, settled(t, s, "s1").Status)
	_, times := bank.Paid()
	require.Zero(t, times)
	rec, err := s.Admin().Inspect(t.Context(), "s1")
	require.NoError(t, err)
	for _, ev := range rec.Events {
		require.NotEqual(t, saga.EventRetry, ev.Kind, "the ledger's no is not asked for again")
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	gin.SetMode(gin.TestMode)
	_, s := till(t, &settlement.FakeBank{})
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	require.NoError(t, err)
	once, err := idempotency.NewMiddleware(guard, &idempotency.HandlerOptions{
		Scope:    func(*http.Request) string { return "operators" },
		Required: s.Keyed,
	})
	require.NoError(t, err)
	r := gin.New()
	r.Use(func(c *gin.Context) {
		c.Next()
		if err := c.Errors.Last(); err != nil && !c.Writer.Written() {
			c.String(http.StatusTeapot, err.Error())
		}
	})
	s.Routes(r)
	h := once(r)
	ask := func(method, path, key, body string) *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		if key != "" {
			req.Header.Set("Idempotency-Key", key)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w
	}
	first := ask(http.MethodPost, "/settlements", `"k1"`, `{"amount":"100"}`)
	require.Equal(t, http.StatusAccepted, first.Code, first.Body)
	require.Equal(t, first.Body.String(), ask(http.MethodPost, "/settlements", `"k1"`, `{"amount":"100"}`).Body.String())
	for i, c := range []struct{ body, want string }{{`{}`, "amount"}, {`{"amount":"-1"}`, "amount"}, {`{"amount":1}`, "amount"}, {`{"amount":"1","x":1}`, "x"}} {
		w := ask(http.MethodPost, "/settlements", fmt.Sprintf("%q", fmt.Sprint("bad", i)), c.body)
		require.NotEqual(t, http.StatusAccepted, w.Code)
		require.Contains(t, w.Body.String(), c.want)
	}
	require.Contains(t, ask(http.MethodGet, "/settlements/none", "", "").Body.String(), "no such settlement")
	require.Contains(t, ask(http.MethodGet, "/sagas?status=STUCK", "", "").Body.String(), `"sagas":[]`)
	resolve := ask(http.MethodPost, "/sagas/none/resolve", "", `{"action":"retry","actor":"ann","reason":"x","revision":1}`)
	require.Equal(t, http.StatusNotFound, resolve.Code, resolve.Body)
}

// mute is a store that finds nothing.
type mute struct{ *saga.Memory }

func (mute) Find(context.Context, saga.Filter) iter.Seq2[*saga.Record, error] {
	return func(yield func(*saga.Record, error) bool) { yield(nil, errors.New("the disk is on fire")) }
}

// The answer says that the log has the reason.
func TestAFailureOfTheStoreIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s, err := settlement.New(mute{saga.NewMemory(nil)}, &saga.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))},
		settlement.Accounts{From: "clearing", To: "bank", Currency: "NGN"},
		func(*saga.MemoryTx) (*ledger.Ledger, error) { return nil, errors.ErrUnsupported }, &settlement.FakeBank{})
	require.NoError(t, err)
	r := gin.New()
	s.Routes(r)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/sagas", nil))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), "in its log")
	require.Contains(t, log.String(), "the disk is on fire")
}
