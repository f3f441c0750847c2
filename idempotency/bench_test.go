package idempotency_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

type receipt struct {
	ID       string `json:"id"`
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

// replaying returns a call of Do whose result is replayed.
func replaying[T any](tb testing.TB, value T) func() {
	tb.Helper()
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	require.NoError(tb, err)
	ctx, key, fp := tb.Context(), fullKey(1), idempotency.FingerprintOf([]byte("body"))
	work := func(context.Context, *idempotency.Run) (T, error) { return value, nil }
	do := func() {
		if _, err := idempotency.Do(ctx, guard, key, fp, work); err != nil {
			panic(err)
		}
	}
	do()
	return do
}

// Do itself allocates nothing to replay: what remains is the caller's copy of the value, one allocation where its type is
// one block of bytes, and encoding/json's own for other types.
func TestReplayAllocates(t *testing.T) {
	body := make([]byte, 200)
	require.LessOrEqual(t, testing.AllocsPerRun(1000, replaying(t, body)), 1.0)
	require.LessOrEqual(t, testing.AllocsPerRun(1000, replaying(t, string(body))), 1.0)
	value := receipt{"pay-1", "80.50", "NGN"}
	_, response, err := idempotency.EncodeResult(value, nil, 1000)
	require.NoError(t, err)
	decoding := testing.AllocsPerRun(1000, func() { _ = json.Unmarshal(response, new(receipt)) })
	require.LessOrEqual(t, testing.AllocsPerRun(1000, replaying(t, value)), decoding)
}

func TestMemoryReplayAllocates(t *testing.T) {
	store, q := completedKey(t)
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = store.ClaimOne(t.Context(), q) }))
	batch := []idempotency.Request{q}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { _, _ = store.Claim(t.Context(), batch) }), 1.0)
}

func BenchmarkDoReplay(b *testing.B) {
	body := make([]byte, 200)
	for name, do := range map[string]func(){
		"T=[]byte": replaying(b, body), "T=string": replaying(b, string(body)), "T=int": replaying(b, 42),
		"T=struct": replaying(b, receipt{"pay-1", "80.50", "NGN"}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}

func BenchmarkDoRun(b *testing.B) {
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	require.NoError(b, err)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		_, err := idempotency.Do(b.Context(), guard, fullKey(n), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) (string, error) { return "receipt", nil })
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMemoryReplay(b *testing.B) {
	store, q := completedKey(b)
	b.ReportAllocs()
	ctx := b.Context()
	for b.Loop() {
		if r, err := store.ClaimOne(ctx, q); err != nil || r.Outcome != idempotency.Completed {
			b.Fatal(r, err)
		}
	}
}

func completedKey(tb testing.TB) (*idempotency.Memory, idempotency.Request) {
	tb.Helper()
	store := idempotency.NewMemory(nil)
	q := idempotency.Request{Key: fullKey(1), Lease: time.Minute}
	fill(tb, store, []idempotency.Request{q}, []byte(`{"id":"pay-1"}`), time.Hour)
	return store, q
}

// fullKey is a key as they are in production: 11 + 14 + 36 bytes.
func fullKey(n int) idempotency.Key {
	return idempotency.Key{
		Scope: fmt.Sprintf("tenant-%04d", n%10_000), Op: "create-payment",
		Value: fmt.Sprintf("%08x-40d5-43dd-bc93-%012x", n, n),
	}
}

// fill claims and completes.
func fill(tb testing.TB, store idempotency.Store, batch []idempotency.Request, response []byte, ttl time.Duration) {
	tb.Helper()
	records, err := store.Claim(tb.Context(), batch)
	require.NoError(tb, err)
	completions := make([]idempotency.Completion, len(batch))
	for i, r := range records {
		completions[i] = idempotency.Completion{Key: batch[i].Key, Token: r.Token, Response: response, TTL: ttl}
	}
	_, err = store.Complete(tb.Context(), completions)
	require.NoError(tb, err)
}

// fillMany completes keys 0 to n-1 with these responses.
func fillMany(tb testing.TB, store idempotency.Store, n int, response []byte, ttl time.Duration) {
	tb.Helper()
	const at = 1000
	batch := make([]idempotency.Request, at)
	for from := 0; from < n; from += at {
		for i := range batch {
			batch[i] = idempotency.Request{Key: fullKey(from + i), Lease: time.Minute}
		}
		fill(tb, store, batch, response, ttl)
	}
}

// liveKeys is how many keys the tests of memory and pauses hold: 10^7 where SAFETILL_PROOF=full, which takes 2 GB.
func liveKeys() int {
	if os.Getenv("SAFETILL_PROOF") == "full" {
		return 10_000_000
	}
	return 300_000
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Not parallel: it measures the heap.
func TestMemoryBytesAKey(t *testing.T) {
	n := liveKeys()
	response := []byte(`{"id":"pay-1","amount":"80.50","currency":"NGN","status":"done"}`) // 64 bytes
	before := heapInUse()
	store := idempotency.NewMemory(nil)
	start := time.Now()
	fillMany(t, store, n, response, 24*time.Hour)
	filled := time.Since(start)
	perKey := float64(heapInUse()-before)/float64(n) - float64(len(response))
	start = time.Now()
	runtime.GC()
	t.Logf("%d keys of 61 bytes: %.0f bytes a key beside the response; filled in %v; a collection takes %v",
		n, perKey, filled.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	require.Less(t, perKey, 150.0)
	r, err := store.ClaimOne(t.Context(), idempotency.Request{Key: fullKey(n / 2), Lease: time.Minute})
	require.NoError(t, err)
	require.Equal(t, idempotency.Completed, r.Outcome)
}
