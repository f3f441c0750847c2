package redislimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// patience is what a caller has, and soon by when it must be back on a busy machine.
const (
	patience = 50 * time.Millisecond
	soon     = 2 * time.Second
)

// ask makes calls by 8 at once for a while, and returns how many had an answer.
func ask(t *testing.T, s ratelimit.Store, times int) (answered int64) {
	t.Helper()
	var yes atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range times {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				begun := time.Now()
				reply := s.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{take(ratelimit.PerHour(1_000_000), "k", 1)}}})[0]
				cancel()
				if took := time.Since(begun); took > soon {
					t.Errorf("a caller with %v was held for %v", patience, took)
				}
				if reply.Err == nil {
					yes.Add(1)
				} else if !strings.HasPrefix(reply.Err.Error(), "redislimit: ") {
					t.Errorf("%v", reply.Err)
				}
			}
		})
	}
	wg.Wait()
	return yes.Load()
}

// The server is killed, started again, stopped by a signal and let go, and made to wait: callers return within their timeout, and are answered when
// the server is back.
func TestServerKilledHungAndSlow(t *testing.T) {
	t.Parallel()
	for _, heeds := range []bool{false, true} {
		t.Run(fmt.Sprintf("the client heeds the context: %v", heeds), func(t *testing.T) {
			t.Parallel()
			server := testdb.NewRedis(t)
			o := redis.Options{Addr: server.Addr(), ReadTimeout: 500 * time.Millisecond, ContextTimeoutEnabled: heeds}
			killedHungAndSlow(t, server, redis.NewClient(&o))
		})
	}
}

func killedHungAndSlow(t *testing.T, server *localdb.Redis, rdb *redis.Client) {
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	s := openStore(t, rdb, redislimit.Options{})
	back := func() {
		t.Helper()
		require.Eventually(t, func() bool { return ask(t, s, 1) == 8 }, 30*time.Second, 10*time.Millisecond)
	}
	back()
	require.NoError(t, server.Kill())
	require.Zero(t, ask(t, s, 5))
	require.NoError(t, server.Start(t.Context()))
	back()

	require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGSTOP))
	require.Zero(t, ask(t, s, 5))
	require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGCONT))
	back()

	require.NoError(t, rdb.ClientPause(t.Context(), soon).Err())
	require.Zero(t, ask(t, s, 1))
	back()
}

// A caller who asks by himself is gone by his deadline all the same, with an error that says so, and those who have come meanwhile are answered.
func TestWhoIsAloneLeavesInTime(t *testing.T) {
	t.Parallel()
	server := testdb.NewRedis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	s := openStore(t, rdb, redislimit.Options{Flights: 1})
	l := forever(100)[0]
	call := []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "k", 1)}}}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	require.NoError(t, s.Decide(ctx, call)[0].Err)
	require.Zero(t, s.Flying())

	require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGSTOP))
	hasty, leave := context.WithTimeout(t.Context(), soon)
	defer leave()
	alone := make(chan error)
	go func() { alone <- s.Decide(hasty, call)[0].Err }()
	require.Eventually(t, func() bool { return s.Flying() == 1 }, long, time.Millisecond)
	behind := make(chan error)
	go func() { behind <- s.Decide(ctx, call)[0].Err }()
	require.Eventually(t, func() bool { return s.Waiting() == 1 }, long, time.Millisecond)
	err := <-alone
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "redislimit: no answer yet")
	require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGCONT))
	require.NoError(t, <-behind)
	require.Eventually(t, func() bool { return s.Flying() == 0 }, long, time.Millisecond)
}

func TestStoresThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	for _, none := range []redis.UniversalClient{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil), (*redis.Ring)(nil)} {
		_, err := redislimit.NewStore(none, &redislimit.Options{Batch: -1})
		require.ErrorIs(t, err, ratelimit.ErrInvalid, "%T", none)
		require.ErrorContains(t, err, "redis client is nil")
		require.ErrorContains(t, err, "Batch", "all faults at once")
	}
	for _, bad := range []struct {
		field string
		o     redislimit.Options
	}{
		{"Batch", redislimit.Options{Batch: -1}},
		{"Flights", redislimit.Options{Flights: -1}},
		{"Queue", redislimit.Options{Queue: -1}},
		{"CrossSlot", redislimit.Options{CrossSlot: redislimit.Refuse + 1}},
		{"ReserveLease", redislimit.Options{ReserveLease: -1}},
		{"ReserveLease", redislimit.Options{ReserveLease: ratelimit.MaxPer + 1}},
		{"Prefix", redislimit.Options{Prefix: strings.Repeat("p", ratelimit.MaxKey+1)}},
	} {
		_, err := redislimit.NewStore(rdb, &bad.o)
		require.ErrorIs(t, err, ratelimit.ErrInvalid, bad.field)
		require.ErrorContains(t, err, "Options."+bad.field)
	}
	_, err := redislimit.NewStore(rdb, &redislimit.Options{
		CrossSlot: redislimit.Refuse, ReserveLease: ratelimit.MaxPer, Prefix: strings.Repeat("p", ratelimit.MaxKey),
	})
	require.NoError(t, err)
}

// While the server hangs the queue is bounded, and those who have left it are not carried out afterwards.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	server := testdb.NewRedis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, ReadTimeout: long})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	s := openStore(t, rdb, redislimit.Options{Queue: 10, Flights: 1})
	l := forever(100)[0]
	decide(t, s, take(l, "k", 1))
	require.Eventually(t, func() bool { return s.Flying() == 0 }, long, time.Millisecond)
	require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGSTOP))
	ctx, cancel := context.WithCancel(t.Context())
	calls := make([]ratelimit.Call, 30)
	for i := range calls {
		calls[i].Ops = []ratelimit.Op{take(l, "k", 1)}
	}
	flying := make(chan struct{})
	go func() {
		defer close(flying)
		_ = s.Decide(ctx, calls[:1])
	}()
	require.Eventually(t, func() bool { return s.Flying() == 1 && s.Waiting() == 0 }, long, time.Millisecond)
	waiting := make(chan []ratelimit.Reply)
	go func() { waiting <- s.Decide(ctx, calls) }()
	require.Eventually(t, func() bool { return s.Waiting() == 10 }, long, time.Millisecond)
	cancel()
	<-flying
	busy := 0
	for _, reply := range <-waiting {
		require.Error(t, reply.Err)
		if !strings.Contains(reply.Err.Error(), context.Canceled.Error()) {
			require.ErrorIs(t, reply.Err, redislimit.ErrBusy)
			busy++
		}
	}
	require.Equal(t, 20, busy)
	require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGCONT))
	require.EqualValues(t, 98, left(t, s, l, "k"))

	require.Eventually(t, func() bool { return s.Flying() == 0 }, long, time.Millisecond)
	require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGSTOP))
	ctx, cancel = context.WithCancel(t.Context())
	go func() { waiting <- s.Decide(ctx, calls[:1]) }()
	require.Eventually(t, func() bool { return s.Flying() == 1 && s.Waiting() == 0 }, long, time.Millisecond)
	go func() { waiting <- s.Decide(ctx, calls[1:6]) }() // so few that the queue has room for who looks
	require.Eventually(t, func() bool { return s.Waiting() == 5 }, long, time.Millisecond)
	cancel()
	<-waiting
	<-waiting
	require.NoError(t, syscall.Kill(server.Pid(), syscall.SIGCONT))
	require.EqualValues(t, 97, left(t, s, l, "k"))
}

func TestCloseWaitsAndRefuses(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	o := redislimit.Options{Prefix: t.Name() + ":"}
	s := openStore(t, rdb, o)
	l := forever(1000)[0]
	var wg sync.WaitGroup
	var refused atomic.Int64
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if reply := s.Decide(t.Context(), []ratelimit.Call{{Ops: spread(l)}})[0]; reply.Err != nil {
					refused.Add(1)
				}
			}
		})
	}
	require.NoError(t, s.Close())
	heir := openStore(t, rdb, o)
	used := [2]int64{left(t, heir, l, "user"), left(t, heir, l, "everybody")}
	require.Equal(t, used[0], used[1], "what was begun was ended")
	wg.Wait()
	require.ErrorIs(t, s.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "k", 1)}}})[0].Err, redislimit.ErrClosed)
	require.ErrorIs(t, s.Decide(t.Context(), []ratelimit.Call{{Ops: spread(l)}})[0].Err, redislimit.ErrClosed)
	require.NoError(t, s.Close())
}

// A store is closed while a call over several slots is between its two steps: the call is decided, and Close waits for that.
func TestCloseLetsACallOverSeveralSlotsEnd(t *testing.T) {
	t.Parallel()
	s := openStore(t, openRing(t), redislimit.Options{})
	l := forever(10)[0]
	closed := make(chan error, 1)
	s.Pause(func() {
		go func() { closed <- s.Close() }()
		require.Eventually(t, func() bool {
			return errors.Is(s.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "k", 1)}}})[0].Err, redislimit.ErrClosed)
		}, long, time.Millisecond)
		require.Empty(t, closed)
	})
	require.True(t, decide(t, s, spread(l)...)[0].Allowed)
	require.NoError(t, <-closed)
}

// Callers leave at any moment: before their call is sent, as it is, and after. None takes the others' flight along: who comes then is answered, and
// nothing is left under way.
func TestWhoLeavesLeavesNobodyBehind(t *testing.T) {
	t.Parallel()
	s := openStore(t, testdb.Redis(t), redislimit.Options{Flights: 1})
	l := forever(1_000_000)[0]
	for round := range thorough(50, 1000) {
		var callers sync.WaitGroup
		for caller := range 32 {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((round*32+caller)%500)*time.Microsecond)
				defer cancel()
				_ = s.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "k", 1)}}})
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), long)
		require.NoError(t, s.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "k", 1)}}})[0].Err)
		cancel()
		callers.Wait()
	}
	require.Eventually(t, func() bool { return s.Flying() == 0 && s.Waiting() == 0 }, long, time.Millisecond)
}

// deaf passes on what a client sends, and loses the answer to a script.
type deaf struct {
	net.Conn
	lost *atomic.Bool
	cut  *atomic.Int64
}

func (d deaf) Write(p []byte) (int, error) {
	n, err := d.Conn.Write(p)
	if d.lost.Load() && strings.Contains(string(p), "evalsha") {
		d.cut.Add(1)
		go func() {
			_, _ = d.Conn.Read(make([]byte, 1)) // the script has been run
			_ = d.Close()
		}()
	}
	return n, err
}

func (d deaf) Read(p []byte) (int, error) {
	if d.lost.Load() && d.cut.Load() > 0 {
		return 0, io.EOF
	}
	return d.Conn.Read(p)
}

// The connection breaks after a script has been run and before its answer: the client, which sends other commands again, does not send this one,
// and so it is not charged twice. The caller has an error.
func TestLostAnswerIsNotChargedTwice(t *testing.T) {
	t.Parallel()
	plain := testdb.Redis(t)
	var lost atomic.Bool
	var cut atomic.Int64
	o := *plain.Options()
	o.MaxRetries = 5
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return deaf{conn, &lost, &cut}, err
	}
	rdb := redis.NewClient(&o)
	t.Cleanup(func() { _ = rdb.Close() })
	s := openStore(t, rdb, redislimit.Options{Prefix: "p:"})
	l := forever(10)[0]
	decide(t, s, take(l, "k", 1))
	lost.Store(true)
	reply := s.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "k", 1)}}})[0]
	require.True(t, errors.Is(reply.Err, io.EOF) || errors.Is(reply.Err, net.ErrClosed), "%v", reply.Err)
	require.EqualValues(t, 1, cut.Load(), "it was sent once")
	lost.Store(false)
	require.Eventually(t, func() bool { return left(t, openStore(t, plain, redislimit.Options{Prefix: "p:"}), l, "k") == 8 }, long, time.Millisecond)
}

const childServers = "REDISLIMIT_TEST_CHILD"

// TestChild is the process that TestClientsKilled kills.
func TestChild(t *testing.T) {
	servers, prefix, ok := strings.Cut(os.Getenv(childServers), " ")
	if !ok {
		t.Skip("runs in a process of its own")
	}
	var rdb redis.UniversalClient
	if strings.Contains(servers, ",") {
		rdb = redis.NewClusterClient(&redis.ClusterOptions{Addrs: strings.Split(servers, ",")})
	} else {
		o, err := redis.ParseURL(servers)
		require.NoError(t, err)
		rdb = redis.NewClient(o)
	}
	s := openStore(t, rdb, redislimit.Options{Prefix: prefix, ReserveLease: time.Second})
	_, err := os.Stdout.WriteString("started")
	require.NoError(t, err)
	herd(t.Context(), s, "", forever(1_000_000), 1<<40)
}

// Processes are killed in the middle of calls for a user, an ip and everybody: nothing is charged to one and not to the others, once reservations
// have lapsed and somebody has looked.
func TestClientsKilled(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, rdb redis.UniversalClient, servers string) {
		t.Parallel()
		prefix := "killed:"
		heir, limits := openStore(t, rdb, redislimit.Options{Prefix: prefix}), forever(1_000_000)
		used := func() (n int64) {
			for _, l := range limits[:4] {
				n += l.Rate - left(t, heir, l, "everybody")
			}
			return n
		}
		for range thorough(2, 10) {
			before := used()
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
			child.Env = append(os.Environ(), childServers+"="+servers+" "+prefix)
			out, err := child.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, child.Start())
			_, err = io.ReadFull(out, make([]byte, len("started")))
			require.NoError(t, err)
			require.Eventually(t, func() bool { return used() > before }, long, 10*time.Millisecond)
			pass(300 * time.Millisecond)
			require.NoError(t, child.Process.Kill())
			require.Error(t, child.Wait())
		}
		pass(time.Second) // the lease
		require.Positive(t, balanced(t, heir, "", limits))
	}
	t.Run("one server", func(t *testing.T) {
		url := testdb.RedisURL(t)
		o, err := redis.ParseURL(url)
		require.NoError(t, err)
		rdb := redis.NewClient(o)
		t.Cleanup(func() { require.NoError(t, rdb.Close()) })
		run(t, rdb, url)
	})
	t.Run("cluster", func(t *testing.T) {
		rdb := testdb.RedisCluster(t)
		run(t, rdb, strings.Join(rdb.Options().Addrs, ","))
	})
}
