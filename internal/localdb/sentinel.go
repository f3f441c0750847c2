package localdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"github.com/redis/go-redis/v9"
)

// SentinelMaster is the name by which the sentinel of a [RedisSentinel] knows the master.
const SentinelMaster = "main"

// RedisSentinel is a private Redis with a replica, and a sentinel that promotes the replica when the master has been silent for two
// seconds. Its methods are for one goroutine at a time.
type RedisSentinel struct {
	nodes    []*Redis
	sentinel *Redis
}

// StartRedisSentinel returns when the replica is in step and the sentinel knows both. The servers are always temporary ones: Dir and Port
// must be zero.
func StartRedisSentinel(ctx context.Context, o Options) (*RedisSentinel, error) {
	if o.Dir != "" || o.Port != 0 {
		return nil, errors.New("localdb: redis sentinel: Dir and Port must be zero, each server takes its own")
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	s := &RedisSentinel{}
	if err := s.start(ctx, o); err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Addrs lists host:port of the sentinel, as clients want it.
func (s *RedisSentinel) Addrs() []string { return []string{s.sentinel.Addr()} }

// Nodes are the master and the replica, in the roles that they began with, each to be killed and started again by itself: as what it
// began, until the sentinel tells it otherwise.
func (s *RedisSentinel) Nodes() []*Redis { return s.nodes }

// Close stops all and removes what is temporary.
func (s *RedisSentinel) Close(ctx context.Context) error {
	var errs []error
	if s.sentinel != nil { // first, so that it promotes nobody
		errs = append(errs, s.sentinel.Close(ctx))
	}
	for _, node := range s.nodes {
		errs = append(errs, node.Close(ctx))
	}
	return errors.Join(errs...)
}

func (s *RedisSentinel) start(ctx context.Context, o Options) error {
	settings := maps.Clone(o.Settings)
	for range 2 {
		if len(s.nodes) == 1 {
			o.Settings = map[string]string{"replicaof": fmt.Sprintf("127.0.0.1 %d", s.nodes[0].in.port)}
			maps.Copy(o.Settings, settings)
		}
		node, err := StartRedis(ctx, o)
		if err != nil {
			return err
		}
		s.nodes = append(s.nodes, node)
	}
	if err := until(ctx, func() error { return s.nodes[1].says(ctx, "replication", "master_link_status:up\r\n") }); err != nil {
		return fmt.Errorf("localdb: redis sentinel: the replica is not in step: %w", err)
	}
	var err error
	if s.sentinel, err = s.watch(ctx, o); err != nil {
		return err
	}
	known := fmt.Sprintf("name=%s,status=ok,address=%s,slaves=1,sentinels=1", SentinelMaster, s.nodes[0].Addr())
	if err := until(ctx, func() error { return s.sentinel.says(ctx, "sentinel", known) }); err != nil {
		return fmt.Errorf("localdb: redis sentinel: it does not know the replica: %w", err)
	}
	return nil
}

// watch starts the sentinel.
func (s *RedisSentinel) watch(ctx context.Context, o Options) (*Redis, error) {
	o.Settings = nil
	bin, err := findBins(nil, "redis-server")
	if err != nil {
		return nil, err
	}
	r := &Redis{}
	argv := func() ([]string, error) {
		conf := fmt.Sprintf("port %d\ndir %s\nbind 127.0.0.1\n", r.in.port, quoted(r.in.dir)) +
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 1\n", SentinelMaster, s.nodes[0].in.port) +
			fmt.Sprintf("sentinel down-after-milliseconds %s 2000\nsentinel failover-timeout %s 10000\n", SentinelMaster, SentinelMaster)
		name, err := r.configure(conf)
		return []string{filepath.Join(bin, "redis-server"), name, "--sentinel"}, err
	}
	r.in = instance{kind: "redis sentinel", stopSig: "TERM", orphan: "TERM", argv: argv, answers: r.answers}
	if err := r.begin(ctx, o); err != nil {
		return nil, err
	}
	return r, nil
}

// says tells whether a section of INFO has a text.
func (r *Redis) says(ctx context.Context, section, text string) error {
	c := redis.NewClient(&redis.Options{Addr: r.Addr(), ContextTimeoutEnabled: true})
	defer func() { _ = c.Close() }()
	info, err := c.Info(ctx, section).Result()
	if err == nil && !strings.Contains(info, text) {
		err = fmt.Errorf("%s has no %s", r.Addr(), strings.TrimSpace(text))
	}
	return err
}
