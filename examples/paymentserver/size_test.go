package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The packages do the work: what grows beyond this belongs into one of them.
func TestTheServerIsSmall(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	lines := 0
	for _, name := range files {
		if !strings.HasSuffix(name, "_test.go") {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			lines += bytes.Count(text, []byte("\n"))
		}
	}
	require.Greater(t, lines, 1000)
	require.Less(t, lines, 1500)
}
