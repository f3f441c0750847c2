package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
)

var update = flag.Bool("update", false, "draw the README's picture again")

func start(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := run(ctx, args, &out, io.Discard)
	return out.String(), err
}

// TestREADME runs the page's transcript of simulate.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	picture, err := filepath.Abs("simulation.svg")
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	block := regexp.MustCompile("(?s)```console\n\\$ go run ./examples/ratelimit (.*?)\n(.*?)```").FindStringSubmatch(string(readme))
	require.Len(t, block, 3)
	out, err := start(t.Context(), strings.Fields(block[1])...)
	require.NoError(t, err)
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(block[2])), "…", ".+")
	require.Regexp(t, "^"+pattern+"$", strings.TrimSpace(out))
	if *update {
		_, err := start(t.Context(), "simulate", "-for", "3s", "-stall", "300ms", "-o", picture)
		require.NoError(t, err)
	}
	for _, file := range []string{"simulation.svg", picture} {
		wellFormed(t, file)
	}
}

// wellFormed also tells that nothing outside is referred to.
func wellFormed(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	d := xml.NewDecoder(bytes.NewReader(data))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
	}
	require.NotContains(t, string(data), "href")
	require.Contains(t, string(data), "prefers-color-scheme:dark")
	require.NotContains(t, string(data), "NaN")
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"sing", "simulate -nodes 0", "simulate -algorithm x", "simulate -demand 0", "simulate -demand 1e9", "simulate -for 0s", "simulate -rate 0",
		"simulate -max-over 2", "simulate x", "serve", "serve -owned a,b", "serve -owned 127.0.0.1:7071 -redis redis://x", "serve -redis redis://x -way x",
		"serve -redis redis://x -nodes 0", "serve -redis nonsense",
	} {
		_, err := start(t.Context(), strings.Fields(args)...)
		require.Error(t, err, args)
	}
	_, err := start(t.Context(), "-h")
	require.ErrorIs(t, err, flag.ErrHelp)
}

// fleet starts processes and returns their addresses.
func fleet(t *testing.T, n int, args func(addrs []string) []string) (addrs []string, stop []func()) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed at once
		require.NoError(t, err)
		addrs = append(addrs, l.Addr().String())
		defer func() { require.NoError(t, l.Close()) }()
	}
	return addrs, startAll(t, addrs, args(addrs))
}

func startAll(t *testing.T, addrs, args []string) (stop []func()) {
	t.Cleanup(func() {
		for _, s := range stop {
			s()
		}
	})
	for _, addr := range addrs {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			for { // until its port is free
				_, err := start(ctx, append([]string{"serve", "-addr", addr}, args...)...)
				if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "address already in use") {
					ended <- err
					return
				}
			}
		}()
		stop = append(stop, sync.OnceFunc(func() { cancel(); require.NoError(t, <-ended) }))
	}
	return stop
}

type answer struct {
	Allowed   bool
	Remaining int64
	Source    string
}

// ask asks until there is an answer: a process may not serve yet.
func ask(t *testing.T, addr, key string) (a answer, status int) {
	require.Eventually(t, func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/check/"+key, nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return false
		}
		defer func() { _ = response.Body.Close() }()
		status = response.StatusCode
		return json.NewDecoder(response.Body).Decode(&a) == nil
	}, 10*time.Second, 5*time.Millisecond)
	return a, status
}

func TestOwnedFleet(t *testing.T) {
	t.Parallel()
	addrs, stop := fleet(t, 3, func(addrs []string) []string {
		return []string{"-owned", strings.Join(addrs, ","), "-rate", "9"}
	})
	for _, addr := range addrs {
		ask(t, addr, "warm")
	}
	begun := time.Now()
	for k, counted := 0, 0; counted < 5; k++ { // on a busy machine a peer may not answer in 20 ms: then each process gives its share, and what the peer gave is lost
		require.Less(t, time.Since(begun), time.Minute, "peers never answer in time")
		key, allowed, slow, asked := fmt.Sprint("key-", k), 0, false, time.Now()
		for i := range 15 {
			a, status := ask(t, addrs[i%3], key)
			require.NotEqual(t, "fail_open", a.Source)
			require.Equal(t, a.Allowed, status == http.StatusOK)
			slow = slow || a.Source == "fallback"
			if a.Allowed {
				allowed++
			}
		}
		if slow {
			continue
		}
		counted++
		require.GreaterOrEqual(t, allowed, 9)
		require.LessOrEqual(t, allowed, 10+int(9*time.Since(asked).Minutes()), "what comes back meanwhile counts, too")
	}
	members := ratelimit.NewMembers(addrs...)
	lost := ""
	for i := 0; lost == ""; i++ {
		if key := fmt.Sprint("lost-", i); members.Owner(key) == addrs[2] {
			lost = key
		}
	}
	stop[2]()
	a, _ := ask(t, addrs[0], lost)
	require.Equal(t, answer{true, 2, "fallback"}, a)
}

// A key that JSON cannot carry would be another one at its owner, who would not own that.
func TestKeyThatIsNotText(t *testing.T) {
	t.Parallel()
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerMinute(1), nil)
	require.NoError(t, err)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/check/x", nil)
	for key, status := range map[string]int{"a\xff": http.StatusBadRequest, "größe": http.StatusOK} {
		r.SetPathValue("key", key)
		w := httptest.NewRecorder()
		(&node{decider: limiter}).check(w, r)
		require.Equal(t, status, w.Code, "%q", key)
	}
}

func TestRedisFleet(t *testing.T) {
	t.Parallel()
	url := testdb.RedisURL(t)
	for _, way := range []string{"hybrid", "leased", "each"} {
		addrs, _ := fleet(t, 3, func([]string) []string {
			return []string{"-redis", url, "-way", way, "-rate", "100", "-nodes", "3"}
		})
		begun := time.Now()
		for slow := true; slow; { // on a busy machine Redis may not answer in 20 ms: then what it has given is lost
			require.Less(t, time.Since(begun), time.Minute, "Redis never answers in time")
			key, allowed := fmt.Sprint(way, time.Now().UnixNano()), 0
			slow = false
			for i := range 150 {
				a, _ := ask(t, addrs[i%3], key)
				slow = slow || a.Source == "fallback"
				if a.Allowed {
					allowed++
				}
			}
			if slow {
				continue
			}
			require.GreaterOrEqual(t, allowed, 85, way)
			require.LessOrEqual(t, allowed, 125, "%s: what comes back meanwhile counts, too", way)
		}
	}
}

func FuzzReadCalls(f *testing.F) {
	f.Add([]byte(`[{"Ops":[{"Kind":0,"Limit":{"Name":"","Algorithm":0,"Rate":1,"Per":1000,"Burst":0},"Key":"k","N":1}]}]`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`[{"Ops":null}] x`))
	f.Fuzz(func(t *testing.T, data []byte) {
		calls, err := readCalls(bytes.NewReader(data))
		if err != nil {
			return
		}
		require.Len(t, ratelimit.NewMemory(nil).Decide(t.Context(), calls), len(calls)) // which refuses what is not valid
		again, err := json.Marshal(calls)
		require.NoError(t, err)
		other, err := readCalls(bytes.NewReader(again))
		require.NoError(t, err)
		require.Equal(t, calls, other)
	})
}
