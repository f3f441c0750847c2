package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

const apiWait = startLimit // for anything that is awaited here

var apiClient = &http.Client{
	Timeout:       apiWait,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 8},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// apiModes are the servers that the tables are run against: the answers are the
// same, wherever the payments are kept.
var apiModes = []string{"memory", "postgres", "postgres and redis"}

// apiStart starts a server of a mode.
func apiStart(t *testing.T, mode string, args ...string) *apiServer {
	t.Helper()
	if mode != "memory" {
		args = append([]string{"-postgres", testdb.PostgresURL(t), "-migrate", "-pg-conns", "8"}, args...)
	}
	if mode == "postgres and redis" {
		args = append(args, "-redis", testdb.RedisURL(t))
	}
	s := startAPI(t, args...)
	s.mode = mode
	return s
}

// apiEach runs test against a server of each mode.
func apiEach(t *testing.T, test func(t *testing.T, s *apiServer), args ...string) {
	t.Helper()
	apiIn(t, apiModes, test, args)
}

// apiBoth is apiEach for what no cache has a say in: two modes do.
func apiBoth(t *testing.T, test func(t *testing.T, s *apiServer), args ...string) {
	t.Helper()
	apiIn(t, []string{"memory", "postgres and redis"}, test, args)
}

func apiIn(t *testing.T, modes []string, test func(t *testing.T, s *apiServer), args []string) {
	t.Helper()
	for _, mode := range modes {
		s := apiStart(t, mode, args...) // the parent's, so that no subtest waits half a second for its end
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			t.Cleanup(s.stop)
			test(t, s)
		})
	}
}

// apiServer is a server that runs in this process and is known by its two ports alone.
type apiServer struct {
	public, admin string // http://host:port
	mode          string
	stop          func() // begins to
}

// startAPI runs the command, and stops it when the test ends.
func startAPI(t *testing.T, args ...string) *apiServer {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	log := &apiLog{serving: make(chan apiServer, 1)}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append([]string{"-addr", "127.0.0.1:0", "-admin-addr", "127.0.0.1:0"}, args...), io.Discard, log)
	}()
	wait, cancel := context.WithTimeout(t.Context(), apiWait)
	defer cancel()
	select {
	case s := <-log.serving:
		t.Cleanup(func() {
			apiClient.CloseIdleConnections() // one that has sent nothing yet holds a server up for 5 s
			stop()
			select {
			case err := <-ended:
				require.NoError(t, err, log)
			case <-time.After(apiWait):
				t.Errorf("the server does not stop:\n%s", log)
			}
		})
		s.stop = stop
		return &s
	case err := <-ended:
		stop()
		require.Fail(t, "the server ended", "%v\n%s", err, log)
	case <-wait.Done():
		stop()
		require.Fail(t, "the server does not serve", "%s", log)
	}
	return nil
}

// apiLog is a server's stderr: it looks for the line with the addresses.
type apiLog struct {
	serving chan apiServer
	mu      sync.Mutex
	text    bytes.Buffer
}

// Write gets a whole line each time: slog sees to that.
func (l *apiLog) Write(line []byte) (int, error) {
	var entry struct{ Msg, Addr, Admin string }
	if json.Unmarshal(line, &entry) == nil && entry.Msg == "serving" {
		l.serving <- apiServer{public: "http://" + entry.Addr, admin: "http://" + entry.Admin}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *apiLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// apiAnswer is a response whose body has been read.
type apiAnswer struct {
	status int
	header http.Header
	body   []byte
}

func apiCall(t *testing.T, method, target, body string) apiAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := apiClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return apiAnswer{status: resp.StatusCode, header: resp.Header, body: text}
}

// get reads a JSON answer, which has to be a 200.
func (s *apiServer) get(t *testing.T, path string) map[string]any {
	t.Helper()
	base := s.public
	if strings.HasPrefix(path, "/api/v1/admin/") {
		base = s.admin
	}
	a := apiCall(t, http.MethodGet, base+path, "")
	require.Equal(t, http.StatusOK, a.status, "%s: %s", path, a.body)
	return a.object(t)
}

func (a apiAnswer) object(t *testing.T) (o map[string]any) {
	t.Helper()
	require.Equal(t, "application/json; charset=utf-8", a.header.Get("Content-Type"))
	require.NoError(t, json.Unmarshal(a.body, &o), "%s", a.body)
	return o
}

// apiGood is a payment that nothing is wrong with, as names and JSON values.
var apiGood = [][2]string{
	{"customer_id", `"GIG00001"`},
	{"payment_status", `"COMPLETE"`},
	{"transaction_amount", `"10000"`},
	{"transaction_date", `"2025-11-07 14:54:16"`},
	{"transaction_reference", `"VPAY25110713542114478761522000"`},
}

// apiBody is the good payment with changes, pairs of a name and a JSON value; ""
// for a value leaves the field out, and a name of no field is added.
func apiBody(changes ...string) string {
	changed := map[string]string{}
	for i := 0; i < len(changes); i += 2 {
		changed[changes[i]] = changes[i+1]
	}
	var members []string
	for _, field := range apiGood {
		name, value := field[0], field[1]
		if v, ok := changed[name]; ok {
			value = v
			delete(changed, name)
		}
		if value != "" {
			members = append(members, fmt.Sprintf("%q:%s", name, value))
		}
	}
	for name, value := range changed {
		members = append(members, fmt.Sprintf("%q:%s", name, value))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// apiPaid is the body of a payment of amount by customer under reference.
func apiPaid(reference, customer, amount, status string) string {
	return apiBody("transaction_reference", strconv.Quote(reference), "customer_id", strconv.Quote(customer),
		"transaction_amount", strconv.Quote(amount), "payment_status", strconv.Quote(status))
}

func (s *apiServer) post(t *testing.T, body string) apiAnswer {
	t.Helper()
	return apiCall(t, http.MethodPost, s.public+"/api/v1/payments", body)
}

// accept posts a payment that has to be taken, as new or as a repeat.
func (s *apiServer) accept(t *testing.T, status int, body string) map[string]any {
	t.Helper()
	a := s.post(t, body)
	require.Equal(t, status, a.status, "%s: %s", body, a.body)
	return a.object(t)
}

// settled waits until the server is done with a payment.
func (s *apiServer) settled(t *testing.T, reference string) (p map[string]any) {
	t.Helper()
	apiUntil(t, func() bool {
		p = s.get(t, "/api/v1/payments/"+reference)
		return p["status"] != "RECEIVED"
	}, "%s stays RECEIVED", reference)
	return p
}

func apiUntil(t *testing.T, done func() bool, complaint ...any) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(apiWait); !done(); <-tick.C {
		require.True(t, time.Now().Before(end), complaint...)
	}
}

// balance is what a customer owes, has to their credit and has paid.
func (s *apiServer) balance(t *testing.T, id string) [3]string {
	t.Helper()
	b := s.get(t, "/api/v1/customers/"+id+"/balance")
	require.Equal(t, id, b["customer_id"])
	require.Equal(t, "NGN", b["currency"])
	require.IsType(t, 1.0, b["version"])
	var out [3]string
	for i, name := range []string{"outstanding_balance", "credit_balance", "total_paid"} {
		require.IsType(t, "", b[name], "%s: amounts are strings", name)
		out[i] = b[name].(string)
	}
	return out
}

// sound checks that the ledger adds up and holds what the payments say.
func (s *apiServer) sound(t *testing.T) {
	t.Helper()
	v := s.get(t, "/api/v1/admin/verify")
	require.Equal(t, true, v["ok"], v)
	stats := s.get(t, "/api/v1/admin/stats")
	page := s.get(t, "/api/v1/customers?limit=1000")
	var paid decimal.Decimal
	for _, c := range page["customers"].([]any) {
		paid = paid.Add(decimal.RequireFromString(c.(map[string]any)["total_paid"].(string)))
	}
	require.Equal(t, paid.String(), stats["total_posted"], "customers have paid what was posted")
}

func TestAPIAcceptsAPaymentAndRepeatsItsAnswer(t *testing.T) {
	t.Parallel()
	apiEach(t, func(t *testing.T, s *apiServer) {
		const reference = "VPAY25110713542114478761522000"
		a := s.post(t, apiBody())
		require.Equal(t, http.StatusAccepted, a.status, "%s", a.body)
		first := a.object(t)
		require.Equal(t, reference, first["reference"])
		require.Equal(t, "/api/v1/payments/"+reference, first["status_url"])
		require.Equal(t, first["status_url"], a.header.Get("Location"))
		require.Equal(t, "accepted", first["message"])
		accepted, err := time.Parse(time.RFC3339Nano, first["accepted_at"].(string))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), accepted, time.Minute)

		// The third is known to be posted, the second may not be.
		for range 2 {
			a = s.post(t, apiBody())
			require.Equal(t, http.StatusOK, a.status, "%s", a.body)
			repeat := maps.Clone(first)
			repeat["message"] = "already processed"
			require.Equal(t, repeat, a.object(t))
			require.Empty(t, a.header.Get("Location"), "nothing was made")
			s.settled(t, reference)
		}
		p := s.settled(t, reference)
		for i, name := range []string{"customer_id", "payment_status", "amount", "transaction_date", "reference"} {
			require.Equal(t, strings.Trim(apiGood[i][1], `"`), p[name], name)
		}
		require.Equal(t, "POSTED", p["status"])
		posted, err := time.Parse(time.RFC3339Nano, p["posted_at"].(string))
		require.NoError(t, err)
		require.False(t, posted.Before(accepted), "posted %s, accepted %s", posted, accepted)
		same, err := time.Parse(time.RFC3339Nano, p["accepted_at"].(string))
		require.NoError(t, err)
		require.WithinDuration(t, accepted, same, 0)
		require.Equal(t, [3]string{"990000", "0", "10000"}, s.balance(t, "GIG00001"))
		s.sound(t)
	})
}

// What an amount is worth counts, not how it is written: leading zeros and
// trailing decimals are taken, within the 13 digits and 2 decimals.
func TestAPISameAmountWrittenOtherwiseIsARepeat(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		s.accept(t, http.StatusAccepted, apiBody())
		for _, amount := range []string{"10000.0", "10000.00", "010000", "0000000010000.00"} {
			s.accept(t, http.StatusOK, apiBody("transaction_amount", strconv.Quote(amount)))
		}
		s.accept(t, http.StatusOK, apiBody("transaction_amount", `"\u0031\u0030000"`)+"\r\n\t ")
		require.Equal(t, "10000", s.settled(t, "VPAY25110713542114478761522000")["amount"])
		require.Equal(t, [3]string{"990000", "0", "10000"}, s.balance(t, "GIG00001"))
	})
}

func TestAPIRefusesAReferenceWithOtherContent(t *testing.T) {
	t.Parallel()
	apiEach(t, func(t *testing.T, s *apiServer) {
		s.accept(t, http.StatusAccepted, apiBody())
		s.settled(t, "VPAY25110713542114478761522000")
		before := apiState(t, s)
		for _, change := range [][2]string{
			{"transaction_amount", `"10000.01"`},
			{"customer_id", `"GIG00002"`},
			{"transaction_date", `"2025-11-07 14:54:17"`},
			{"payment_status", `"FAILED"`},
			{"payment_status", `"CANCELLED"`},
		} {
			for range 2 { // a refusal must leave nothing behind that changes the next answer
				a := s.post(t, apiBody(change[0], change[1]))
				requireProblem(t, a, http.StatusUnprocessableEntity, "transaction_reference")
				require.Contains(t, string(a.body), "other content")
			}
		}
		require.Equal(t, before, apiState(t, s))
		s.accept(t, http.StatusOK, apiBody())
	})
}

func TestAPIPostsAPendingPaymentOnceItCompletes(t *testing.T) {
	t.Parallel()
	apiEach(t, func(t *testing.T, s *apiServer) {
		pending, complete := apiPaid("P-1", "GIG00003", "250.50", "PENDING"), apiPaid("P-1", "GIG00003", "250.50", "COMPLETE")
		s.accept(t, http.StatusAccepted, pending)
		require.Equal(t, "RECORDED", s.settled(t, "P-1")["status"])
		require.Equal(t, "already processed", s.accept(t, http.StatusOK, pending)["message"])
		require.Equal(t, [3]string{"1000000", "0", "0"}, s.balance(t, "GIG00003"))

		for _, other := range []string{apiPaid("P-1", "GIG00003", "250.51", "COMPLETE"), apiPaid("P-1", "GIG00004", "250.50", "COMPLETE")} {
			requireProblem(t, s.post(t, other), http.StatusUnprocessableEntity, "transaction_reference")
		}
		require.Equal(t, "RECORDED", s.get(t, "/api/v1/payments/P-1")["status"])

		s.accept(t, http.StatusAccepted, complete)
		p := s.settled(t, "P-1")
		require.Equal(t, "POSTED", p["status"])
		require.Equal(t, "COMPLETE", p["payment_status"])
		s.accept(t, http.StatusOK, complete)
		requireProblem(t, s.post(t, apiPaid("P-1", "GIG00003", "250.50", "FAILED")), http.StatusUnprocessableEntity, "transaction_reference")
		require.Equal(t, [3]string{"999749.5", "0", "250.5"}, s.balance(t, "GIG00003"))
		require.Equal(t, map[string]any{"POSTED": 1.0}, s.get(t, "/api/v1/admin/stats")["payments"])
		s.sound(t)
	})
}

// A bank that got no answer to PENDING repeats it, and by then COMPLETE may have
// been: it is old news, not another payment, and moves no money.
func TestAPIRepeatsAPendingPaymentAfterItsCompletion(t *testing.T) {
	t.Parallel()
	apiEach(t, func(t *testing.T, s *apiServer) {
		pending, complete := apiPaid("P-2", "GIG00003", "70", "PENDING"), apiPaid("P-2", "GIG00003", "70", "COMPLETE")
		s.accept(t, http.StatusAccepted, pending)
		completed := s.accept(t, http.StatusAccepted, complete)
		s.settled(t, "P-2")
		before := s.balance(t, "GIG00003")
		s.accept(t, http.StatusOK, pending)
		require.Equal(t, completed["accepted_at"], s.accept(t, http.StatusOK, complete)["accepted_at"])
		require.Equal(t, before, s.balance(t, "GIG00003"))
		require.Equal(t, "POSTED", s.settled(t, "P-2")["status"])
		s.sound(t)
	})
}

func TestAPINeverPostsWhatFailed(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		for i, status := range []string{"FAILED", "CANCELLED"} {
			direct, late := fmt.Sprintf("F-%d", i), fmt.Sprintf("L-%d", i)
			s.accept(t, http.StatusAccepted, apiPaid(direct, "GIG00001", "10", status))
			s.accept(t, http.StatusOK, apiPaid(direct, "GIG00001", "10", status))
			s.accept(t, http.StatusAccepted, apiPaid(late, "GIG00001", "10", "PENDING"))
			s.accept(t, http.StatusAccepted, apiPaid(late, "GIG00001", "10", status))
			for _, reference := range []string{direct, late} {
				requireProblem(t, s.post(t, apiPaid(reference, "GIG00001", "10", "COMPLETE")), http.StatusUnprocessableEntity, "transaction_reference")
				p := s.settled(t, reference)
				require.Equal(t, "RECORDED", p["status"])
				require.Equal(t, status, p["payment_status"])
				require.NotContains(t, p, "posted_at")
			}
		}
		require.Equal(t, [3]string{"1000000", "0", "0"}, s.balance(t, "GIG00001"))
		stats := s.get(t, "/api/v1/admin/stats")
		require.Equal(t, map[string]any{"RECORDED": 4.0}, stats["payments"])
		require.Equal(t, "0", stats["total_posted"])
		s.sound(t)
	})
}

func TestAPIOverpaymentIsCredit(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		pay := func(reference, amount string, want [3]string) {
			s.accept(t, http.StatusAccepted, apiPaid(reference, "GIG00005", amount, "COMPLETE"))
			require.Equal(t, "POSTED", s.settled(t, reference)["status"])
			require.Equal(t, want, s.balance(t, "GIG00005"))
		}
		require.Equal(t, [3]string{"1000000", "0", "0"}, s.balance(t, "GIG00005"))
		version := s.get(t, "/api/v1/customers/GIG00005/balance")["version"].(float64)
		pay("O-1", "400000", [3]string{"600000", "0", "400000"})
		pay("O-2", "600000", [3]string{"0", "0", "1000000"})
		pay("O-3", "0.01", [3]string{"0", "0.01", "1000000.01"})
		pay("O-4", "9999999999999.99", [3]string{"0", "10000000000000", "10000001000000"})
		require.InDelta(t, version+4, s.get(t, "/api/v1/customers/GIG00005/balance")["version"], 0, "one a posting")
		s.sound(t)
	})
}

// The rules leave these alone: nothing may be refused that is not wrong.
func TestAPITakesUnusualButGoodPayments(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		long := strings.Repeat("r", 64)
		for i, changes := range [][]string{
			{"transaction_date", `"2024-02-29 00:00:00"`},
			{"transaction_date", `"2025-12-31 23:59:59"`},
			{"transaction_date", `"0001-01-01 00:00:00"`},
			{"transaction_date", `"9999-12-31 23:59:59"`},
			{"transaction_amount", `"0.01"`},
			{"transaction_amount", `"9999999999999.99"`},
			{"transaction_reference", strconv.Quote(long)},
			{"transaction_reference", `"7"`},
			{"transaction_reference", `"bank:2025-11-07_a.b"`},
			{"transaction_reference", `"a.."`},
		} {
			reference := fmt.Sprintf("U-%d", i)
			if changes[0] == "transaction_reference" {
				reference = strings.Trim(changes[1], `"`)
			}
			got := s.accept(t, http.StatusAccepted, apiBody(append([]string{"transaction_reference", strconv.Quote(reference)}, changes...)...))
			require.Equal(t, reference, s.follow(t, got)["reference"])
		}
		padded := apiBody("transaction_reference", `"full"`)
		s.accept(t, http.StatusAccepted, padded+strings.Repeat(" ", 64<<10-len(padded)))
	})
}

// follow reads the payment that an answer points at, as a client does: RFC 3986
// takes dot segments out, so that "a/../b" would lead to the payment b.
func (s *apiServer) follow(t *testing.T, answer map[string]any) map[string]any {
	t.Helper()
	base, err := url.Parse(s.public)
	require.NoError(t, err)
	at, err := base.Parse(answer["status_url"].(string))
	require.NoError(t, err)
	a := apiCall(t, http.MethodGet, at.String(), "")
	require.Equal(t, http.StatusOK, a.status, "%s: %s", at, a.body)
	return a.object(t)
}

func TestAPIPagesCustomers(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		for _, page := range []struct {
			query         string
			limit, offset int
			from, to      int // numbers of customers; to 0: none
		}{
			{"", 50, 0, 1, 50},
			{"?limit=3", 3, 0, 1, 3},
			{"?limit=3&offset=4", 3, 4, 5, 7},
			{"?offset=50", 50, 50, 51, 60},
			{"?limit=1000", 1000, 0, 1, 60},
			{"?limit=5&offset=58", 5, 58, 59, 60},
			{"?offset=60", 50, 60, 0, 0},
			{"?limit=1&offset=1073741824", 1, 1 << 30, 0, 0},
		} {
			got := s.get(t, "/api/v1/customers"+page.query)
			require.InDelta(t, page.limit, got["limit"], 0, page.query)
			require.InDelta(t, page.offset, got["offset"], 0, page.query)
			require.InDelta(t, 60, got["total"], 0, page.query)
			want := []string{}
			for n := page.from; n <= page.to && n > 0; n++ {
				want = append(want, fmt.Sprintf("GIG%05d", n))
			}
			have := []string{}
			for _, c := range got["customers"].([]any) { // a list, also when it is empty
				have = append(have, c.(map[string]any)["customer_id"].(string))
				require.Equal(t, "1000000", c.(map[string]any)["outstanding_balance"])
			}
			require.Equal(t, want, have, page.query)
		}
	}, "-seed", "60")
}

func TestAPISeedsCustomersOnce(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		seed := func(n, created int) {
			a := apiCall(t, http.MethodPost, s.admin+"/api/v1/admin/seed-customers", fmt.Sprintf(`{"count":%d}`, n))
			require.Equal(t, http.StatusOK, a.status, "%s", a.body)
			require.Equal(t, map[string]any{"created": float64(created), "first": "GIG00001", "last": fmt.Sprintf("GIG%05d", n)}, a.object(t))
		}
		requireProblem(t, s.post(t, apiPaid("S-1", "GIG00003", "500", "COMPLETE")), http.StatusUnprocessableEntity, "customer_id")
		seed(3, 1)
		seed(3, 0)
		s.accept(t, http.StatusAccepted, apiPaid("S-1", "GIG00003", "500", "COMPLETE")) // the refusal was not kept
		s.settled(t, "S-1")
		seed(12, 9)
		seed(1, 0)
		require.InDelta(t, 12, s.get(t, "/api/v1/customers")["total"], 0)
		require.Equal(t, [3]string{"999500", "0", "500"}, s.balance(t, "GIG00003"))
		require.Equal(t, [3]string{"1000000", "0", "0"}, s.balance(t, "GIG00012"))
		s.sound(t)
	}, "-seed", "2")
}

func TestAPISeedsMoreThanOneChunk(t *testing.T) {
	t.Parallel()
	s := startAPI(t, "-seed", "0")
	require.InDelta(t, 0, s.get(t, "/api/v1/customers")["total"], 0)
	require.Empty(t, s.get(t, "/api/v1/admin/stats")["payments"])
	a := apiCall(t, http.MethodPost, s.admin+"/api/v1/admin/seed-customers", `{"count":2500}`)
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	require.InDelta(t, 2500, s.get(t, "/api/v1/customers")["total"], 0)
	require.Equal(t, [3]string{"1000000", "0", "0"}, s.balance(t, "GIG02500"))
	require.Equal(t, true, s.get(t, "/api/v1/admin/verify")["ok"])
}

func TestAPIStats(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		s.payAFew(t)
		stats := s.get(t, "/api/v1/admin/stats")
		require.InDelta(t, 10, stats["customers"], 0)
		require.Equal(t, map[string]any{"POSTED": 2.0, "RECORDED": 2.0}, stats["payments"])
		require.Equal(t, "150.25", stats["total_posted"])
		require.Equal(t, map[string]any{"database": "closed", "redis": "closed"}, stats["circuit_breakers"])
		for name, q := range stats["queues"].(map[string]any) {
			require.Equal(t, map[string]any{"ready": 0.0, "claimed": 0.0}, q, name)
		}
		verify := s.get(t, "/api/v1/admin/verify")
		require.InDelta(t, 12, verify["accounts"], 0)  // with clearing and financed-assets
		require.InDelta(t, 2*12, verify["entries"], 0) // 10 debts and 2 payments
		require.Empty(t, verify["breaks"])
	})
}

// payAFew makes two payments of two customers, repeats one, records two and has
// two refused, and waits until the queues know of none.
func (s *apiServer) payAFew(t *testing.T) {
	t.Helper()
	s.accept(t, http.StatusAccepted, apiPaid("M-1", "GIG00001", "100", "COMPLETE"))
	s.accept(t, http.StatusAccepted, apiPaid("M-2", "GIG00002", "50.25", "COMPLETE"))
	s.settled(t, "M-1")
	s.settled(t, "M-2")
	s.accept(t, http.StatusOK, apiPaid("M-1", "GIG00001", "100.00", "COMPLETE"))
	s.accept(t, http.StatusAccepted, apiPaid("M-3", "GIG00001", "7", "PENDING"))
	s.accept(t, http.StatusAccepted, apiPaid("M-4", "GIG00001", "7", "FAILED"))
	require.Equal(t, http.StatusUnprocessableEntity, s.post(t, apiPaid("M-1", "GIG00001", "101", "COMPLETE")).status)
	require.Equal(t, http.StatusUnprocessableEntity, s.post(t, apiPaid("M-5", "GIG99999", "1", "COMPLETE")).status)
	// A worker acknowledges, and counts, after it has posted.
	apiUntil(t, func() bool {
		m := s.metrics(t)
		return m[`paymentserver_queue_depth{queue="posting"}`] == 0 && m[`paymentserver_payments_posted_total{state="POSTED"}`] == 2
	}, "the queue does not empty")
}

// metrics are the samples of a scrape by name and labels.
func (s *apiServer) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	a := apiCall(t, http.MethodGet, s.admin+"/metrics", "")
	require.Equal(t, http.StatusOK, a.status)
	samples := map[string]float64{}
	for line := range strings.Lines(string(a.body)) {
		if at := strings.LastIndexByte(line, ' '); at > 0 && line[0] != '#' {
			value, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
			require.NoError(t, err, line)
			samples[line[:at]] = value
		}
	}
	return samples
}

func TestAPIMetrics(t *testing.T) {
	t.Parallel()
	own := map[string][]string{
		"postgres":           {`paymentserver_pg_connections{state="used"}`, `paymentserver_pg_connections{state="idle"}`},
		"postgres and redis": {`paymentserver_pg_connections{state="idle"}`, `paymentserver_redis_connections{state="idle"}`},
	}
	apiEach(t, func(t *testing.T, s *apiServer) {
		s.payAFew(t)
		got := s.metrics(t)
		for name, want := range map[string]float64{
			`paymentserver_payments_accepted_total{result="accepted"}`: 4,
			`paymentserver_payments_accepted_total{result="repeated"}`: 1,
			`paymentserver_payments_accepted_total{result="refused"}`:  2,
			`paymentserver_payments_posted_total{state="POSTED"}`:      2,
			`paymentserver_accept_seconds_count`:                       4,
			`paymentserver_accept_seconds_bucket{le="+Inf"}`:           4,
			`paymentserver_posting_delay_seconds_count`:                2,
			`paymentserver_posting_delay_seconds_bucket{le="+Inf"}`:    2,
			`paymentserver_http_responses_total{code="202"}`:           4,
			`paymentserver_http_responses_total{code="422"}`:           2,
			`paymentserver_queue_depth{queue="posting"}`:               0,
			`paymentserver_queue_depth{queue="spill"}`:                 0,
			`paymentserver_breaker_open{breaker="database"}`:           0,
			`paymentserver_breaker_open{breaker="redis"}`:              0,
		} {
			value, ok := got[name]
			require.True(t, ok, "no %s", name)
			require.InDelta(t, want, value, 0, name)
		}
		for _, name := range []string{"paymentserver_accept_seconds_sum", "paymentserver_posting_delay_seconds_sum", "go_goroutines", "process_open_fds"} {
			require.Positive(t, got[name], name)
		}
		require.Less(t, got["paymentserver_posting_delay_seconds_sum"], 2*apiWait.Seconds())
		for _, name := range own[s.mode] {
			_, ok := got[name]
			require.True(t, ok, "no %s", name)
		}
		for name := range got {
			require.False(t, s.mode == "memory" && strings.Contains(name, "_connections"), name)
		}
	})
}

func TestAPIHealthOnBothPorts(t *testing.T) {
	t.Parallel()
	stores := map[string]map[string]any{
		"memory":             {"memory": "up"},
		"postgres":           {"postgres": "up"},
		"postgres and redis": {"postgres": "up", "redis": "up"},
	}
	apiEach(t, func(t *testing.T, s *apiServer) {
		for _, base := range []string{s.public, s.admin} {
			a := apiCall(t, http.MethodGet, base+"/livez", "")
			require.Equal(t, http.StatusOK, a.status)
			require.Equal(t, map[string]any{"status": "alive"}, a.object(t))
			for _, path := range []string{"/readyz", "/api/v1/health"} {
				a := apiCall(t, http.MethodGet, base+path, "")
				require.Equal(t, http.StatusOK, a.status)
				require.Equal(t, map[string]any{"status": "ok", "stores": stores[s.mode]}, a.object(t))
			}
		}
	})
}

func TestAPIKeepsAdminOffThePublicPort(t *testing.T) {
	t.Parallel()
	s := startAPI(t)
	for path, shows := range map[string]string{
		"/api/v1/admin/stats":             `"customers"`,
		"/api/v1/admin/verify":            `"ok"`,
		"/metrics":                        "go_goroutines",
		"/debug/pprof/":                   "goroutine",
		"/debug/pprof/goroutine?debug=1":  "goroutine profile",
		"/debug/pprof/heap?debug=1":       "heap profile",
		"/debug/pprof/trace?seconds=0.01": "go 1.",
	} {
		a := apiCall(t, http.MethodGet, s.admin+path, "")
		require.Equal(t, http.StatusOK, a.status, path)
		require.Contains(t, string(a.body), shows, path)
		requireProblem(t, apiCall(t, http.MethodGet, s.public+path, ""), http.StatusNotFound)
	}
	requireProblem(t, apiCall(t, http.MethodPost, s.public+"/api/v1/admin/seed-customers", `{"count":500}`), http.StatusNotFound)
	requireProblem(t, apiCall(t, http.MethodPost, s.admin+"/api/v1/payments", apiBody()), http.StatusNotFound)
	require.InDelta(t, 10, s.get(t, "/api/v1/customers")["total"], 0)
}

// SPEC PS-1 and PS-4: the calls of the design, in its order.
func TestAPICallsOfTheDesign(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		for _, c := range []struct {
			method, target, body string
			status               int
			shows                string
		}{
			{http.MethodPost, s.admin + "/api/v1/admin/seed-customers", `{"count": 500}`, 200, `"last":"GIG00500"`},
			{http.MethodPost, s.public + "/api/v1/payments", `{
  "customer_id": "GIG00001",
  "payment_status": "COMPLETE",
  "transaction_amount": "10000",
  "transaction_date": "2025-11-07 14:54:16",
  "transaction_reference": "VPAY25110713542114478761522000"
}`, 202, `"reference":"VPAY25110713542114478761522000"`},
			{"", "VPAY25110713542114478761522000", "", 0, ""},
			{http.MethodGet, s.public + "/api/v1/customers/GIG00001/balance", "", 200, `"outstanding_balance":"990000"`},
			{http.MethodGet, s.public + "/api/v1/customers?limit=10&offset=0", "", 200, `"total":500`},
			{http.MethodGet, s.admin + "/api/v1/admin/stats", "", 200, `"total_posted":"10000"`},
			{http.MethodGet, s.public + "/api/v1/health", "", 200, `"status":"ok"`},
		} {
			if c.method == "" {
				s.settled(t, c.target)
				continue
			}
			a := apiCall(t, c.method, c.target, c.body)
			require.Equal(t, c.status, a.status, "%s %s: %s", c.method, c.target, a.body)
			require.Contains(t, string(a.body), c.shows)
		}
	})
}

// One payment comes 50 times at once and 50 others beside it, each twice.
func TestAPIConcurrentCopiesPostOnce(t *testing.T) {
	t.Parallel()
	apiEach(t, func(t *testing.T, s *apiServer) {
		var mu sync.Mutex
		answers := map[int]int{}
		fresh := map[string]int{}
		var clients sync.WaitGroup
		for i := range 50 {
			own := fmt.Sprintf("C-%d", i)
			for _, reference := range []string{"C-same", own, own} {
				clients.Go(func() {
					a := apiTry(t.Context(), s.public+"/api/v1/payments", apiPaid(reference, "GIG00001", "10", "COMPLETE"))
					mu.Lock()
					defer mu.Unlock()
					answers[a]++
					if a == http.StatusAccepted {
						fresh[reference]++
					}
				})
			}
		}
		clients.Wait()
		require.Equal(t, map[int]int{http.StatusAccepted: 51, http.StatusOK: 99}, answers)
		for reference, n := range fresh {
			require.Equal(t, 1, n, reference)
			require.Equal(t, "POSTED", s.settled(t, reference)["status"])
		}
		require.Equal(t, [3]string{"999490", "0", "510"}, s.balance(t, "GIG00001"))
		s.sound(t)
	})
}

// apiTry posts and returns the status, or 0: it may be called beside the test.
func apiTry(ctx context.Context, target, body string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
	if err != nil {
		return 0
	}
	resp, err := apiClient.Do(req)
	if err != nil {
		return 0
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if cmp.Or(err, resp.Body.Close()) != nil {
		return 0
	}
	return resp.StatusCode
}
