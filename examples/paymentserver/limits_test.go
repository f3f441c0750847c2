package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

// limitsClient is a client at an address of the loopback net.
func limitsClient(t *testing.T, address string) *http.Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: apiWait, Transport: transport}
}

func limitsPost(t *testing.T, client *http.Client, s *apiServer, body string, header ...string) apiAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.public+"/api/v1/payments", strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return apiAnswer{status: resp.StatusCode, header: resp.Header, body: text}
}

// limitsRefused posts payments until one is over the limit, and returns its reference and answer. The limit is of one a second, and each second
// that a slow machine takes lets one more through.
func limitsRefused(t *testing.T, client *http.Client, s *apiServer, name, customer string) (string, apiAnswer) {
	t.Helper()
	for n := range 100 {
		reference := name + strconv.Itoa(n)
		a := limitsPost(t, client, s, apiPaid(reference, customer, "1", "COMPLETE"))
		if a.status != http.StatusAccepted {
			return reference, a
		}
	}
	require.Fail(t, "nothing is refused")
	return "", apiAnswer{}
}

func TestLimitsRefuseOneAddressAndNotAnother(t *testing.T) {
	t.Parallel()
	apiEach(t, func(t *testing.T, s *apiServer) {
		here, there := limitsClient(t, "127.0.0.2"), limitsClient(t, "127.0.0.3")
		reference, a := limitsRefused(t, here, s, "A-", "GIG00001")
		requireProblem(t, a, http.StatusTooManyRequests)
		require.Contains(t, string(a.body), "limits ip")
		require.Equal(t, "1", a.header.Get("Retry-After"))
		require.Equal(t, `"ip";q=1;w=1, "global";q=1000;w=1`, a.header.Get("RateLimit-Policy"))
		require.Regexp(t, `^"ip";r=0;t=1, "global";r=\d+;t=[01]$`, a.header.Get("RateLimit"))

		// Nothing was written.
		missing := apiCall(t, http.MethodGet, s.public+"/api/v1/payments/"+reference, "")
		require.Equal(t, http.StatusNotFound, missing.status, "%s", missing.body)
		require.Contains(t, string(apiCall(t, http.MethodGet, s.admin+"/metrics", "").body), `paymentserver_payments_accepted_total{result="limited"} 1`)

		a = limitsPost(t, there, s, apiPaid("B-1", "GIG00001", "1", "COMPLETE"), "X-Forwarded-For", "127.0.0.2")
		require.Equal(t, http.StatusAccepted, a.status, "%s", a.body)
		require.Regexp(t, `^"ip";r=0;t=1, `, a.header.Get("RateLimit"))

		// What is read is not limited, and the refused payment may come again.
		s.settled(t, "B-1")
		apiUntil(t, func() bool {
			return limitsPost(t, here, s, apiPaid(reference, "GIG00001", "1", "COMPLETE")).status == http.StatusAccepted
		}, "%s stays refused", reference)
		s.settled(t, reference)
		s.sound(t)
	}, "-limit-ip", "1", "-limit-global", "1000")
}

func TestLimitsOfACustomer(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		_, a := limitsRefused(t, apiClient, s, "C-", "GIG00001")
		requireProblem(t, a, http.StatusTooManyRequests)
		require.Contains(t, string(a.body), "limits customer")
		s.accept(t, http.StatusAccepted, apiPaid("D-1", "GIG00002", "1", "COMPLETE"))
	}, "-limit-customer", "1")
}

// With Redis all servers count in one place; what comes of that is tested in redislimit. A counter is there until it is full again: 1 s.
func TestLimitsAreCountedInRedis(t *testing.T) {
	t.Parallel()
	url := testdb.RedisURL(t)
	s := startAPI(t, "-postgres", testdb.PostgresURL(t), "-redis", url, "-migrate", "-limit-ip", "1", "-limit-customer", "1", "-limit-global", "1")
	options, err := redis.ParseURL(url)
	require.NoError(t, err)
	rdb := redis.NewClient(options)
	t.Cleanup(func() { _ = rdb.Close() })
	n := 0
	apiUntil(t, func() bool {
		n++
		s.post(t, apiPaid("S-"+strconv.Itoa(n), "GIG00001", "1", "COMPLETE"))
		keys, err := rdb.Keys(t.Context(), "ratelimit:*").Result()
		require.NoError(t, err)
		return len(keys) == 3
	}, "there is not a counter for each limit")
}

func TestLimitsBehindAProxy(t *testing.T) {
	t.Parallel()
	s := apiStart(t, "memory", "-limit-ip", "1", "-proxies", "127.0.0.0/8")
	for _, client := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		a := limitsPost(t, apiClient, s, apiPaid("P-"+client, "GIG00001", "1", "COMPLETE"), "X-Forwarded-For", "198.51.100.7, "+client)
		require.Equal(t, http.StatusAccepted, a.status, "%s", a.body)
	}
}

func TestLimitsAreOffUnlessChosen(t *testing.T) {
	t.Parallel()
	s := apiStart(t, "memory")
	a := s.post(t, apiBody())
	require.Equal(t, http.StatusAccepted, a.status)
	require.Empty(t, a.header.Get("RateLimit"))
	require.Empty(t, a.header.Get("RateLimit-Policy"))
}
