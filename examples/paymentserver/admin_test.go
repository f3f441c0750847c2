package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

// write posts to the admin port under an Idempotency-Key; "" for none.
func (s *apiServer) write(t *testing.T, path, key, body string) apiAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.admin+"/api/v1/admin/"+path, strings.NewReader(body))
	require.NoError(t, err)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := apiClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return apiAnswer{status: resp.StatusCode, header: resp.Header, body: text}
}

func refundOf(reference string) string {
	return fmt.Sprintf(`{"transaction_reference":%q}`, reference)
}

func TestAPIRefundsOnce(t *testing.T) {
	t.Parallel()
	apiEach(t, func(t *testing.T, s *apiServer) {
		s.accept(t, http.StatusAccepted, apiPaid("R-1", "GIG00001", "100", "COMPLETE"))
		s.settled(t, "R-1")
		first := s.write(t, "refunds", "k1", refundOf("R-1"))
		require.Equal(t, http.StatusCreated, first.status, "%s", first.body)
		require.Equal(t, "R-1", first.object(t)["transaction_reference"])
		require.Empty(t, first.header.Get("Idempotency-Replayed"))
		require.Equal(t, [3]string{"1000000", "0", "100"}, s.balance(t, "GIG00001"), "it is owed again")

		for _, key := range []string{"k1", `"k1"`} {
			again := s.write(t, "refunds", key, refundOf("R-1"))
			require.Equal(t, first.status, again.status)
			require.Equal(t, string(first.body), string(again.body))
			require.Equal(t, "true", again.header.Get("Idempotency-Replayed"))
		}
		requireProblem(t, s.write(t, "refunds", "k2", refundOf("R-1")), http.StatusUnprocessableEntity, "transaction_reference")
		require.Equal(t, http.StatusUnprocessableEntity, s.write(t, "refunds", "k1", refundOf("R-2")).status, "the key belongs to another request")
		require.Equal(t, [3]string{"1000000", "0", "100"}, s.balance(t, "GIG00001"))
		s.sound(t)
	})
}

// An operator may come before the payment is posted, and again with the same key.
func TestAPIRefundsOnlyWhatIsPosted(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		requireProblem(t, s.write(t, "refunds", "early", refundOf("R-3")), http.StatusNotFound, "transaction_reference")
		s.accept(t, http.StatusAccepted, apiPaid("R-3", "GIG00002", "10.50", "PENDING"))
		requireProblem(t, s.write(t, "refunds", "early", refundOf("R-3")), http.StatusConflict, "transaction_reference")
		s.accept(t, http.StatusAccepted, apiPaid("R-3", "GIG00002", "10.50", "COMPLETE"))
		s.settled(t, "R-3")
		require.Equal(t, http.StatusCreated, s.write(t, "refunds", "early", refundOf("R-3")).status)
		require.Equal(t, [3]string{"1000000", "0", "10.5"}, s.balance(t, "GIG00002"))
		s.sound(t)
	})
}

func TestAPIRefundRefusals(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		for _, c := range []struct {
			key, body string
			status    int
			field     []string
		}{
			{"", refundOf("R-4"), http.StatusBadRequest, nil},
			{`"unfinished`, refundOf("R-4"), http.StatusBadRequest, nil},
			{strings.Repeat("k", 256), refundOf("R-4"), http.StatusBadRequest, nil},
			{"k", `{}`, http.StatusUnprocessableEntity, []string{"transaction_reference"}},
			{"l", `{"transaction_reference":"/"}`, http.StatusUnprocessableEntity, []string{"transaction_reference"}},
			{"m", `{"transaction_reference":"R-4","amount":"5"}`, http.StatusBadRequest, []string{"amount"}},
			{"n", `{"transaction_reference":"R-4"} `, http.StatusNotFound, []string{"transaction_reference"}},
			{"o", ``, http.StatusBadRequest, nil},
		} {
			a := s.write(t, "refunds", c.key, c.body)
			require.Equal(t, c.status, a.status, "%s: %s", c.body, a.body)
			require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
			if c.field != nil {
				requireProblem(t, a, c.status, c.field...)
			}
		}
		require.InDelta(t, 2*10, s.get(t, "/api/v1/admin/verify")["entries"], 0)
	})
}

// Many operators, some of them the same one clicking again: one refund.
func TestAPIManyRefundsOfOnePayment(t *testing.T) {
	t.Parallel()
	const operators, clicks = 8, 8
	apiEach(t, func(t *testing.T, s *apiServer) {
		s.accept(t, http.StatusAccepted, apiPaid("R-5", "GIG00003", "70", "COMPLETE"))
		s.settled(t, "R-5")
		var done, replays, refused atomic.Int64
		var all sync.WaitGroup
		for o := range operators {
			for range clicks {
				all.Go(func() {
					switch a := s.write(t, "refunds", fmt.Sprint("operator-", o), refundOf("R-5")); {
					case a.status == http.StatusCreated && a.header.Get("Idempotency-Replayed") == "":
						done.Add(1)
					case a.status == http.StatusCreated:
						replays.Add(1)
					case a.status == http.StatusUnprocessableEntity:
						refused.Add(1)
					default:
						t.Errorf("%d %s", a.status, a.body)
					}
				})
			}
		}
		all.Wait()
		require.EqualValues(t, 1, done.Load())
		require.EqualValues(t, clicks-1, replays.Load())
		require.EqualValues(t, (operators-1)*clicks, refused.Load())
		require.Equal(t, [3]string{"1000000", "0", "70"}, s.balance(t, "GIG00003"))
		s.sound(t)
	})
}

func TestAPISeedingUnderAKeyIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		first := s.write(t, "seed-customers", "seed", `{"count":25}`)
		require.Equal(t, http.StatusOK, first.status)
		require.InDelta(t, 15, first.object(t)["created"], 0)
		again := s.write(t, "seed-customers", "seed", `{"count":25}`)
		require.Equal(t, string(first.body), string(again.body))
		require.Equal(t, "true", again.header.Get("Idempotency-Replayed"))
		require.InDelta(t, 0, s.write(t, "seed-customers", "", `{"count":25}`).object(t)["created"], 0, "without a key it is done again")
	})
}

// A record of a key is kept for a day, or until a backup is restored that is older.
// Then the same request has the same outcome, and another is refused.
func TestAPIAKeyThatIsForgottenDoesNothingTwice(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	s := startAPI(t, "-postgres", url, "-migrate")
	for _, reference := range []string{"R-1", "R-2"} {
		s.accept(t, http.StatusAccepted, apiPaid(reference, "GIG00001", "100", "COMPLETE"))
		s.settled(t, reference)
	}
	writes := map[string][2]string{
		"refunds":     {refundOf("R-1"), refundOf("R-2")},
		"settlements": {`{"amount":"60"}`, `{"amount":"61"}`},
	}
	fields := map[string]string{"refunds": "transaction_reference", "settlements": "amount"}
	forget := func() {
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		tag, err := conn.Exec(t.Context(), `DELETE FROM idempotency_records`)
		require.NoError(t, errors.Join(err, conn.Close(t.Context())))
		require.Positive(t, tag.RowsAffected())
	}
	for path, bodies := range writes {
		first := s.write(t, path, "k", bodies[0])
		require.Contains(t, []int{http.StatusCreated, http.StatusAccepted}, first.status, "%s", first.body)
		forget()
		again := s.write(t, path, "k", bodies[0])
		require.Empty(t, again.header.Get("Idempotency-Replayed"))
		require.Equal(t, first.status, again.status, "%s", again.body)
		require.Equal(t, string(first.body), string(again.body))
		forget()
		requireProblem(t, s.write(t, path, "k", bodies[1]), http.StatusUnprocessableEntity, fields[path])
		forget()
		require.Equal(t, string(first.body), string(s.write(t, path, "k", bodies[0]).body))
	}
	require.Equal(t, [3]string{"999900", "0", "200"}, s.balance(t, "GIG00001"), "one is given back")
	s.sound(t)
}

// The admin port is open until all has stopped, and the group stops before. What it
// does not take may be sent again to another server.
func TestAPIRefundOfAServerThatStops(t *testing.T) {
	t.Parallel()
	s := newMemoryServer(t)
	p := storePayment("R-6", bankComplete, "10")
	_, err := s.store.accept(t.Context(), []*payment{p}, false)
	require.NoError(t, err)
	_, err = s.store.post(t.Context(), []string{p.Reference})
	require.NoError(t, err)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, s.group.Run(stopped))
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/admin/refunds", strings.NewReader(refundOf("R-6")))
	req.Header.Set("Idempotency-Key", "late")
	w := httptest.NewRecorder()
	s.admin().ServeHTTP(w, req)
	require.Equal(t, http.StatusServiceUnavailable, w.Code, w.Body)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

// What never gets to a handler is an answer, too: a refusal for want of a key, and a replay.
func TestAPIMetricsHaveEveryAnswerOfTheAdminPort(t *testing.T) {
	t.Parallel()
	s := startAPI(t)
	require.Equal(t, http.StatusBadRequest, s.write(t, "settlements", "", `{"amount":"1"}`).status)
	for range 3 {
		require.Equal(t, http.StatusAccepted, s.write(t, "settlements", "k", `{"amount":"1"}`).status)
	}
	require.Equal(t, http.StatusUnprocessableEntity, s.write(t, "settlements", "k", `{"amount":"2"}`).status)
	got := s.metrics(t)
	for code, want := range map[string]float64{"400": 1, "202": 3, "422": 1} {
		require.InDelta(t, want, got[fmt.Sprintf(`paymentserver_http_responses_total{code=%q}`, code)], 0, code)
	}
}
