package ratelimit

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// What NewMemory says that a counter costs.
func TestSlotsAreSmall(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, 24, unsafe.Sizeof(slot[bucket]{}))
	require.EqualValues(t, 40, unsafe.Sizeof(slot[window]{}))
}
