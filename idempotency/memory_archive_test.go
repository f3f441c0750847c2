package idempotency

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// kept is what the plain model of an archive has of a key.
type kept struct {
	hash     uint32
	until    time.Duration
	token    Token
	response []byte
}

// Random completions, removals and sweeps, of keys that share few hashes, agree with a map; seeds are in the failure.
func TestArchiveAgreesWithAMap(t *testing.T) {
	t.Parallel()
	for range 5 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		var a archive
		model := map[Key]kept{}
		now := time.Duration(0)
		for step := range 2000 {
			growing := step/500%2 == 0
			now += time.Duration(r.Int64N(int64(time.Second)))
			key := Key{Scope: "s", Op: fmt.Sprint(r.IntN(3)), Value: fmt.Sprint(r.IntN(2000))}
			was, has := model[key]
			hash := uint32(len(key.Op)+len(key.Value)*7) + key.sum()%97<<(key.sum()%3*8) // chains of several
			ref := a.find(key, hash)
			switch {
			case !has:
				require.Zero(t, ref, "seed %d", seed)
			case ref != 0:
				e := a.entry(ref)
				require.Equal(t, was.until, e.until(), "seed %d", seed)
				require.Equal(t, was.token, e.token(), "seed %d", seed)
				require.True(t, bytes.Equal(was.response, e.response()), "seed %d", seed)
				require.Equal(t, len(e.response()), cap(e.response()))
			default:
				require.LessOrEqual(t, was.until, now, "seed %d: gone before its time", seed)
			}
			switch {
			case ref != 0 && (was.until <= now || !growing):
				a.remove(ref)
				delete(model, key)
			case ref == 0 && (growing || r.IntN(4) == 0):
				ttl := time.Duration(1+r.Int64N(1000)) * time.Millisecond << (4 * r.IntN(5))
				response := bytes.Repeat([]byte{byte(step)}, r.IntN(300)<<(2*r.IntN(5)))
				c := &Completion{Key: key, Token: Token(step), Status: int32(step), Response: response, TTL: ttl}
				a.add(c, hash, Fingerprint{byte(step)}, now)
				model[key] = kept{hash, now + ttl, Token(step), bytes.Clone(response)}
			}
			if r.IntN(3) == 0 {
				a.sweep(now, r.IntN(20))
			}
			if step%100 == 0 {
				a.check(t, seed)
			}
		}
		now += 1 << 50
		for a.sweep(now, 100) == 100 {
			a.check(t, seed)
		}
		require.Zero(t, a.count)
		require.Empty(t, a.due)
		require.Empty(t, a.open)
		for _, b := range a.blocks {
			require.Nil(t, b.data)
		}
		require.Len(t, a.heads, fewestChains, "seed %d", seed)
	}
}

// sum is any number of a key.
func (k Key) sum() uint32 {
	n := uint32(2166136261)
	for _, c := range []byte(k.String()) {
		n = (n ^ uint32(c)) * 16777619
	}
	return n
}

// check finds each record once, in the chain of its hash.
func (a *archive) check(t *testing.T, seed uint64) {
	t.Helper()
	n := 0
	for i, r := range a.heads {
		for r != 0 {
			e := a.entry(r)
			require.EqualValues(t, i, a.chain(e.hash()), "seed %d", seed)
			require.NotZero(t, e.until(), "seed %d", seed)
			n++
			require.LessOrEqual(t, n, a.count, "seed %d: a chain in a circle", seed)
			r = e.next()
		}
	}
	require.Equal(t, a.count, n, "seed %d", seed)
	if chains := uint32(len(a.heads)); chains > 0 {
		require.GreaterOrEqual(t, a.mask, chains-1)
		require.Less(t, a.mask/2, chains-1+1, "seed %d", seed)
	}
	require.LessOrEqual(t, len(a.heads), max(fewestChains, 2*a.count+2), "seed %d", seed)
}

// A record that is as large as it may be, beside small ones.
func TestArchiveKeepsLargeResponses(t *testing.T) {
	t.Parallel()
	var a archive
	for i, size := range []int{0, longest, longest + 1, blockSize - 100, blockSize, blockSize + 1, 3 << 20, 1} {
		key := Key{Scope: "s", Op: "o", Value: fmt.Sprint(i)}
		response := bytes.Repeat([]byte{byte(i)}, size)
		a.add(&Completion{Key: key, Token: 1, Response: response, TTL: time.Hour}, uint32(i), Fingerprint{}, 0)
		require.Equal(t, response, a.entry(a.find(key, uint32(i))).response())
	}
	require.Equal(t, 8, a.sweep(2*time.Hour, 100))
}

// What was handed out stays as it was when its block has gone.
func TestResponsesOutliveTheirBlock(t *testing.T) {
	t.Parallel()
	var a archive
	key := Key{Scope: "s", Op: "o", Value: "v"}
	a.add(&Completion{Key: key, Token: 1, Response: []byte("receipt"), TTL: time.Second}, 7, Fingerprint{}, 0)
	response := a.entry(a.find(key, 7)).response()
	require.Equal(t, 1, a.sweep(time.Minute, 10))
	for i := range 1000 {
		a.add(&Completion{Key: Key{Scope: "s", Op: "o", Value: fmt.Sprint(i)}, Token: 1, Response: []byte("another"), TTL: time.Second},
			uint32(i), Fingerprint{}, time.Minute)
	}
	require.Equal(t, "receipt", string(response))
}
