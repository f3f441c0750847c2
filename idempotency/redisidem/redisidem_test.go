package redisidem_test

import (
	"context"
	"crypto/rand"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/idemtest"
	"github.com/safetill/safetill/idempotency/redisidem"
	"github.com/safetill/safetill/internal/testdb"
)

var _ idempotency.Store = (*redisidem.Store)(nil)

func newStore(tb testing.TB, rdb redis.UniversalClient) *redisidem.Store {
	tb.Helper()
	store, err := redisidem.NewStore(rdb, &redisidem.Options{Prefix: tb.Name() + ":"})
	require.NoError(tb, err)
	return store
}

func TestStore(t *testing.T) {
	t.Parallel()
	store := newStore(t, testdb.Redis(t))
	idemtest.Run(t, func(testing.TB) idempotency.Store { return store })
}

func TestStoreOnCluster(t *testing.T) {
	t.Parallel()
	store := newStore(t, testdb.RedisCluster(t))
	idemtest.Run(t, func(testing.TB) idempotency.Store { return store })
}

func TestStoreOnClusterInOneSlot(t *testing.T) {
	t.Parallel()
	store, err := redisidem.NewStore(testdb.RedisCluster(t), &redisidem.Options{Prefix: "{one slot}:"})
	require.NoError(t, err)
	idemtest.Run(t, func(testing.TB) idempotency.Store { return store })
}

func TestNewStoreRefusesNil(t *testing.T) {
	t.Parallel()
	for _, client := range []redis.UniversalClient{nil, (*redis.Client)(nil)} {
		_, err := redisidem.NewStore(client, nil)
		require.ErrorIs(t, err, idempotency.ErrInvalid)
	}
}

func requests(n int) []idempotency.Request {
	all, scope := make([]idempotency.Request, n), rand.Text() // other runs have used the same server
	for i := range all {
		all[i] = idempotency.Request{
			Key: idempotency.Key{Scope: scope, Op: "test", Value: strconv.Itoa(i)}, Lease: time.Minute,
		}
	}
	return all
}

// hooks counts round trips, and repeats commands as the client does when a reply is lost.
type hooks struct {
	trips  atomic.Int32
	resend bool
	lost   sync.Map // by command, the answer that the client has not seen
}

func (h *hooks) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *hooks) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.trips.Add(1)
		if h.resend {
			_ = next(ctx, cmd)
			h.lose(cmd)
		}
		return next(ctx, cmd)
	}
}

func (h *hooks) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h.trips.Add(1)
		if h.resend {
			_ = next(ctx, cmds)
			for _, cmd := range cmds {
				h.lose(cmd)
			}
		}
		return next(ctx, cmds)
	}
}

func (h *hooks) lose(cmd redis.Cmder) {
	if script, ok := cmd.(*redis.Cmd); ok {
		h.lost.Store(script, script.Val())
	}
}

// tokens are those of the claims that an answer says are won.
func tokens(answer any) (all []any) {
	claims, _ := answer.([]any)
	for _, claim := range claims {
		if c, ok := claim.([]any); ok && c[0] == int64(1) {
			all = append(all, c[1])
		}
	}
	return all
}

// backends connect to what a store can run on.
var backends = map[string]func(testing.TB) redis.UniversalClient{
	"one server": func(t testing.TB) redis.UniversalClient { return testdb.Redis(t) },
	"cluster":    func(t testing.TB) redis.UniversalClient { return testdb.RedisCluster(t) },
}

// A batch is one command on one server and one pipeline on a cluster.
func TestOneRoundTrip(t *testing.T) {
	t.Parallel()
	for name, connect := range backends {
		t.Run(name, func(t *testing.T) {
			rdb := connect(t)
			store := newStore(t, rdb)
			batch := requests(100)
			// Each node has to see each script once.
			_, err := store.Claim(t.Context(), batch)
			require.NoError(t, err)
			_, err = store.Release(t.Context(), []idempotency.Claim{{Key: batch[0].Key, Token: 1}})
			require.NoError(t, err)

			var h hooks
			rdb.AddHook(&h)
			records, err := store.Claim(t.Context(), batch)
			require.NoError(t, err)
			require.Len(t, records, 100)
			require.EqualValues(t, 1, h.trips.Load())
		})
	}
}

// The client sends a script again when its reply was lost: the owner must not be told that somebody else holds its key.
func TestResentCommandsAreRecognised(t *testing.T) {
	t.Parallel()
	for name, connect := range backends {
		t.Run(name, func(t *testing.T) {
			rdb := connect(t)
			store := newStore(t, rdb)
			// Each node has to see the script once, or another test may have it seen between the two times that it is sent.
			_, err := store.Claim(t.Context(), requests(100))
			require.NoError(t, err)
			h := hooks{resend: true}
			rdb.AddHook(&h)
			batch := requests(10)
			batch = append(batch, batch[3]) // a duplicate stays a duplicate
			records, err := store.Claim(t.Context(), batch)
			require.NoError(t, err)
			// With the token that was lost: the two may also arrive the other way round.
			var lost int
			h.lost.Range(func(cmd, answer any) bool {
				lost += len(tokens(answer))
				return assert.Equal(t, tokens(answer), tokens(cmd.(*redis.Cmd).Val()))
			})
			require.Equal(t, 10, lost)
			var completions []idempotency.Completion
			for i, r := range records[:10] {
				require.Equal(t, idempotency.Won, r.Outcome)
				completions = append(completions, idempotency.Completion{Key: batch[i].Key, Token: r.Token, TTL: time.Minute})
			}
			require.Equal(t, idempotency.InFlight, records[10].Outcome)
			items, err := store.Complete(t.Context(), completions)
			require.NoError(t, err)
			require.Equal(t, make([]error, 10), items)

			batch = requests(1)
			records, err = store.Claim(t.Context(), batch)
			require.NoError(t, err)
			items, err = store.Extend(t.Context(), []idempotency.Extension{{
				Key: batch[0].Key, Token: records[0].Token, Lease: 100 * time.Millisecond, Keep: time.Hour,
				Step: idempotency.StepRecord{Name: "charge", Result: []byte("charged")},
			}})
			require.NoError(t, err)
			require.NoError(t, items[0])
			require.Eventually(t, func() bool { // the lease ends, and the claim that is sent twice is won with its step
				records, err = store.Claim(t.Context(), batch)
				return err == nil && records[0].Outcome == idempotency.Won
			}, 10*time.Second, 10*time.Millisecond)
			require.Equal(t, []idempotency.StepRecord{{Name: "charge", Result: []byte("charged")}}, records[0].Steps)
		})
	}
}

// Every record expires: at once on the wire, so that no crash between two commands can leave one for ever.
func TestEveryRecordExpires(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	store := newStore(t, rdb)
	ctx := t.Context()
	batch := requests(10)
	records, err := store.Claim(ctx, batch)
	require.NoError(t, err)
	_, err = store.Complete(ctx, []idempotency.Completion{{Key: batch[1].Key, Token: records[1].Token, TTL: 24 * time.Hour}})
	require.NoError(t, err)
	_, err = store.Release(ctx, []idempotency.Claim{{Key: batch[2].Key, Token: records[2].Token}})
	require.NoError(t, err)
	_, err = store.Extend(ctx, []idempotency.Extension{{Key: batch[3].Key, Token: records[3].Token, Lease: 2 * time.Hour}})
	require.NoError(t, err)
	for n, keep := range map[int]time.Duration{ // with a step, kept for less or more than a claim is
		4: time.Minute, 5: 5 * time.Hour, 6: time.Minute, 7: 5 * time.Hour, 8: time.Minute, 9: 5 * time.Hour,
	} {
		_, err = store.Extend(ctx, []idempotency.Extension{{
			Key: batch[n].Key, Token: records[n].Token, Lease: time.Minute, Keep: keep, Step: idempotency.StepRecord{Name: "charge"},
		}})
		require.NoError(t, err)
		if n >= 8 { // the work goes on
			continue
		}
		_, err = store.Release(ctx, []idempotency.Claim{{Key: batch[n].Key, Token: records[n].Token}})
		require.NoError(t, err)
	}
	_, err = store.Claim(ctx, batch[6:8]) // by the next owners, who have the step too
	require.NoError(t, err)
	for i, want := range []time.Duration{
		time.Minute + idempotency.AbandonedFor, 24 * time.Hour, idempotency.AbandonedFor,
		2*time.Hour + idempotency.AbandonedFor, idempotency.AbandonedFor, 5 * time.Hour,
		time.Minute + idempotency.AbandonedFor, 5 * time.Hour, time.Minute + idempotency.AbandonedFor, 5 * time.Hour,
	} {
		ttl, err := rdb.PTTL(ctx, t.Name()+":{"+batch[i].Key.String()+"}").Result()
		require.NoError(t, err)
		require.InDelta(t, want.Seconds(), ttl.Seconds(), 30, i)
	}
}

// A record written when the clock was ahead: the token must grow from it, not from the clock.
func TestTokenGrowsWhenTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	store := newStore(t, rdb)
	batch := requests(1)
	ahead := time.Now().Add(20 * time.Minute).UnixMicro()
	record := string(binary64("F", ahead, time.Now().Add(-time.Second).UnixMicro())) + strings.Repeat("\x00", 32)
	require.NoError(t, rdb.Set(t.Context(), t.Name()+":{"+batch[0].Key.String()+"}", record, time.Hour).Err())
	records, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, idempotency.Won, records[0].Outcome)
	require.EqualValues(t, ahead+1, records[0].Token)
}

// A replica is promoted that has heard of an earlier owner, and not of the last one: the next token is above that one's too, since it is the clock's.
func TestTokenOutgrowsAnOwnerWhoWasNotReplicated(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	store := newStore(t, rdb)
	batch := requests(1)
	last := time.Now().Add(-time.Second).UnixMicro() // the token that was lost
	record := string(binary64("F", last-60_000_000, last-30_000_000)) + strings.Repeat("\x00", 32)
	require.NoError(t, rdb.Set(t.Context(), t.Name()+":{"+batch[0].Key.String()+"}", record, time.Hour).Err())
	records, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, idempotency.Won, records[0].Outcome)
	require.Greater(t, int64(records[0].Token), last)
}

func binary64(state string, numbers ...int64) []byte {
	b := []byte(state)
	for _, n := range numbers {
		for shift := 56; shift >= 0; shift -= 8 {
			b = append(b, byte(n>>shift))
		}
	}
	return b
}

// Redis loses everything it knows while A is working: B's token must still be above A's.
func TestTokensOutgrowAFlush(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	store := newStore(t, rdb)
	batch := requests(1)
	a, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	require.NoError(t, rdb.Del(t.Context(), t.Name()+":{"+batch[0].Key.String()+"}").Err())
	b, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	require.Greater(t, b[0].Token, a[0].Token)
	items, err := store.Complete(t.Context(), []idempotency.Completion{{Key: batch[0].Key, Token: a[0].Token, TTL: time.Hour}})
	require.NoError(t, err)
	require.ErrorIs(t, items[0], idempotency.ErrLost)
}

// Not parallel: it takes the scripts away from the tests that count round trips.
func TestScriptsAreReloaded(t *testing.T) {
	rdb := testdb.RedisCluster(t)
	store := newStore(t, rdb)
	flush := func() {
		require.NoError(t, rdb.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			return node.ScriptFlush(ctx).Err()
		}))
	}
	flush()
	batch := requests(50)
	records, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	flush()
	claims := make([]idempotency.Claim, len(batch))
	for i, r := range records {
		require.Equal(t, idempotency.Won, r.Outcome)
		claims[i] = idempotency.Claim{Key: batch[i].Key, Token: r.Token}
	}
	items, err := store.Release(t.Context(), claims)
	require.NoError(t, err)
	require.Equal(t, make([]error, len(batch)), items)
}

func TestRedisDownIsClosed(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // a port that nobody answers on
	require.NoError(t, err)
	require.NoError(t, l.Close())
	rdb := redis.NewClient(&redis.Options{Addr: l.Addr().String(), MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = rdb.Close() })
	store := newStore(t, rdb)
	guard, err := idempotency.New(store, nil)
	require.NoError(t, err)
	_, err = idempotency.Do(t.Context(), guard, requests(1)[0].Key, idempotency.Fingerprint{},
		func(context.Context, *idempotency.Run) (int, error) { panic("must not run") })
	require.Error(t, err)

	records, err := store.Claim(t.Context(), requests(2))
	require.Error(t, err)
	require.Equal(t, []idempotency.Record{{}, {}}, records) // idempotency.Unknown
	items, err := store.Complete(t.Context(), []idempotency.Completion{{Key: requests(1)[0].Key, Token: 1, TTL: time.Hour}})
	require.Error(t, err)
	require.Error(t, items[0])
}

func BenchmarkClaim100(b *testing.B) {
	store := newStore(b, testdb.Redis(b))
	fresh := 0
	batch := requests(100)
	for b.Loop() {
		for i := range batch {
			fresh++
			batch[i].Key.Value = strconv.Itoa(fresh)
			batch[i].Lease = time.Second
		}
		if _, err := store.Claim(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}

// deadNode lets the commands of a pipeline fail whose key is odd, as those of a node that is down do.
type deadNode struct{ hooks }

func (h *deadNode) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var alive []redis.Cmder
		for _, cmd := range cmds {
			if key := cmd.Args()[3].(string); strings.HasSuffix(key, "1}") {
				cmd.SetErr(net.ErrClosed)
			} else {
				alive = append(alive, cmd)
			}
		}
		_ = next(ctx, alive)
		return net.ErrClosed
	}
}

// One node of the cluster is down: the call says so, and what the others have decided is not thrown away.
func TestDeadNodeLeavesItsItemsUnknown(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	rdb.AddHook(new(deadNode))
	store := newStore(t, rdb)
	batch := requests(3)
	records, err := store.Claim(t.Context(), batch)
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, idempotency.Won, records[0].Outcome)
	require.Equal(t, idempotency.Unknown, records[1].Outcome)
	require.Equal(t, idempotency.Won, records[2].Outcome)

	items, err := store.Release(t.Context(), []idempotency.Claim{
		{Key: batch[0].Key, Token: records[0].Token}, {Key: batch[1].Key, Token: 1}, {Key: batch[2].Key, Token: 1},
	})
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, items[0])
	require.ErrorIs(t, items[1], net.ErrClosed)
	require.ErrorIs(t, items[2], idempotency.ErrLost)
}
