package redislimit

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // by which Redis knows scripts
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed lua
var files embed.FS

// source is the script: its files put together, those of the classes as they are told apart by their codes.
var source = func() string {
	part := func(name string) string {
		text, err := files.ReadFile("lua/" + name + ".lua")
		if err != nil {
			panic(err) // the program was built without it
		}
		return string(text)
	}
	var b strings.Builder
	b.WriteString(part("head") + "local function define(calls, keys, now, slack, states, ttls, KEPT)\n" + part("common") + part("sets") + "local function class(n)\n")
	for i, name := range []string{"bucket", "window", "log", "holders", "decision", "settle"} {
		fmt.Fprintf(&b, "if n == %d then\n%s\nend\n", i+1, part(name))
	}
	b.WriteString("end\n" + part("general") + "end\n" + part("main"))
	return b.String()
}()

var digest = func() string {
	sum := sha1.Sum([]byte(source))
	return hex.EncodeToString(sum[:])
}()

// command is a run of the script. The client must not send it again by itself: it would charge twice.
//
//	the client sends a take, the server carries it out
//	the connection breaks before the reply
//	the client, by its MaxRetries, sends the take again
type command struct{ *redis.Cmd }

// NoRetry tells the client so. Commands that were refused before they ran (MOVED, ASK) are sent on all the same.
func (command) NoRetry() bool { return true }

// script is one run of the script, for jobs whose keys are in one place.
type script struct {
	jobs   []*job
	takes  []takes // of the jobs
	seats  []*seat // of all takes
	others []*job
	cmd    command
}

// command returns the run, by the script's digest or with its source.
func (r *script) command(ctx context.Context, name string, script any, clock func() int64) command {
	args := make([]any, 3, len(r.jobs)+5)
	args[0], args[1] = name, script
	packed, args := r.appendTakes(make([]byte, 0, 32*(len(r.takes)+len(r.others))+len(r.jobs)), args)
	for _, j := range r.others {
		args = append(args, j.keys...)
		packed = append(packed, j.packed...)
	}
	args[2] = len(args) - 3
	args = append(args, packed)
	if clock != nil {
		args = append(args, clock())
	}
	cmd := redis.NewCmd(ctx, args...)
	cmd.SetFirstKeyPos(3)
	return command{cmd}
}

// run carries out jobs: one round trip to each server, or two where a server has not seen the script yet. A server that has lost it (a restart,
// a failover, SCRIPT FLUSH) has done nothing when it says so.
func (s *Store) run(ctx context.Context, scripts []*script) {
	var digestArg, sourceArg any = digest, source
	for _, r := range scripts {
		r.sort()
		r.cmd = r.command(ctx, "evalsha", digestArg, s.clock)
	}
	s.send(ctx, scripts)
	var again []*script
	for _, r := range scripts {
		if redis.HasErrorPrefix(r.cmd.Err(), "NOSCRIPT") {
			r.cmd = r.command(ctx, "eval", sourceArg, s.clock)
			again = append(again, r)
		}
	}
	if len(again) > 0 {
		s.send(ctx, again)
	}
	s.lookAround(ctx, scripts)
	for _, r := range scripts {
		if s.layout == oneServer || !r.turnedAway() {
			r.deliver(ctx, s)
		} else if parts := r.split(); len(parts) > 1 {
			s.run(ctx, parts)
		} else {
			for _, j := range r.jobs {
				s.again(j, r.cmd.Err())
			}
		}
	}
}

// lookAround has a Cluster's client see who the masters are, beside what it does, where one was not reached. By itself it does so once a minute (its
// ClusterStateReloadInterval), since a command that is not to be sent again finds no master that would tell:
//
//	a master dies, and its replica is promoted, within some seconds
//	calls go to the one that is gone, and fail; nobody asks the others, who would know
func (s *Store) lookAround(ctx context.Context, scripts []*script) {
	cluster, ok := s.rdb.(*redis.ClusterClient)
	if !ok {
		return
	}
	for _, r := range scripts {
		err := r.cmd.Err()
		if _, told := errors.AsType[redis.Error](err); err != nil && !told { // by a server
			cluster.ReloadState(ctx) // which is one at a time, and rests in between
			return
		}
	}
}

// turnedAway tells whether a Cluster did not run the script, since it moves the slot at the moment. What the client has not made good of that is
//
//	TRYAGAIN     of several keys one is there and another, perhaps since it is new, not
//	MOVED, ASK   two masters both say that the slot is the other's
func (r *script) turnedAway() bool {
	err := r.cmd.Err()
	return err != nil && (redis.IsTryAgainError(err) || redis.HasErrorPrefix(err, "MOVED ") || redis.HasErrorPrefix(err, "ASK "))
}

// split makes a script for each key, which can be run wherever it is, and for each job of several keys, which must wait until they are together.
func (r *script) split() (scripts []*script) {
	at := map[any]*script{}
	for _, j := range r.jobs {
		one := at[j.keys[0]]
		if one == nil || len(j.keys) > 1 {
			one = &script{}
			scripts = append(scripts, one)
			if len(j.keys) == 1 {
				at[j.keys[0]] = one
			}
		}
		one.jobs = append(one.jobs, j)
	}
	return scripts
}

// send sends all at once; the client sorts them by server. Each command holds its own error.
func (s *Store) send(ctx context.Context, scripts []*script) {
	if len(scripts) == 1 {
		_ = s.rdb.Process(ctx, scripts[0].cmd)
		return
	}
	pipe := s.rdb.Pipeline()
	for _, r := range scripts {
		_ = pipe.Process(ctx, r.cmd)
	}
	_, _ = pipe.Exec(ctx)
}

// deliver gives every job its part of the answer.
func (r *script) deliver(ctx context.Context, s *Store) {
	answer, err := r.cmd.Text()
	var rest []byte
	var now int64
	if err == nil {
		now, rest, err = clockOf([]byte(answer))
	}
	var left []*job
	if err == nil {
		rest, left, err = r.landTakes(now, rest)
	}
	if err != nil {
		fail(r.jobs, err)
		return
	}
	if left == nil && len(rest) == 0 { // it ended before the others
		left = r.others
	}
	if len(left) > 0 {
		s.run(ctx, []*script{{jobs: left}})
		return
	}
	for i, j := range r.others {
		var moved bool
		if rest, moved, err = j.take(now, rest); err != nil {
			fail(r.others[i:], err)
			return
		}
		if moved {
			s.again(j, errMoved)
		} else {
			j.finish()
		}
	}
}

// fail ends jobs of which nothing is known.
func fail(jobs []*job, err error) {
	for _, j := range jobs {
		j.err = fmt.Errorf("redislimit: %w", err)
		j.finish()
	}
}

// clockOf cuts the time from the front of an answer, in µs: seconds and microseconds, as Redis tells them, with a space behind each.
func clockOf(b []byte) (now int64, rest []byte, err error) {
	seconds, rest, ok := bytes.Cut(b, []byte{' '})
	micros, rest, also := bytes.Cut(rest, []byte{' '})
	if !ok || !also {
		return 0, nil, errAnswer
	}
	s, err := strconv.ParseInt(string(seconds), 10, 64)
	us, fault := strconv.ParseInt(string(micros), 10, 64)
	if err != nil || fault != nil {
		return 0, nil, errAnswer
	}
	return s*1_000_000 + us, rest, nil
}

// errMoved: a call before it in the same script has emptied the counter, which is another master's since.
var errMoved = errors.New("the counter moves to another master")

// take cuts the job's part from the front of an answer. moved: the job was not carried out, and is to be sent again.
func (j *job) take(now int64, b []byte) (rest []byte, moved bool, err error) {
	if len(b) == 0 {
		return nil, false, errAnswer
	}
	size := j.size
	if b[0] == 'p' {
		if len(b) < 3 {
			return nil, false, errAnswer
		}
		size = 3 + int(b[1])<<8 + int(b[2])
	}
	if len(b) < size {
		return nil, false, errAnswer
	}
	j.now, j.answer, j.postponed = now, b[:size], ""
	if b[0] == 'p' {
		j.postponed = string(b[3:size])
	}
	return b[size:], b[0] == 'p' && size == 3, nil
}
