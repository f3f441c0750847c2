package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/queue"
	"github.com/safetill/safetill/internal/queue/queuetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(t testing.TB, lease time.Duration) queue.Queue {
		q, err := queue.NewMemory(&queue.MemoryOptions{Lease: lease})
		require.NoError(t, err)
		return q
	})
}

func TestMemoryRefusesNegativeLease(t *testing.T) {
	t.Parallel()
	_, err := queue.NewMemory(&queue.MemoryOptions{Lease: -1})
	require.ErrorContains(t, err, "Lease")
}
