package absent_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/absent"
)

type value struct{}

func (value) Read([]byte) (int, error) { return 0, io.EOF }

func TestIs(t *testing.T) {
	t.Parallel()
	require.True(t, absent.Is(nil))
	require.True(t, absent.Is(io.Reader(nil)))
	require.True(t, absent.Is(io.Reader((*bytes.Buffer)(nil))))
	require.False(t, absent.Is(io.Reader(new(bytes.Buffer))))
	require.False(t, absent.Is(io.Reader(value{})))
}
