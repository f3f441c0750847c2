//go:build unix

package localdb_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
)

func TestRedisDefaults(t *testing.T) {
	t.Parallel()
	r := startRedis(t, localdb.Options{Settings: map[string]string{"client-output-buffer-limit": "normal 0 0 0"}})
	c := dial(t, r)
	for name, want := range map[string]string{"appendonly": "yes", "appendfsync": "everysec", "save": "", "databases": "4096"} {
		have, err := c.ConfigGet(t.Context(), name).Result()
		require.NoError(t, err)
		require.Equal(t, want, have[name], name)
	}
}

// A configuration is a file with a grammar of its own. U+3000 is a blank of Japanese names.
func TestRedisFolderMayHaveAnyName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b", `"a'\\`, "d\u00e9p\u00f4t e\u0301", "\u5e33\u7c3f\u3000\u00a0", "a\tb\nc", "\xff"} {
		_ = startRedis(t, localdb.Options{Dir: filepath.Join(sharedDir(t), name)})
	}
}

// With appendfsync always a reply follows the write and the sync, so every acknowledged element survives a SIGKILL.
func TestRedisKilledKeepsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	r := startRedis(t, localdb.Options{Settings: map[string]string{"appendfsync": "always"}})
	addr, c := r.Addr(), dial(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	acked, enough := make(chan int, 1), make(chan struct{})
	go func() {
		for n := 1; ; n++ {
			if c.RPush(ctx, "list", n).Err() != nil {
				acked <- n - 1
				return
			}
			if n == 200 {
				close(enough)
			}
		}
	}()
	select {
	case <-enough:
	case <-ctx.Done():
		t.Error("too few writes")
	}
	pid := r.Pid()
	require.NoError(t, r.Kill())
	require.False(t, running(pid))
	cancel() // else the client's retries carry the writer over the restart
	want := int64(<-acked)
	require.NoError(t, r.Start(t.Context()))
	require.Equal(t, addr, r.Addr())
	have, err := c.LLen(t.Context(), "list").Result()
	require.NoError(t, err)
	require.GreaterOrEqual(t, have, want)

	require.NoError(t, r.Stop(t.Context()))
	require.NoError(t, r.Start(t.Context()))
	again, err := c.LLen(t.Context(), "list").Result()
	require.NoError(t, err)
	require.Equal(t, have, again)
}

func TestRedisFailureShowsTheServersWords(t *testing.T) {
	t.Parallel()
	_, err := localdb.StartRedis(t.Context(), localdb.Options{Settings: map[string]string{"no-such-setting": "1"}})
	skipWithout(t, err)
	require.ErrorContains(t, err, "no-such-setting")
}

func TestRedisClusterServesEverySlot(t *testing.T) {
	t.Parallel()
	cluster, err := localdb.StartRedisCluster(t.Context(), localdb.Options{})
	skipWithout(t, err)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		require.NoError(t, cluster.Close(ctx))
	})
	require.Len(t, cluster.Addrs(), 3)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { _ = c.Close() })

	slots := map[int64]bool{}
	for first := 0; len(slots) < 16384; first += 1000 {
		require.Less(t, first, 1_000_000)
		for key, slot := range keySlots(t, c, first, first+1000) {
			if !slots[slot] {
				slots[slot] = true
				_, err := c.Pipelined(t.Context(), func(p redis.Pipeliner) error { p.Set(t.Context(), key, slot, 0); return nil })
				require.NoError(t, err)
			}
		}
	}

	node := cluster.Nodes()[1]
	require.NoError(t, node.Kill())
	require.NoError(t, node.Start(t.Context()))
	require.Eventually(t, func() bool {
		_, err := c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for n := range 100 {
				p.Set(t.Context(), fmt.Sprintf("after%d", n), n, 0)
			}
			return nil
		})
		return err == nil
	}, patience, 50*time.Millisecond, "all three nodes serve again")
}

// A replica that writes its first append-only file refuses to stop, and forgets that it was asked. It stops when it has written it.
func TestRedisIsAskedToStopAgain(t *testing.T) {
	t.Parallel()
	master := startRedis(t, localdb.Options{})
	c := dial(t, master)
	for n := range 50 { // it writes for 5 s, in which it must be caught at it
		require.NoError(t, c.Set(t.Context(), fmt.Sprint("key", n), n, 0).Err())
	}
	replica := startRedis(t, localdb.Options{Settings: map[string]string{
		"replicaof": strings.Replace(master.Addr(), ":", " ", 1), "rdb-key-save-delay": "100000", // µs a key
	}})
	heir := dial(t, replica)
	require.Eventually(t, func() bool {
		info := heir.Info(t.Context(), "replication", "persistence").Val()
		return strings.Contains(info, "master_link_status:up") && strings.Contains(info, "aof_rewrite_in_progress:1")
	}, patience, 10*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	require.NoError(t, replica.Stop(ctx))
}

// The sentinel promotes the replica of a master that was killed, and the old master, started again, follows the new one.
func TestRedisSentinelPromotesTheReplica(t *testing.T) {
	t.Parallel()
	watched, err := localdb.StartRedisSentinel(t.Context(), localdb.Options{})
	skipWithout(t, err)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		require.NoError(t, watched.Close(ctx))
	})
	c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: localdb.SentinelMaster, SentinelAddrs: watched.Addrs()})
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.Set(t.Context(), "key", "before", 0).Err())
	master, replica := watched.Nodes()[0], watched.Nodes()[1]
	old, heir := dial(t, master), dial(t, replica)
	require.Eventually(t, func() bool { return heir.Get(t.Context(), "key").Val() == "before" }, patience, 50*time.Millisecond)
	pid := master.Pid()
	require.NoError(t, master.Kill())
	require.False(t, running(pid))
	require.Eventually(t, func() bool { return c.Set(t.Context(), "key", "after", 0).Err() == nil }, patience, 50*time.Millisecond)
	require.Equal(t, "after", heir.Get(t.Context(), "key").Val())
	require.NoError(t, master.Start(t.Context()))
	require.Eventually(t, func() bool { return old.Get(t.Context(), "key").Val() == "after" }, patience, 50*time.Millisecond)
}

// keySlots asks the cluster for the slots of k<from> … k<to-1> in one round trip.
func keySlots(t *testing.T, c *redis.ClusterClient, from, to int) map[string]int64 {
	t.Helper()
	byKey := map[string]*redis.IntCmd{}
	_, err := c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for n := from; n < to; n++ {
			key := fmt.Sprintf("k%d", n)
			byKey[key] = p.ClusterKeySlot(t.Context(), key)
		}
		return nil
	})
	require.NoError(t, err)
	slots := map[string]int64{}
	for key, cmd := range byKey {
		slots[key] = cmd.Val()
	}
	return slots
}
