package localdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	clusterNodes = 3
	clusterSlots = 16384
)

// RedisCluster is a private Redis Cluster of three masters without replicas. Its methods are for one goroutine at a time.
type RedisCluster struct {
	nodes []*Redis
}

// StartRedisCluster starts the masters, gives each a third of the slots and returns when all of them call the cluster whole (a few
// seconds). The cluster is always a temporary one: Dir and Port must be zero.
func StartRedisCluster(ctx context.Context, o Options) (*RedisCluster, error) {
	if o.Dir != "" || o.Port != 0 {
		return nil, errors.New("localdb: redis cluster: Dir and Port must be zero, each node takes its own")
	}
	o.Settings = clusterSettings(o.Settings)
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	c := &RedisCluster{}
	for range clusterNodes {
		node, err := StartRedis(ctx, o)
		if err != nil {
			return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
		}
		c.nodes = append(c.nodes, node)
	}
	if err := c.join(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("localdb: redis cluster: %w", err), c.Close(context.WithoutCancel(ctx)))
	}
	return c, nil
}

func clusterSettings(more map[string]string) map[string]string {
	settings := map[string]string{
		"cluster-enabled":      "yes",
		"cluster-config-file":  "nodes.conf",
		"cluster-node-timeout": "5000",
		"databases":            "1", // a cluster has no others
	}
	maps.Copy(settings, more)
	return settings
}

// Addrs lists host:port of the masters.
func (c *RedisCluster) Addrs() []string {
	var addrs []string
	for _, node := range c.nodes {
		addrs = append(addrs, node.Addr())
	}
	return addrs
}

// Nodes are the masters, each to be killed and started again by itself.
func (c *RedisCluster) Nodes() []*Redis { return c.nodes }

// Close stops all nodes and removes what is temporary.
func (c *RedisCluster) Close(ctx context.Context) error {
	var errs []error
	for _, node := range c.nodes {
		errs = append(errs, node.Close(ctx))
	}
	return errors.Join(errs...)
}

// join makes one cluster of the nodes.
func (c *RedisCluster) join(ctx context.Context) error {
	for n, node := range c.nodes {
		if err := node.enter(ctx, n, c.nodes[0]); err != nil {
			return fmt.Errorf("node %d: %w", n, err)
		}
	}
	if err := until(ctx, func() error { return c.whole(ctx) }); err != nil {
		return fmt.Errorf("not whole: %w", err)
	}
	return nil
}

// until asks again and again, until what it asks for is so.
func until(ctx context.Context, so func() error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := so()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// enter gives the node its slots and introduces it to the first. Epochs must differ before the nodes meet.
func (r *Redis) enter(ctx context.Context, n int, first *Redis) error {
	cl := redis.NewClient(&redis.Options{Addr: r.Addr(), ContextTimeoutEnabled: true})
	defer func() { _ = cl.Close() }()
	low, high := n*clusterSlots/clusterNodes, (n+1)*clusterSlots/clusterNodes-1
	if err := cl.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", n+1).Err(); err != nil {
		return err
	}
	if err := cl.ClusterAddSlotsRange(ctx, low, high).Err(); err != nil {
		return err
	}
	if r == first {
		return nil
	}
	return cl.ClusterMeet(ctx, "127.0.0.1", strconv.Itoa(first.in.port)).Err()
}

// whole reports whether every node knows every other and all slots.
func (c *RedisCluster) whole(ctx context.Context) error {
	for _, node := range c.nodes {
		cl := redis.NewClient(&redis.Options{Addr: node.Addr(), ContextTimeoutEnabled: true})
		info, err := cl.ClusterInfo(ctx).Result()
		_ = cl.Close()
		if err != nil {
			return err
		}
		for _, want := range []string{"cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3", "cluster_size:3"} {
			if !strings.Contains(info, want+"\r\n") {
				return fmt.Errorf("%s has no %s", node.Addr(), want)
			}
		}
	}
	return nil
}
