package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/examples/internal/connect"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// serving is how a process serves.
type serving struct {
	addr, redis, way string
	owned            []string
	nodes            int
	limit            ratelimit.Limit
}

// node is a process' part in the fleet.
type node struct {
	decider ratelimit.Decider
	run     func(context.Context) error // nil: nothing has to run
	peers   http.Handler                // nil: nobody asks it
	close   func()
}

func serve(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parseServe(args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	n, err := s.node(log)
	if err != nil {
		return err
	}
	defer n.close()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "serving on http://%s\n", listener.Addr())
	return n.serve(ctx, listener)
}

func parseServe(args []string, stderr io.Writer) (*serving, error) {
	s := &serving{}
	f := cli.NewFlags("serve", stderr)
	f.StringVar(&s.addr, "addr", "127.0.0.1:7071", "`address` to serve on; with -owned one of those")
	owned := f.String("owned", "", "the `addresses` of all processes, with commas: each key is counted by one of them")
	f.StringVar(&s.redis, "redis", "", "`URL` of a Redis that all processes share")
	f.StringVar(&s.way, "way", "hybrid", "with -redis: hybrid, leased, or each for a question to Redis a check")
	f.IntVar(&s.nodes, "nodes", 3, "with -redis: how many processes there are")
	rate := f.Int64("rate", 100, "units a minute and key")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	s.limit = ratelimit.PerMinute(*rate)
	if *owned != "" {
		s.owned = strings.Split(*owned, ",")
	}
	f.NoArguments()
	f.Refuse((s.redis == "") == (s.owned == nil), "give -redis or -owned: what the processes share, or who they are")
	f.Refuse(s.owned != nil && !slices.Contains(s.owned, s.addr), "-owned has to name -addr "+s.addr)
	f.Demand(slices.Contains([]string{"hybrid", "leased", "each"}, s.way), "way", "hybrid, leased or each")
	f.Demand(s.nodes >= 1, "nodes", "1 at least")
	return s, errors.Join(f.Err(), s.limit.Validate())
}

func (s *serving) node(log *slog.Logger) (*node, error) {
	o := ratelimit.Options{OnError: ratelimit.FailLocal, Logger: log}
	if s.owned != nil {
		return s.owner(o)
	}
	o.Share = 1 / float64(s.nodes)
	rdb, err := connect.Redis(s.redis, log)
	if err != nil {
		return nil, fmt.Errorf("-redis: %w", err)
	}
	store, err := redislimit.NewStore(rdb, nil)
	if err != nil {
		return nil, errors.Join(err, rdb.Close())
	}
	n := &node{close: func() { _ = rdb.Close() }} // nothing is to be saved by it
	switch s.way {
	case "hybrid":
		h, fault := ratelimit.NewHybrid(store, s.limit, &ratelimit.HybridOptions{Options: o, Nodes: s.nodes})
		n.decider, n.run, err = h, h.Run, fault
	case "leased":
		l, fault := ratelimit.NewLeased(store, s.limit, &ratelimit.LeasedOptions{Options: o, Nodes: s.nodes})
		n.decider, n.run, err = l, l.Run, fault
	default:
		n.decider, err = ratelimit.New(store, s.limit, &o)
	}
	return n, err
}

// owner is a process that needs no store, only to know the others.
func (s *serving) owner(o ratelimit.Options) (*node, error) {
	o.Share = 1 / float64(len(s.owned))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}}
	dial := func(name string) ratelimit.Peer {
		return &peer{client: client, url: (&url.URL{Scheme: "http", Host: name, Path: "/peer"}).String()}
	}
	owned, err := ratelimit.NewOwned(s.addr, ratelimit.NewMembers(s.owned...), dial, s.limit, &ratelimit.OwnedOptions{Options: o})
	if err != nil {
		return nil, err
	}
	return &node{decider: owned, peers: answerPeers(owned), close: client.CloseIdleConnections}, nil
}

// serve serves until ctx ends. What a limiter has to run goes on until nobody asks it any more.
func (n *node) serve(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /check/{key}", n.check)
	if n.peers != nil {
		mux.Handle("POST /peer", n.peers)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ran := make(chan error, 1)
	go func() {
		if n.run == nil {
			ran <- nil
			return
		}
		ran <- n.run(running)
	}()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = server.Shutdown(limit)
	}
	stop()
	return errors.Join(err, <-ran)
}

// check asks for one unit of a key.
func (n *node) check(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("key")
	if !utf8.ValidString(key) { // peers are asked in JSON, which would make another key of it
		http.Error(w, "the key is not UTF-8", http.StatusBadRequest)
		return
	}
	result, err := n.decider.Allow(r.Context(), key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !result.Allowed {
		w.Header().Set("Retry-After", fmt.Sprint(int64((result.RetryAfter+time.Second-1)/time.Second)))
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_ = json.NewEncoder(w).Encode(struct { // the caller has hung up, then
		Allowed   bool   `json:"allowed"`
		Remaining int64  `json:"remaining"`
		Source    string `json:"source"`
	}{result.Allowed, result.Remaining, result.Source.String()})
}
