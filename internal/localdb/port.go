package localdb

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are taken below 32768, where Linux starts to give ports to outgoing connections: a client of another server must not sit on
// the port of a server that is down for a moment. A Redis Cluster node also listens on its port + busOffset, which stays below as well.
const (
	lowPort   = 12000
	highPort  = 22000
	busOffset = 10000
)

var ports struct {
	mu    sync.Mutex
	given map[int]bool
}

// freePort returns a port that nothing listens on and that this process has not handed out yet. Another process may still win it;
// then the server fails to bind and the caller asks again.
func freePort(ctx context.Context) (int, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 1000 {
		port := lowPort + rand.IntN(highPort-lowPort)
		if !ports.given[port] && bindable(ctx, port) && bindable(ctx, port+busOffset) {
			ports.given[port] = true
			return port, nil
		}
	}
	return 0, errors.New("localdb: no free port on 127.0.0.1")
}

func bindable(ctx context.Context, port int) bool {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}
