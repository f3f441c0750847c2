package ratelimit_test

import (
	"os"
	"testing"
	"time"

	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/ratelimittest"
)

// proofOps is how many random operations there are of each algorithm: a million where SAFETILL_PROOF=full.
func proofOps() int {
	if os.Getenv("SAFETILL_PROOF") == "full" {
		return 1_000_000
	}
	return 0
}

func TestMemory(t *testing.T) {
	t.Parallel()
	ratelimittest.Run(t, proofOps(), func(_ testing.TB, now func() time.Time) ratelimit.Store {
		return ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: now})
	})
}
