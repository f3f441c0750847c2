package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
)

// fake is a payment server in a map. Its hooks are its faults; each runs
// under the lock, so that a hook that sleeps stalls the whole server.
type fake struct {
	accept func(f *fake, n int, p *fakePayment) (keep bool, status int) // n counts new payments from 1
	read   func(f *fake, p *fakePayment)                                // at GET of a payment

	mu       sync.Mutex
	new      int
	payments map[string]*fakePayment
	paid     map[string]decimal.Decimal
}

type fakePayment struct {
	Reference string          `json:"transaction_reference"`
	Customer  string          `json:"customer_id"`
	Status    string          `json:"payment_status"`
	Amount    decimal.Decimal `json:"transaction_amount"`
	Date      string          `json:"transaction_date"`
	accepted  time.Time
}

const (
	fakeHangUp = -1 // instead of an answer
	fakeDelay  = 20 * time.Millisecond
)

func (f *fake) start(t *testing.T) string {
	f.payments, f.paid = map[string]*fakePayment{}, map[string]decimal.Decimal{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/admin/seed-customers", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Count int }
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.Count < 1 {
			w.WriteHeader(http.StatusBadRequest)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		for n := range body.Count {
			f.paid[fmt.Sprintf("GIG%05d", n+1)] = decimal.New(int64(n), -2)
		}
	})
	mux.HandleFunc("POST /api/v1/payments", f.post)
	mux.HandleFunc("GET /api/v1/payments/{reference}", f.get)
	mux.HandleFunc("GET /api/v1/customers/{id}/balance", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		paid, ok := f.paid[r.PathValue("id")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprintf(w, `{"customer_id":%q,"outstanding_balance":"0","total_paid":%q,"version":1}`, r.PathValue("id"), paid)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func (f *fake) post(w http.ResponseWriter, r *http.Request) {
	p := new(fakePayment)
	if err := json.NewDecoder(r.Body).Decode(p); err != nil || p.Status != "COMPLETE" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	status := http.StatusOK
	if f.payments[p.Reference] == nil {
		f.new++
		var keep bool
		if keep, status = f.accept(f, f.new, p); keep {
			p.accepted = time.Now()
			f.payments[p.Reference] = p
			f.pay(p)
		}
	}
	switch status {
	case fakeHangUp:
		panic(http.ErrAbortHandler)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"reference":%q,"status":"ACCEPTED"}`, p.Reference)
}

func (f *fake) pay(p *fakePayment) { f.paid[p.Customer] = f.paid[p.Customer].Add(p.Amount) }

func (f *fake) get(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.payments[r.PathValue("reference")]
	if p == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if f.read != nil {
		f.read(f, p)
	}
	status, posted := "ACCEPTED", p.accepted.Add(fakeDelay)
	if time.Since(posted) > 0 {
		status = "POSTED"
	}
	fmt.Fprintf(w, `{"reference":%q,"customer_id":%q,"status":%q,"amount":%q,"accepted_at":%q,"posted_at":%q}`, p.Reference, p.Customer,
		status, p.Amount, p.accepted.Format(time.RFC3339Nano), posted.Format(time.RFC3339Nano))
}

func honest(*fake, int, *fakePayment) (bool, int) { return true, http.StatusAccepted }

// faultAt is honest but for the nth payment.
func faultAt(n int, fault func(f *fake, p *fakePayment) (bool, int)) func(*fake, int, *fakePayment) (bool, int) {
	return func(f *fake, i int, p *fakePayment) (bool, int) {
		if i == n {
			return fault(f, p)
		}
		return true, http.StatusAccepted
	}
}

// load runs against f and returns what it printed.
func (f *fake) load(t *testing.T, args ...string) (string, error) {
	addr := f.start(t)
	var out bytes.Buffer
	err := Run(t.Context(), append([]string{
		"-addr", addr, "-admin-addr", addr, "-rate", "400", "-for", "500ms",
		"-customers", "7", "-settle", "300ms",
	}, args...), &out, io.Discard)
	return out.String(), err
}

func TestLoadOfAnHonestServer(t *testing.T) {
	t.Parallel()
	f := &fake{accept: honest}
	out, err := f.load(t, "-hot", "0.5", "-duplicates", "0.25", "-seed", "42", "-settle", "10s")
	require.NoError(t, err, out)
	t.Log("\n" + out)
	require.Contains(t, out, "seed 42")
	require.Regexp(t, `(?m)^sent +200$`, out)
	require.Regexp(t, fmt.Sprintf(`(?m)^accepted +%d$`, f.new), out)
	require.Regexp(t, fmt.Sprintf(`(?m)^repeats answered +%d$`, 200-f.new), out)
	require.Regexp(t, `(?m)^errors +0$`, out)
	require.Regexp(t, `(?m)^unknown +0,`, out)
	require.Regexp(t, `(?m)^accept to posted +p50 20ms  p95 20ms  p99 20ms  max 20ms$`, out)
	require.Contains(t, out, fmt.Sprintf("ok: %d payments posted once each, 7 balances agree", f.new))
	require.InDelta(t, 50, 200-f.new, 30, "a quarter repeats")
	hot := 0
	for _, p := range f.payments {
		if p.Customer == "GIG00001" {
			hot++
		}
	}
	require.InDelta(t, f.new/2, hot, 30, "half of the payments are the first customer's")
}

// TestLoadFindsTheFault: every row is a server that betrays its answers.
func TestLoadFindsTheFault(t *testing.T) {
	t.Parallel()
	lose := func(*fake, *fakePayment) (bool, int) { return false, http.StatusAccepted }
	double := func(f *fake, p *fakePayment) (bool, int) { f.pay(p); return true, http.StatusAccepted }
	for name, c := range map[string]struct {
		f    *fake
		says []string
	}{
		"loses one":   {&fake{accept: faultAt(50, lose)}, []string{"total_paid grew by", "lost"}},
		"doubles one": {&fake{accept: faultAt(50, double)}, []string{"total_paid grew by", "the receipts say"}},
		"doubles one that it refused": {&fake{accept: faultAt(50, func(_ *fake, _ *fakePayment) (bool, int) {
			return true, http.StatusUnprocessableEntity
		})}, []string{"total_paid grew by"}},
		"posts a wrong amount": {&fake{accept: faultAt(50, func(_ *fake, p *fakePayment) (bool, int) {
			p.Amount = p.Amount.Add(decimal.New(1, -2))
			return true, http.StatusAccepted
		})}, []string{"total_paid grew by", "was sent as"}},
		"books on another customer": {&fake{accept: faultAt(50, func(_ *fake, p *fakePayment) (bool, int) {
			p.Customer = "GIG00002"
			return true, http.StatusAccepted
		})}, []string{"total_paid grew by", "was sent as"}},
		"loses one and doubles another of the customer": {&fake{accept: func(f *fake, n int, p *fakePayment) (bool, int) {
			switch n {
			case 50:
				return lose(f, p)
			case 51:
				return double(f, p)
			}
			return true, http.StatusAccepted
		}}, []string{"total_paid grew by", "lost"}},
		"accepts and never posts": {&fake{accept: honest, read: func(_ *fake, p *fakePayment) {
			p.accepted = time.Now().Add(time.Hour)
		}}, []string{"taken, but its status is ACCEPTED"}},
		"posts twice after the totals were right": {&fake{accept: honest, read: func(f *fake, p *fakePayment) {
			if f.new > 0 && time.Since(p.accepted) > fakeDelay {
				f.new = 0
				f.pay(p)
			}
		}}, []string{"total_paid grew by"}},
		"accepts nothing": {&fake{accept: func(*fake, int, *fakePayment) (bool, int) {
			return false, http.StatusServiceUnavailable
		}}, []string{"accepted nothing"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := c.f.load(t, "-hot", "1")
			require.Error(t, err, out)
			for _, part := range c.says {
				require.ErrorContains(t, err, part)
			}
			require.Regexp(t, `(?m)^verdict +FAILED: `, out)
		})
	}
}

// TestLoadLooksUpWhatItDoesNotKnow: of the payments whose answer was lost, one
// in two had arrived. Both are right, as long as the totals say the same.
func TestLoadLooksUpWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	f := &fake{accept: func(_ *fake, n int, _ *fakePayment) (bool, int) {
		switch n % 10 {
		case 0:
			return true, fakeHangUp
		case 1:
			return false, fakeHangUp
		case 2:
			return true, http.StatusInternalServerError
		case 3:
			return false, http.StatusServiceUnavailable
		case 4:
			return false, http.StatusUnprocessableEntity
		}
		return true, http.StatusAccepted
	}}
	out, err := f.load(t, "-settle", "10s")
	require.NoError(t, err, out)
	require.Regexp(t, `(?m)^accepted +100$`, out)
	require.Regexp(t, `(?m)^refused +40$`, out)
	require.Regexp(t, `(?m)^errors +60$`, out)
	require.Regexp(t, `(?m)^unknown +80, 40 of them known to the server$`, out)
	require.Regexp(t, `(?m)^first trouble +\S`, out)
	require.Contains(t, out, "ok: 140 payments")
}

// TestLoadCountsFromTheIntendedTime closes the trap of coordinated omission: a
// server that stalls for a second makes half of the customers of two seconds
// wait, and a generator that waits with them would have seen -in-flight of them.
func TestLoadCountsFromTheIntendedTime(t *testing.T) {
	t.Parallel()
	for _, inFlight := range []string{"2", "1024"} {
		t.Run(inFlight+" in flight", func(t *testing.T) {
			t.Parallel()
			f := &fake{accept: faultAt(50, func(*fake, *fakePayment) (bool, int) {
				time.Sleep(time.Second) // the fault itself: under the lock, so that all wait
				return true, http.StatusAccepted
			})}
			out, err := f.load(t, "-rate", "100", "-for", "2s", "-in-flight", inFlight, "-settle", "10s")
			require.NoError(t, err, out)
			var p50, p95, p99, longest string
			_, after, _ := strings.Cut(out, "\naccept  ")
			_, err = fmt.Sscanf(after, " p50 %s p95 %s p99 %s max %s", &p50, &p95, &p99, &longest)
			require.NoError(t, err, out)
			d, err := time.ParseDuration(p95)
			require.NoError(t, err)
			require.Greater(t, d, 700*time.Millisecond, "1 in 20 waited for nearly all of the stall\n%s", out)
		})
	}
}

func TestLoadFlags(t *testing.T) {
	t.Parallel()
	for flags, says := range map[string]string{
		"-addr localhost":           `-addr localhost: must be host:port`,
		"-admin-addr x":             `-admin-addr x: must be host:port`,
		"-rate 0":                   `-rate 0: must be in`,
		"-for -1s":                  `-for -1s: must be positive`,
		"-rate 1000000 -for 1h":     `-for 1h0m0s: must be`,
		"-settle -1s":               `-settle -1s: must be 0 or more`,
		"-customers 0":              `-customers 0: must`,
		"-customers 100000":         `-customers 100000: must`,
		"-in-flight 0":              `-in-flight 0: must`,
		"-hot 1.1":                  `-hot 1.1: must be in 0..1`,
		"-hot NaN":                  `-hot NaN: must be in 0..1`,
		"-duplicates -0.1":          `-duplicates -0.1: must be in 0..1`,
		"-rate many":                `invalid value "many" for flag -rate`,
		"-nonsense":                 `-nonsense`,
		"extra":                     `unexpected argument "extra"`,
		"-hot 2 -duplicates 2 more": "-duplicates 2: must be in 0..1\n" + `unexpected argument "more"`,
	} {
		t.Run(flags, func(t *testing.T) {
			t.Parallel()
			err := Run(t.Context(), strings.Fields(flags), io.Discard, io.Discard)
			require.ErrorContains(t, err, says)
		})
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	addr := (&fake{accept: honest}).start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := Run(ctx, []string{"-addr", addr, "-admin-addr", addr, "-for", "1m", "-rate", "10"}, io.Discard, io.Discard)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begin), 10*time.Second)
}

func TestLoadDrawsABar(t *testing.T) {
	t.Parallel()
	var bar bytes.Buffer
	l := &run{bar: &bar, length: 3 * time.Second, sent: 30, accepted: 9, repeats: 1}
	l.progress(time.Now().Add(-time.Second))
	l.progress(time.Now())
	require.Equal(t, "\r[##########"+strings.Repeat(" ", 20)+"] 30 sent, 10 acknowledged\x1b[K", bar.String(), "once in 200 ms")
}

func TestLoadWithoutAServer(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(nil)
	addr := s.Listener.Addr().String()
	s.Close()
	err := Run(t.Context(), []string{"-addr", addr, "-admin-addr", addr}, io.Discard, io.Discard)
	require.ErrorContains(t, err, "before the run")
}

func TestLoadAmountsAreDistinct(t *testing.T) {
	t.Parallel()
	seen := make([]bool, 1<<20+1)
	for n := range 1 << 20 {
		kobo := amount(n).Shift(2).IntPart()
		require.False(t, seen[kobo])
		seen[kobo] = true
	}
	require.False(t, seen[0], "no amount is zero")
}

func TestLoadPercentilesAreMeasuredValues(t *testing.T) {
	t.Parallel()
	var d []time.Duration
	require.Equal(t, "not measured", percentiles(d))
	for i := 100; i > 0; i-- {
		d = append(d, time.Duration(i)*time.Millisecond)
	}
	require.Equal(t, "p50 50ms  p95 95ms  p99 99ms  max 100ms", percentiles(d))
	require.Equal(t, "p50 1ms  p95 1ms  p99 1ms  max 1ms", percentiles(d[:1]))
}
