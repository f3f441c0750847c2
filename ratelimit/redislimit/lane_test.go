package redislimit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ratelimit/redislimit"
)

// Two flights share who comes, so that the server and the callers need not wait for each other.
func TestFlightsShareWhoComes(t *testing.T) {
	t.Parallel()
	const queued, flies = true, false
	now, longAgo := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	for name, c := range map[string]struct {
		flights, queue int
		air            []int
		off            time.Time
		next           bool // of a job more
		share          int
	}{
		"alone":                                    {4, 0, nil, now, flies, 0},
		"those who came meanwhile, in halves":      {4, 64, nil, now, flies, 32},
		"too few for two":                          {4, 20, nil, now, flies, 20},
		"few wait for the one that is under way":   {4, 14, []int{1}, now, queued, 0},
		"not if that is late":                      {4, 14, []int{1}, longAgo, flies, 14},
		"many do not":                              {4, 15, []int{1}, now, flies, 0},
		"as many as are in the air":                {4, 32, []int{32}, now, flies, 32},
		"not more, or the other would have no one": {4, 61, []int{3}, now, flies, 32},
		"two are enough":                           {4, 50, []int{32, 32}, now, queued, 50},
		"unless they are late":                     {4, 50, []int{32, 32}, longAgo, flies, 50},
		"or one would be full":                     {4, 127, []int{32, 32}, now, flies, 96},
		"never more than a flight has room for":    {4, 1000, nil, now, flies, 128},
		"nor more than may be":                     {4, 1000, []int{128, 128, 128, 128}, longAgo, queued, 128},
		"one at a time":                            {1, 64, nil, now, flies, 64},
		"one at a time, and it is under way":       {1, 64, []int{1}, now, queued, 64},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			holds, share := redislimit.Lane(redislimit.Options{Flights: c.flights, Batch: 128}, c.queue, c.off, c.air...)
			require.Equal(t, c.next, holds, "a job more")
			require.Equal(t, c.share, share)
		})
	}
}
