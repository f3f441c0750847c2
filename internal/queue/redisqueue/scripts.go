package redisqueue

import (
	"context"
	_ "embed"

	"github.com/redis/go-redis/v9"
)

//go:embed claim.lua
var claimSource string

//go:embed return.lua
var returnSource string

//go:embed dead.lua
var deadSource string

//go:embed reap.lua
var reapSource string

//go:embed stats.lua
var statsSource string

var (
	claimScript  = onceScript{source: claimSource, sha: redis.NewScript(claimSource).Hash()}
	returnScript = redis.NewScript(returnSource) // these are harmless when the client repeats them
	deadScript   = redis.NewScript(deadSource)
	reapScript   = redis.NewScript(reapSource)
	statsScript  = redis.NewScript(statsSource)
)

// onceScript is a script that the client must not repeat by itself.
//
// A claim runs, its reply is lost, the client runs it again and succeeds: the caller hears of the second batch only. The
// first is held under the same name, which lives on and is renewed, so no reaper ever gives it back. The error has to reach
// the caller, who then takes another name.
type onceScript struct{ source, sha string }

func (s onceScript) runOnce(ctx context.Context, rdb redis.UniversalClient, keys []string, args ...any) ([]any, error) {
	flat, err := s.call(ctx, rdb, "evalsha", s.sha, keys, args)
	if redis.HasErrorPrefix(err, "NOSCRIPT") { // never seen, or forgotten at a restart; it did not run
		flat, err = s.call(ctx, rdb, "eval", s.source, keys, args)
	}
	return flat, err
}

func (s onceScript) call(ctx context.Context, rdb redis.UniversalClient, name, script string, keys []string, args []any) ([]any, error) {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, name, script, len(keys))
	for _, k := range keys {
		all = append(all, k)
	}
	cmd := onceCmd{redis.NewCmd(ctx, append(all, args...)...)}
	cmd.SetFirstKeyPos(3)
	_ = rdb.Process(ctx, cmd) // the same error is in cmd
	return cmd.Slice()
}

// onceCmd is a command that go-redis sends at most once.
type onceCmd struct{ *redis.Cmd }

func (onceCmd) NoRetry() bool { return true }
