package ratelimit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ratelimit"
)

// clock stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_800_000_000, 123_456_000)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// broken is a store that fails.
type broken struct{}

func (broken) Decide(_ context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	replies := make([]ratelimit.Reply, len(calls))
	for i := range replies {
		replies[i].Err = errors.New("store is down")
	}
	return replies
}

func byHeader(r *http.Request) (string, bool) { return ratelimit.HeaderKey("User")(r) }

var served = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })

// behind puts a handler behind a limit, in memory, with a clock that stands.
func behind(t *testing.T, limit ratelimit.Limit, o *ratelimit.HandlerOptions, h http.Handler) (http.Handler, *clock) {
	t.Helper()
	c := newClock()
	l, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: c.Now}), limit, &ratelimit.Options{Now: c.Now})
	require.NoError(t, err)
	return around(t, l, o, h), c
}

func around(t *testing.T, d ratelimit.Decider, o *ratelimit.HandlerOptions, h http.Handler) http.Handler {
	t.Helper()
	middleware, err := ratelimit.NewMiddleware(d, o)
	require.NoError(t, err)
	return middleware(h)
}

// answer is a response whose body has been read.
type answer struct {
	StatusCode int
	Header     http.Header
	Body       []byte
}

func recorded(w *httptest.ResponseRecorder) answer { return answer{w.Code, w.Header(), w.Body.Bytes()} }

// send sends a request over the wire.
func send(t *testing.T, server *httptest.Server, method, body string) (answer, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("User", "ada")
	resp, err := server.Client().Do(r)
	if err != nil {
		return answer{}, err
	}
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, text}, errors.Join(err, resp.Body.Close())
}

func ask(t *testing.T, h http.Handler, method, user string) answer {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "/", nil)
	if user != "" {
		r.Header.Set("User", user)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return recorded(w)
}

// refused demands a refusal with a problem document.
func refused(t *testing.T, resp answer, status int, code, retryAfter string) map[string]any {
	t.Helper()
	require.Equal(t, status, resp.StatusCode)
	require.Equal(t, retryAfter, resp.Header.Get("Retry-After"))
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	var p map[string]any
	require.NoError(t, json.Unmarshal(resp.Body, &p))
	require.Equal(t, code, p["code"])
	require.InDelta(t, status, p["status"], 0)
	require.NotEmpty(t, p["detail"])
	return p
}

func admitted(t *testing.T, resp answer, limit string) {
	t.Helper()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, limit, resp.Header.Get("RateLimit"))
	require.Empty(t, resp.Header.Get("Retry-After"))
}

func TestMiddlewareOptions(t *testing.T) {
	t.Parallel()
	l, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerSecond(1), nil)
	require.NoError(t, err)
	places, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerSecond(1).As(ratelimit.Concurrency), nil)
	require.NoError(t, err)
	checks := func(*http.Request) ([]ratelimit.Check, bool) { return nil, true }
	for name, c := range map[string]struct {
		d      ratelimit.Decider
		o      *ratelimit.HandlerOptions
		faults int
	}{
		"nothing":            {nil, nil, 2},
		"no hybrid":          {(*ratelimit.Hybrid)(nil), &ratelimit.HandlerOptions{Key: byHeader}, 1},
		"somebody else's":    {struct{ ratelimit.Decider }{l}, &ratelimit.HandlerOptions{Key: byHeader}, 1},
		"checks of a hybrid": {new(ratelimit.Hybrid), &ratelimit.HandlerOptions{Checks: checks}, 1},
		"no key":             {l, &ratelimit.HandlerOptions{}, 1},
		"both":               {l, &ratelimit.HandlerOptions{Key: byHeader, Checks: checks}, 1},
		"anonymous checks":   {l, &ratelimit.HandlerOptions{Anonymous: "nobody", Checks: checks}, 1},
		"long anonymous":     {l, &ratelimit.HandlerOptions{Anonymous: strings.Repeat("n", 513), Key: byHeader}, 1},
		"places":             {places, &ratelimit.HandlerOptions{Key: byHeader}, 1},
		"places, not in use": {places, &ratelimit.HandlerOptions{Checks: checks}, 0},
		"all right":          {l, &ratelimit.HandlerOptions{Key: byHeader}, 0},
	} {
		m, err := ratelimit.NewMiddleware(c.d, c.o)
		if c.faults == 0 {
			require.NoError(t, err, name)
			continue
		}
		require.Nil(t, m, name)
		require.ErrorIs(t, err, ratelimit.ErrInvalid, name)
		require.Len(t, strings.Split(err.Error(), "\n"), c.faults, name)
	}
}

// deciders makes one of each kind on a store. Those that count here first do not run, so that the store decides.
func deciders(t *testing.T, s ratelimit.Store, limit ratelimit.Limit, o ratelimit.Options) map[string]ratelimit.Decider {
	t.Helper()
	made := map[string]ratelimit.Decider{}
	add := func(name string, d ratelimit.Decider, err error) {
		require.NoError(t, err, name)
		made[name] = d
	}
	l, err := ratelimit.New(s, limit, &o)
	add("limiter", l, err)
	h, err := ratelimit.NewHybrid(s, limit, &ratelimit.HybridOptions{Options: o, Nodes: 3})
	add("hybrid", h, err)
	d, err := ratelimit.NewLeased(s, limit, &ratelimit.LeasedOptions{Options: o, Nodes: 3})
	add("leased", d, err)
	w, err := ratelimit.NewOwned("self", ratelimit.NewMembers("owner"), func(string) ratelimit.Peer { return s }, limit, &ratelimit.OwnedOptions{Options: o})
	add("owned", w, err)
	return made
}

func TestMiddlewareOfEveryDecider(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"limiter", "hybrid", "leased", "owned"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, asked := newClock(), 0
			o := ratelimit.Options{Now: c.Now, LimitFor: func(_ context.Context, key string) ratelimit.Limit {
				asked++
				return ratelimit.PerMinute(int64(len(key))).Named("plan")
			}}
			d := deciders(t, ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: c.Now}), ratelimit.PerMinute(9), o)[name]
			h := around(t, d, &ratelimit.HandlerOptions{Key: byHeader}, served)
			resp := ask(t, h, http.MethodPost, "ad")
			admitted(t, resp, `"plan";r=1;t=30`)
			require.Equal(t, `"plan";q=2;w=60`, resp.Header.Get("RateLimit-Policy"))
			admitted(t, ask(t, h, http.MethodPost, "ad"), `"plan";r=0;t=60`)
			p := refused(t, ask(t, h, http.MethodPost, "ad"), http.StatusTooManyRequests, "limited", "30")
			require.Equal(t, []any{"plan"}, p["violated-policies"])
			require.Equal(t, 3, asked, "once a request")
			refused(t, ask(t, h, http.MethodPost, strings.Repeat("k", ratelimit.MaxKey+1)), http.StatusBadRequest, "key_invalid", "")

			o = ratelimit.Options{Now: c.Now, OnError: ratelimit.FailClosed}
			h = around(t, deciders(t, broken{}, ratelimit.PerMinute(9), o)[name], &ratelimit.HandlerOptions{Key: byHeader}, served)
			refused(t, ask(t, h, http.MethodPost, "ada"), http.StatusServiceUnavailable, "unavailable", "1")
		})
	}
}

func TestMiddlewareRefusesWhatIsOverTheLimit(t *testing.T) {
	t.Parallel()
	h, c := behind(t, ratelimit.PerMinute(2), &ratelimit.HandlerOptions{Key: byHeader}, served)
	admitted(t, ask(t, h, http.MethodPost, "ada"), `"default";r=1;t=30`)
	admitted(t, ask(t, h, http.MethodPost, "ada"), `"default";r=0;t=60`)
	c.advance(time.Millisecond)
	resp := ask(t, h, http.MethodPost, "ada")
	require.Equal(t, `"default";q=2;w=60`, resp.Header.Get("RateLimit-Policy"))
	require.Equal(t, `"default";r=0;t=30`, resp.Header.Get("RateLimit"), "no later than Retry-After")
	p := refused(t, resp, http.StatusTooManyRequests, "limited", "30") // 29.999 s
	require.Equal(t, "https://iana.org/assignments/http-problem-types#quota-exceeded", p["type"])
	require.Equal(t, "Quota Exceeded", p["title"])
	require.Equal(t, []any{"default"}, p["violated-policies"])
	admitted(t, ask(t, h, http.MethodPost, "grace"), `"default";r=1;t=30`)
	c.advance(30 * time.Second)
	admitted(t, ask(t, h, http.MethodPost, "ada"), `"default";r=0;t=60`)
}

// A refusal that says "0 seconds", or less than the wait, would be answered with the same at once.
func TestRetryAfterIsAtLeastOneSecond(t *testing.T) {
	t.Parallel()
	h, c := behind(t, ratelimit.PerSecond(1000).WithBurst(1), &ratelimit.HandlerOptions{Key: byHeader}, served)
	admitted(t, ask(t, h, http.MethodGet, "ada"), `"default";r=0;t=1`)
	refused(t, ask(t, h, http.MethodGet, "ada"), http.StatusTooManyRequests, "limited", "1")
	c.advance(999 * time.Microsecond)
	refused(t, ask(t, h, http.MethodGet, "ada"), http.StatusTooManyRequests, "limited", "1")
	c.advance(time.Microsecond)
	admitted(t, ask(t, h, http.MethodGet, "ada"), `"default";r=0;t=1`)
}

// Trap 18: a Retry-After that no client can read. Trap 12: one that is rounded down. Whoever is alone and waits for it is admitted, always.
func TestLoneClientThatWaitsRetryAfterIsAdmitted(t *testing.T) {
	t.Parallel()
	deltaSeconds := regexp.MustCompile(`^[1-9][0-9]*$`)
	for _, limit := range []ratelimit.Limit{
		ratelimit.PerSecond(3), ratelimit.PerMinute(7), ratelimit.PerMinute(7).As(ratelimit.GCRA), ratelimit.PerSecond(10).WithBurst(25),
		ratelimit.PerMinute(7).As(ratelimit.SlidingLog), ratelimit.PerMinute(7).As(ratelimit.SlidingCounter), ratelimit.PerMinute(7).As(ratelimit.FixedWindow),
		{Rate: 10, Per: 1900 * time.Millisecond},
		{Rate: 3, Per: 100 * time.Microsecond},
	} {
		t.Run(fmt.Sprint(limit.Algorithm, limit.Rate, limit.Per), func(t *testing.T) {
			t.Parallel()
			h, c := behind(t, limit, &ratelimit.HandlerOptions{Key: byHeader, Cost: func(r *http.Request) int64 { return r.ContentLength }}, served)
			server := httptest.NewServer(h)
			t.Cleanup(server.Close)
			pay := func(cost int) answer {
				resp, err := send(t, server, http.MethodPost, strings.Repeat("x", cost))
				require.NoError(t, err)
				return resp
			}
			refusals := 0
			for i := range 300 {
				cost := 1 + i%int(limit.Capacity())
				resp := pay(cost)
				if resp.StatusCode == http.StatusTooManyRequests {
					refusals++
					text := resp.Header.Get("Retry-After")
					require.Regexp(t, deltaSeconds, text)
					seconds, err := strconv.Atoi(text)
					require.NoError(t, err)
					told, err := ratelimit.ParseFields(resp.Header)
					require.NoError(t, err)
					require.LessOrEqual(t, told[0].Reset, time.Duration(seconds)*time.Second, "the window ends no later than Retry-After")
					c.advance(time.Duration(seconds) * time.Second)
					resp = pay(cost)
				}
				require.Equal(t, http.StatusOK, resp.StatusCode)
				c.advance(time.Duration(i*7919%2003) * 17 * time.Microsecond)
			}
			if limit.Per > time.Millisecond { // the smallest refills while the clock is moved
				require.NotZero(t, refusals)
			}
		})
	}
}

// A 429 is repeated by clients, and this one would be refused for ever.
func TestCostOverTheWholeLimitIsNoMatterOfTime(t *testing.T) {
	t.Parallel()
	cost := int64(6)
	h, _ := behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{Key: byHeader, Cost: func(*http.Request) int64 { return cost }}, served)
	resp := ask(t, h, http.MethodPost, "ada")
	require.Equal(t, `"default";r=5;t=0`, resp.Header.Get("RateLimit"), "nothing was charged")
	p := refused(t, resp, http.StatusUnprocessableEntity, "cost_too_high", "")
	require.Equal(t, "about:blank", p["type"])
	require.Equal(t, []any{"default"}, p["violated-policies"])
	cost = 5
	admitted(t, ask(t, h, http.MethodPost, "ada"), `"default";r=0;t=60`)
}

func TestCost(t *testing.T) {
	t.Parallel()
	cost := int64(0)
	var log bytes.Buffer
	h, _ := behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{
		Key: byHeader, Cost: func(*http.Request) int64 { return cost }, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}, served)
	admitted(t, ask(t, h, http.MethodPost, "ada"), `"default";r=4;t=12`)
	require.Empty(t, log.String())
	cost = -1
	refused(t, ask(t, h, http.MethodPost, "ada"), http.StatusInternalServerError, "misconfigured", "")
	require.Contains(t, log.String(), "cost is negative")
	cost = 3
	admitted(t, ask(t, h, http.MethodPost, "ada"), `"default";r=1;t=48`)
}

func TestRequestWithoutKey(t *testing.T) {
	t.Parallel()
	h, _ := behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{Key: byHeader}, served)
	resp := ask(t, h, http.MethodGet, "")
	require.Empty(t, resp.Header.Get("RateLimit-Policy"))
	refused(t, resp, http.StatusBadRequest, "key_missing", "")
	refused(t, ask(t, h, http.MethodGet, strings.Repeat("k", 513)), http.StatusBadRequest, "key_invalid", "")
	admitted(t, ask(t, h, http.MethodGet, strings.Repeat("k", 512)), `"default";r=4;t=12`)

	h, _ = behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{Key: byHeader, Anonymous: "nobody's"}, served)
	admitted(t, ask(t, h, http.MethodGet, ""), `"default";r=4;t=12`)
	admitted(t, ask(t, h, http.MethodGet, ""), `"default";r=3;t=24`)

	h, _ = behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{
		Key: func(*http.Request) (string, bool) { return "", true },
	}, served)
	refused(t, ask(t, h, http.MethodGet, ""), http.StatusBadRequest, "key_invalid", "")

	h, _ = behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{
		Checks: func(*http.Request) ([]ratelimit.Check, bool) { return nil, false },
	}, served)
	refused(t, ask(t, h, http.MethodGet, ""), http.StatusBadRequest, "key_missing", "")
}

// User and global in one: what one refuses the other is not charged, and a list that all requests share is not written to.
func TestChecksAreChargedAllOrNone(t *testing.T) {
	t.Parallel()
	shared := []ratelimit.Check{
		{Limit: ratelimit.PerMinute(10).Named("user"), Key: "ada"},
		{Limit: ratelimit.PerHour(6).Named("global"), Key: "all", N: 1},
	}
	h, _ := behind(t, ratelimit.PerMinute(1), &ratelimit.HandlerOptions{
		Checks: func(*http.Request) ([]ratelimit.Check, bool) { return shared, true },
		Cost: func(r *http.Request) int64 {
			n, _ := strconv.ParseInt(r.Header.Get("User"), 10, 64)
			return n
		},
	}, served)
	resp := ask(t, h, http.MethodPost, "4")
	admitted(t, resp, `"user";r=6;t=24, "global";r=5;t=600`)
	require.Equal(t, `"user";q=10;w=60, "global";q=6;w=3600`, resp.Header.Get("RateLimit-Policy"))
	require.Zero(t, shared[0].N)
	resp = ask(t, h, http.MethodPost, "7")
	require.Equal(t, `"user";r=6;t=6, "global";r=5;t=6`, resp.Header.Get("RateLimit"))
	p := refused(t, resp, http.StatusTooManyRequests, "limited", "6")
	require.Equal(t, []any{"user"}, p["violated-policies"])
	for range 5 {
		require.Equal(t, http.StatusOK, ask(t, h, http.MethodPost, "1").StatusCode)
	}
	p = refused(t, ask(t, h, http.MethodPost, "2"), http.StatusTooManyRequests, "limited", "600")
	require.Equal(t, []any{"user", "global"}, p["violated-policies"])
	p = refused(t, ask(t, h, http.MethodPost, "11"), http.StatusUnprocessableEntity, "cost_too_high", "")
	require.Equal(t, []any{"user", "global"}, p["violated-policies"])
}

func TestChecksOfNothingPass(t *testing.T) {
	t.Parallel()
	h, _ := behind(t, ratelimit.PerMinute(1), &ratelimit.HandlerOptions{
		Checks: func(*http.Request) ([]ratelimit.Check, bool) { return nil, true },
	}, served)
	resp := ask(t, h, http.MethodGet, "")
	admitted(t, resp, "")
	require.Empty(t, resp.Header.Get("RateLimit-Policy"))
}

func TestFaultyChecksAreTheServersFault(t *testing.T) {
	t.Parallel()
	for name, checks := range map[string][]ratelimit.Check{
		"no limit":    {{Key: "ada"}},
		"twice":       {{Limit: ratelimit.PerHour(1), Key: "ada"}, {Limit: ratelimit.PerMinute(1), Key: "ada"}},
		"negative":    {{Limit: ratelimit.PerHour(1), Key: "ada", N: -1}},
		"concurrency": {{Limit: ratelimit.PerHour(1).As(ratelimit.Concurrency), Key: "ada"}},
	} {
		var log bytes.Buffer
		h, _ := behind(t, ratelimit.PerMinute(1), &ratelimit.HandlerOptions{
			Checks: func(*http.Request) ([]ratelimit.Check, bool) { return checks, true },
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}, served)
		refused(t, ask(t, h, http.MethodGet, ""), http.StatusInternalServerError, "misconfigured", "")
		require.Contains(t, log.String(), "ratelimit: ", name)
		require.NotContains(t, log.String(), "ada", name)
	}
}

func TestLimitsThatDiffer(t *testing.T) {
	t.Parallel()
	asked := 0
	l, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerHour(1), &ratelimit.Options{
		LimitFor: func(_ context.Context, key string) ratelimit.Limit {
			asked++
			return map[string]ratelimit.Limit{"gold": ratelimit.PerHour(1000), "free": ratelimit.PerHour(10)}[key]
		},
	})
	require.NoError(t, err)
	h := around(t, l, &ratelimit.HandlerOptions{Key: byHeader}, served)
	admitted(t, ask(t, h, http.MethodGet, "gold"), `"default";r=999;t=4`)
	resp := ask(t, h, http.MethodGet, "free")
	admitted(t, resp, `"default";r=9;t=360`)
	require.Equal(t, `"default";q=10;w=3600`, resp.Header.Get("RateLimit-Policy"))
	require.Equal(t, 2, asked, "once a request")
	refused(t, ask(t, h, http.MethodGet, "nobody"), http.StatusInternalServerError, "misconfigured", "")
}

func TestMiddlewareWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	for name, checks := range map[string]func(*http.Request) ([]ratelimit.Check, bool){
		"key": nil,
		"checks": func(*http.Request) ([]ratelimit.Check, bool) {
			return []ratelimit.Check{{Limit: ratelimit.PerMinute(1), Key: "ada"}}, true
		},
	} {
		o := &ratelimit.HandlerOptions{Checks: checks}
		if checks == nil {
			o.Key = byHeader
		}
		open, err := ratelimit.New(broken{}, ratelimit.PerMinute(1), nil)
		require.NoError(t, err)
		h := around(t, open, o, served)
		for range 10 { // also when the breaker is open
			resp := ask(t, h, http.MethodGet, "ada")
			admitted(t, resp, "") // nobody has counted
			require.Equal(t, `"default";q=1;w=60`, resp.Header.Get("RateLimit-Policy"), name)
		}
		closed, err := ratelimit.New(broken{}, ratelimit.PerMinute(1), &ratelimit.Options{OnError: ratelimit.FailClosed, Cooldown: 1100 * time.Millisecond})
		require.NoError(t, err)
		h = around(t, closed, o, served)
		for range 10 {
			resp := ask(t, h, http.MethodGet, "ada")
			require.Empty(t, resp.Header.Get("RateLimit"), name)
			p := refused(t, resp, http.StatusServiceUnavailable, "unavailable", "2")
			require.NotContains(t, p, "violated-policies", name)
		}
		local, err := ratelimit.New(broken{}, ratelimit.PerMinute(1), &ratelimit.Options{OnError: ratelimit.FailLocal})
		require.NoError(t, err)
		h = around(t, local, o, served)
		admitted(t, ask(t, h, http.MethodGet, "ada"), `"default";r=0;t=60`)
		require.Equal(t, http.StatusTooManyRequests, ask(t, h, http.MethodGet, "ada").StatusCode)
	}
}

// A share of the limit cannot give what the whole can: that is no reason to tell a client never to come back.
func TestCostOverTheShareOfAFallbackIsAMatterOfTime(t *testing.T) {
	t.Parallel()
	l, err := ratelimit.New(broken{}, ratelimit.PerMinute(100), &ratelimit.Options{OnError: ratelimit.FailLocal, Share: 0.1})
	require.NoError(t, err)
	h := around(t, l, &ratelimit.HandlerOptions{Key: byHeader, Cost: func(*http.Request) int64 { return 11 }}, served)
	refused(t, ask(t, h, http.MethodGet, "ada"), http.StatusTooManyRequests, "limited", "1")
}

func TestRequestWhoseTimeIsUp(t *testing.T) {
	t.Parallel()
	l, err := ratelimit.New(broken{}, ratelimit.PerMinute(1), nil)
	require.NoError(t, err)
	h := around(t, l, &ratelimit.HandlerOptions{Key: byHeader}, served)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	r.Header.Set("User", "ada")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	refused(t, recorded(w), http.StatusServiceUnavailable, "unavailable", "1")
}

func TestSkip(t *testing.T) {
	t.Parallel()
	h, _ := behind(t, ratelimit.PerMinute(1), &ratelimit.HandlerOptions{
		Key: byHeader, Skip: func(r *http.Request) bool { return r.Method == http.MethodOptions },
	}, served)
	for range 3 {
		resp := ask(t, h, http.MethodOptions, "")
		admitted(t, resp, "")
		require.Empty(t, resp.Header.Get("RateLimit-Policy"))
	}
	admitted(t, ask(t, h, http.MethodGet, "ada"), `"default";r=0;t=60`)
}

func TestRefuseHook(t *testing.T) {
	t.Parallel()
	var got *ratelimit.Refusal
	h, c := behind(t, ratelimit.PerMinute(1), &ratelimit.HandlerOptions{
		Key: byHeader,
		Refuse: func(w http.ResponseWriter, _ *http.Request, refusal *ratelimit.Refusal) {
			got = refusal
			w.WriteHeader(http.StatusTeapot)
		},
	}, served)
	admitted(t, ask(t, h, http.MethodGet, "ada"), `"default";r=0;t=60`)
	c.advance(time.Microsecond)
	resp := ask(t, h, http.MethodGet, "ada")
	require.Equal(t, http.StatusTeapot, resp.StatusCode)
	require.Equal(t, "60", resp.Header.Get("Retry-After"))
	require.Equal(t, `"default";r=0;t=60`, resp.Header.Get("RateLimit"))
	require.Equal(t, time.Minute-time.Microsecond, got.RetryAfter)
	require.Equal(t, int64(60), got.RetrySeconds())
	require.Equal(t, []string{"default"}, got.Violated)
	require.Equal(t, http.StatusTooManyRequests, got.Status)
	require.Zero(t, new(ratelimit.Refusal).RetrySeconds())
}

func TestDocs(t *testing.T) {
	t.Parallel()
	h, _ := behind(t, ratelimit.PerMinute(1), &ratelimit.HandlerOptions{Key: byHeader, Docs: "https://example.com/limits", Fields: ratelimit.NoFields}, served)
	resp := ask(t, h, http.MethodGet, "ada")
	admitted(t, resp, "")
	require.Empty(t, resp.Header.Get("RateLimit-Policy"))
	p := refused(t, ask(t, h, http.MethodGet, "ada"), http.StatusTooManyRequests, "limited", "60")
	require.Equal(t, "https://example.com/limits#limited", p["type"])
	p = refused(t, ask(t, h, http.MethodGet, ""), http.StatusBadRequest, "key_missing", "")
	require.Equal(t, "https://example.com/limits#key_missing", p["type"])
	require.Equal(t, "Sender is unknown", p["title"])
}

func TestHandlerSetsItsOwnFields(t *testing.T) {
	t.Parallel()
	var seen string
	h, _ := behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{Key: byHeader}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		seen = w.Header().Get("RateLimit")
		w.Header().Set("RateLimit", `"own";r=1`)
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	resp := ask(t, h, http.MethodGet, "ada")
	require.Equal(t, `"default";r=4;t=12`, seen)
	require.Equal(t, []string{`"own";r=1`}, resp.Header.Values("RateLimit"))
	require.Equal(t, []string{`"default";q=5;w=60`}, resp.Header.Values("RateLimit-Policy"))
	require.Equal(t, "7", resp.Header.Get("Retry-After"))
}

// The handler gets the very writer and request, so that it can stream, hijack and read as without the middleware.
func TestHandlerGetsWriterAndRequestAsTheyAre(t *testing.T) {
	t.Parallel()
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	var gotW http.ResponseWriter
	var gotR *http.Request
	h, _ := behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{Key: byHeader, Anonymous: "nobody's"},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { gotW, gotR = w, r }))
	h.ServeHTTP(w, r)
	require.Same(t, w, gotW)
	require.Same(t, r, gotR)
}

// What a request has cost stays spent: a client could buy crashes for nothing.
func TestHandlerThatPanicsIsCharged(t *testing.T) {
	t.Parallel()
	h, _ := behind(t, ratelimit.PerMinute(5), &ratelimit.HandlerOptions{Key: byHeader}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			panic(http.ErrAbortHandler)
		}
	}))
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	_, err := send(t, server, http.MethodPost, "")
	require.ErrorIs(t, err, io.EOF, "the panic went on to the server")
	resp, err := send(t, server, http.MethodGet, "")
	require.NoError(t, err)
	admitted(t, resp, `"default";r=3;t=24`)
}

// All methods are counted; over the wire a HEAD has the header of a refusal, and no body.
func TestMethodsOverTheWire(t *testing.T) {
	t.Parallel()
	h, _ := behind(t, ratelimit.PerMinute(3), &ratelimit.HandlerOptions{Key: ratelimit.ClientIP()}, served)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	for i, method := range []string{http.MethodGet, http.MethodOptions, http.MethodHead, http.MethodHead, http.MethodOptions, http.MethodPut} {
		resp, err := send(t, server, method, "")
		require.NoError(t, err)
		require.Equal(t, method != http.MethodHead, len(resp.Body) > 0)
		require.Equal(t, `"default";q=3;w=60`, resp.Header.Get("RateLimit-Policy"))
		if i < 3 {
			admitted(t, resp, fmt.Sprintf(`"default";r=%d;t=%d`, 2-i, 20*(i+1)))
			continue
		}
		require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
		require.Equal(t, "20", resp.Header.Get("Retry-After"))
		require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	}
}

// A window is as new when it ends, however little of it is used; a bucket when that has come back, whatever the process' clock says.
func TestResetIsOfTheAlgorithm(t *testing.T) {
	t.Parallel()
	c := newClock()
	c.advance(time.Minute - 123456*time.Microsecond) // a window of ten minutes begins with the second in which the clock stands
	store := ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: c.Now})
	bucket, window := ratelimit.Limit{Rate: 10, Per: 10 * time.Minute}, ratelimit.Limit{Name: "w", Algorithm: ratelimit.FixedWindow, Rate: 10, Per: 10 * time.Minute}
	limiter, err := ratelimit.New(store, bucket, &ratelimit.Options{Now: c.Now})
	require.NoError(t, err)
	d := ratelimit.Hold(t.Context(), limiter, ratelimit.Check{Limit: bucket, Key: "ada"}, ratelimit.Check{Limit: window, Key: "ada"})
	require.Equal(t, []time.Duration{time.Minute, 9 * time.Minute}, []time.Duration{d.Quotas[0].Reset, d.Quotas[1].Reset})
	limiter, err = ratelimit.New(store, bucket, nil)
	require.NoError(t, err)
	d = ratelimit.Hold(t.Context(), limiter, ratelimit.Check{Limit: bucket, Key: "bob"})
	require.Equal(t, time.Minute, d.Quotas[0].Reset)
}

// A clock that is not the store's must not make a hint of nonsense.
func TestResetIsInBoundsWhereClocksDiffer(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-20 * 365 * 24 * time.Hour, -time.Hour, time.Hour} {
		c := newClock()
		l, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: c.Now}), ratelimit.PerMinute(2).As(ratelimit.FixedWindow),
			&ratelimit.Options{Now: func() time.Time { return c.Now().Add(off) }})
		require.NoError(t, err)
		d := ratelimit.Hold(t.Context(), l, ratelimit.Check{Limit: ratelimit.PerMinute(2).As(ratelimit.FixedWindow), Key: "ada"})
		require.Nil(t, d.Refusal)
		require.GreaterOrEqual(t, d.Quotas[0].Reset, time.Duration(0))
		require.LessOrEqual(t, d.Quotas[0].Reset, ratelimit.MaxRefill)
	}
}

// While the store fails, what could never be admitted is still no matter of time: no limit gives it when the store is back.
func TestCostOverTheWholeLimitWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	for _, policy := range []ratelimit.OnError{ratelimit.FailOpen, ratelimit.FailClosed, ratelimit.FailLocal} {
		l, err := ratelimit.New(broken{}, ratelimit.PerMinute(5), &ratelimit.Options{OnError: policy})
		require.NoError(t, err)
		cost := func(*http.Request) int64 { return 6 }
		one := around(t, l, &ratelimit.HandlerOptions{Key: byHeader, Cost: cost}, served)
		both := around(t, l, &ratelimit.HandlerOptions{Cost: cost, Checks: func(*http.Request) ([]ratelimit.Check, bool) {
			return []ratelimit.Check{{Limit: ratelimit.PerMinute(60).Named("wide"), Key: "ada"}, {Limit: ratelimit.PerMinute(5).Named("narrow"), Key: "ada"}}, true
		}}, served)
		p := refused(t, ask(t, one, http.MethodPost, "ada"), http.StatusUnprocessableEntity, "cost_too_high", "")
		require.Equal(t, []any{"default"}, p["violated-policies"])
		p = refused(t, ask(t, both, http.MethodPost, "ada"), http.StatusUnprocessableEntity, "cost_too_high", "")
		require.Equal(t, []any{"narrow"}, p["violated-policies"])
	}
}
