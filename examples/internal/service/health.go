package service

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
)

// pingLimit is how long a store may take to show that it is there.
const pingLimit = time.Second

// ErrNotAlone is what the ping of a store returns that is there, and of no use while all
// others are down.
var ErrNotAlone = errors.New("is of use beside another store only")

// Health tells those who watch a service whether it lives, and whether it can
// work: as long as one of its stores can be used it can, which is for services
// that have a way around each. The zero value has no stores and is ready.
type Health struct {
	stores   map[string]func(context.Context) error
	draining atomic.Bool
}

// Watch adds a store to be pinged at every look. Call it before [Health.Routes].
func (h *Health) Watch(store string, ping func(context.Context) error) {
	if h.stores == nil {
		h.stores = map[string]func(context.Context) error{}
	}
	h.stores[store] = ping
}

// Drain makes the service unready for good: for [Service].Unready.
func (h *Health) Drain() { h.draining.Store(true) }

// Routes adds /livez, which asks nobody and answers 200, and /readyz, which
// answers 200 ("ok", or "degraded" while some stores are down) or 503
// ("unavailable", "draining"). /api/v1/health is the same.
func (h *Health) Routes(r gin.IRoutes) {
	r.GET("/livez", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"status": "alive"}) })
	r.GET("/readyz", h.ready)
	r.GET("/api/v1/health", h.ready)
}

func (h *Health) ready(c *gin.Context) {
	stores := h.ping(c.Request.Context())
	count := map[string]int{}
	for _, state := range stores {
		count[state]++
	}
	status, code := "ok", http.StatusOK
	switch {
	case h.draining.Load():
		status, code = "draining", http.StatusServiceUnavailable
	case count["up"] == 0 && len(stores) > 0:
		status, code = "unavailable", http.StatusServiceUnavailable
	case count["down"] > 0:
		status = "degraded"
	}
	c.JSON(code, gin.H{"status": status, "stores": stores})
}

// ping asks all at once: one that hangs would use up the others' time, and a
// service that has lost one store would seem to have lost them all.
func (h *Health) ping(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, pingLimit)
	defer cancel()
	states := make(map[string]string, len(h.stores))
	var mu sync.Mutex
	var asking sync.WaitGroup
	for name, ping := range h.stores {
		asking.Go(func() {
			state := "up"
			if err := ping(ctx); errors.Is(err, ErrNotAlone) {
				state = "helps"
			} else if err != nil {
				state = "down"
			}
			mu.Lock()
			defer mu.Unlock()
			states[name] = state
		})
	}
	asking.Wait()
	return states
}
