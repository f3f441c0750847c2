package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
)

func testServers(tb testing.TB) (postgres string, redis []string) {
	tb.Helper()
	for range 3 {
		redis = append(redis, testdb.RedisURL(tb))
	}
	return testdb.PostgresURL(tb), redis
}

func testStage(tb testing.TB, w way) *stage {
	tb.Helper()
	postgres, redis := testServers(tb)
	s, err := openStage(tb.Context(), w, postgres, redis)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.close(tb.Context())) })
	return s
}

// eachWay runs a test on every way, on tables of its own.
func eachWay(t *testing.T, test func(*testing.T, *stage)) {
	t.Parallel()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			test(t, testStage(t, w))
		})
	}
}

// Two payments of 80 out of 100 and a retry of each, at once on two servers: one is paid, once, by every way but none.
func TestRace(t *testing.T) {
	eachWay(t, func(t *testing.T, s *stage) {
		const rounds = 3
		require.NoError(t, s.race(t.Context(), rounds, 200*time.Millisecond))
		r := s.result
		if s.way.name == "none" {
			require.Positive(t, r.overspends)
			require.Positive(t, r.made)
			return
		}
		require.Zero(t, r.overspends)
		require.Zero(t, r.wrong)
		require.Equal(t, rounds, r.payouts)
		require.Equal(t, []int{rounds, rounds}, []int{r.paid, r.declined})
	})
}

// A server freezes for longer than its lease and goes on: what has no fence, no condition and no transaction loses money.
func TestFrost(t *testing.T) {
	eachWay(t, func(t *testing.T, s *stage) {
		require.NoError(t, s.frost(t.Context(), time.Second))
		if s.way.unsafe != "" {
			require.Positive(t, s.result.overspends)
			return
		}
		require.Zero(t, s.result.overspends)
		require.Zero(t, s.result.wrong)
		require.Equal(t, 1, s.result.payouts)
		t.Log("the other payment took", s.result.behind)
	})
}

// The books add up after a load without any pauses, with more clients than the database has patience for.
func TestSpeed(t *testing.T) {
	t.Parallel()
	var stages []*stage
	for _, w := range ways {
		stages = append(stages, testStage(t, w))
	}
	o := &options{turns: 1, length: 100 * time.Millisecond, workers: 8, accounts: 16}
	require.NoError(t, speed(t.Context(), stages, o))
	for _, s := range stages {
		for _, f := range []figures{s.result.uniform, s.result.hot} {
			require.Positive(t, f.perSecond, s.way.name)
			require.Positive(t, f.p99, s.way.name)
			require.Positive(t, f.trips, s.way.name)
		}
		if s.way.name != "none" { // and no freeze, which redsync would not survive
			require.Zero(t, s.result.overspends, s.way.name)
			require.Zero(t, s.result.wrong, s.way.name)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	postgres, redis := testServers(t)
	var out, progress bytes.Buffer
	require.NoError(t, run(t.Context(), []string{
		"-postgres", postgres, "-redis", strings.Join(redis, ","), "-ways", "none,unique", "-rounds", "2", "-lease", "100ms", "-turns", "1",
		"-for", "50ms", "-workers", "2", "-accounts", "2",
	}, &out, &progress))
	require.Regexp(t, `(?m)^\| none +\| +[1-9]\d* \| +[1-9]\d*\.\d\d \|`, out.String())
	require.Regexp(t, `(?m)^\| database uniqueness +\| +0 \| +0\.00 \| +2 of 2 \| +2 \| +0 \|`, out.String())
	require.Contains(t, out.String(), "Not to be used for money: none.\n")
}

func TestFlagsAreBounded(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), []string{
		"-postgres", "postgres://x", "-redis", "", "-ways", "none,none,luck", "-rounds", "0", "-lease", "1ms", "-turns", "101", "-for", "1h",
		"-workers", "3", "-accounts", "5000", "more",
	}, io.Discard, io.Discard)
	for _, part := range []string{
		"-rounds", "-lease", "-turns", "-for", "-workers", "-accounts", `"more"`, "both -postgres and -redis", `-ways: "none"`, `-ways: "luck"`,
	} {
		require.ErrorContains(t, err, part)
	}
}

func TestMissingBinariesAreExplained(t *testing.T) {
	t.Parallel()
	err := explain(fmt.Errorf("%w: no initdb", localdb.ErrNotInstalled))
	require.ErrorIs(t, err, localdb.ErrNotInstalled)
	require.ErrorContains(t, err, "PostgreSQL 15")
	require.ErrorContains(t, err, "-postgres")
	require.Equal(t, io.EOF, explain(io.EOF))
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		account
		want audit
	}{
		"nothing paid":      {account{opening: 100, balance: 100}, audit{}},
		"one paid":          {account{100, 20, []payout{{"a", 80}}}, audit{payouts: 1}},
		"paid twice":        {account{200, 40, []payout{{"a", 80}, {"a", 80}}}, audit{payouts: 2, overspends: 1}},
		"paid from nothing": {account{100, -60, []payout{{"a", 80}, {"b", 80}}}, audit{payouts: 2, overspends: 1}},
		"write lost":        {account{200, 120, []payout{{"a", 80}, {"b", 80}}}, audit{payouts: 2, made: 80, wrong: 1}},
		"money lost":        {account{100, 10, []payout{{"a", 80}}}, audit{payouts: 1, made: -10, wrong: 1}},
	} {
		require.Equal(t, c.want, judge([]account{c.account}), name)
	}
}

// What one account has too much and another too little is no money made, and no way to
// be used for money.
func TestBooksThatAreWrongByTheSameAreWrong(t *testing.T) {
	t.Parallel()
	s := &stage{way: way{title: "luck"}}
	s.result.add(judge([]account{{200, 120, []payout{{"a", 80}, {"b", 80}}}}))
	s.result.add(judge([]account{{100, 20, nil}}))
	require.Zero(t, s.result.made)
	require.Equal(t, 2, s.result.wrong)
	var out bytes.Buffer
	advise(&out, []*stage{s}, &options{})
	require.Contains(t, out.String(), "Not to be used for money: luck.\n")
}

// kept are books that are what they are.
type kept []account

func (kept) open(context.Context, []string, int64) error         { return nil }
func (k kept) read(context.Context, []string) ([]account, error) { return k, nil }

// says answers every payment alike.
type says verdict

func (s says) pay(context.Context, payment) (verdict, error) { return verdict(s), nil }

// An account that cannot be looked at, and a repeat that gets another answer, are not
// what no fault was found in.
func TestWhatIsNotSeenIsNotCalledSafe(t *testing.T) {
	t.Parallel()
	s := &stage{books: kept{{opening: 100, balance: 100}}}
	_, err := s.audit(t.Context(), []string{"a", "b"})
	require.ErrorContains(t, err, "1 of 2 accounts")
	both := servers{{payer: says(paid)}, {payer: says(declined)}}
	require.ErrorContains(t, s.round(t.Context(), both, payment{}, payment{}), `one request was answered "paid" and "declined"`)
	s.way.unsafe = "it says so"
	require.NoError(t, s.round(t.Context(), both, payment{}, payment{}))
}

// What a balance says that its entries do not is no payment that was seen.
func TestALedgerThatDoesNotAddUpIsTold(t *testing.T) {
	t.Parallel()
	events, _ := wayNamed("events")
	s := testStage(t, events)
	require.NoError(t, s.books.open(t.Context(), []string{"a"}, funds))
	_, err := s.audit(t.Context(), []string{"a"})
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), `UPDATE ledger_accounts SET credits = credits + 1 WHERE id = 'a'`)
	require.NoError(t, err)
	_, err = s.audit(t.Context(), []string{"a"})
	require.ErrorContains(t, err, "does not add up")
}

// What is sent before an answer has come belongs to the same round trip.
func TestWireCountsRoundTrips(t *testing.T) {
	t.Parallel()
	s := testStage(t, ways[0])
	free := settings{conns: 1, lease: time.Minute}
	both, err := s.place.servers(t.Context(), s.way, [2]settings{free, free})
	require.NoError(t, err)
	t.Cleanup(both.close)
	trips := func(f func() error) int64 {
		require.NoError(t, f()) // connects, and prepares
		before := both.trips()
		require.NoError(t, f())
		return both.trips() - before
	}
	require.EqualValues(t, 1, trips(func() error { _, err := both[0].pool.Exec(t.Context(), `SELECT $1::int`, 1); return err }))
	require.EqualValues(t, 1, trips(func() error { return both[1].redis[0].Ping(t.Context()).Err() }))
}
