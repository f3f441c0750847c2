package redisidem

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/idempotency"
)

// call is one batch for one script.
type call struct {
	script *redis.Script
	items  int
	key    func(i int) idempotency.Key
	head   []any                                   // arguments before those of the items
	args   func(args []any, i int) []any           // appends the arguments of item i
	answer func(i int, value any, err error) error // takes the answer for item i, or the error in its place
}

// script is the run of a call's script for those items whose keys are in one slot.
type script struct {
	items []int
	keys  []string
	args  []any
	cmd   *redis.Cmd
}

// run decides all items in one round trip to each server, or two when a server has not seen the script yet.
func (s *Store) run(ctx context.Context, c call) error {
	if c.items == 0 {
		return nil
	}
	scripts := s.split(c)
	for _, r := range scripts {
		r.args = append(r.args, c.head...)
		for _, i := range r.items {
			r.args = c.args(r.args, i)
		}
	}
	if len(scripts) == 1 {
		scripts[0].cmd = c.script.Run(ctx, s.rdb, scripts[0].keys, scripts[0].args...)
	} else {
		s.pipeline(ctx, c.script, scripts)
	}
	// Many items fail for the same reason: one error for each script.
	var errs []error
	for _, r := range scripts {
		if err := r.answer(c); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// split groups the items by the part of their key that decides the slot. Items with the same key stay together and in
// order, so that the first of them wins.
func (s *Store) split(c call) []*script {
	var scripts []*script
	byTag := make(map[string]*script)
	for i := range c.items {
		key := s.prefix + "{" + c.key(i).String() + "}"
		tag := ""
		if !s.single {
			tag = hashTag(key)
		}
		r := byTag[tag]
		if r == nil {
			r = new(script)
			byTag[tag] = r
			scripts = append(scripts, r)
		}
		r.items = append(r.items, i)
		r.keys = append(r.keys, key)
	}
	return scripts
}

// hashTag returns the part of a key that Redis Cluster hashes: what is between the first "{" and the next "}", unless
// that is empty, else the whole key (Redis Cluster specification, "Hash tags").
func hashTag(key string) string {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			return tag
		}
	}
	return key
}

// pipeline sends all scripts at once; the client sorts them by node. Those that met a node without the script are sent
// a second time with their source.
func (s *Store) pipeline(ctx context.Context, source *redis.Script, scripts []*script) {
	pipe := s.rdb.Pipeline()
	for _, r := range scripts {
		r.cmd = source.EvalSha(ctx, pipe, r.keys, r.args...)
	}
	_, _ = pipe.Exec(ctx) // each command holds its own error

	pipe = s.rdb.Pipeline()
	for _, r := range scripts {
		if redis.HasErrorPrefix(r.cmd.Err(), "NOSCRIPT") {
			r.cmd = source.Eval(ctx, pipe, r.keys, r.args...)
		}
	}
	if pipe.Len() > 0 {
		_, _ = pipe.Exec(ctx)
	}
}

func (r *script) answer(c call) error {
	answers, err := r.cmd.Slice()
	if err == nil && len(answers) != len(r.items) {
		err = errAnswer
	}
	for n, i := range r.items {
		var value any
		if err == nil {
			value = answers[n]
		}
		if failed := c.answer(i, value, err); failed != nil && err == nil {
			err = failed
		}
	}
	return err
}
