package pgidem_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency/pgidem"
)

// A change comes as the next file: databases out there have run this one.
func TestShippedMigrationsDoNotChange(t *testing.T) {
	t.Parallel()
	shipped := map[string]string{
		"0001_init.sql":           "a6ccef63a2848653b622ff0da8d2375e44df16ffa9ac7e995ca29e8277dfd24e",
		"0002_steps.sql":          "58d5aebae87e73aed80f9b58996d39a0958270b3a8fd0cc53ce6f18ed65e58a0",
		"0003_domains.sql":        "48cc56f708855287d59e5aaac5d549a279a49403b404830175169830687e7307",
		"0004_no_sweep_index.sql": "e1adadd7bea8a72666ac6ecfb37fd0b76019c92d82a8e801328e6f2086aebc98",
	}
	files := pgidem.Migrations()
	names, err := fs.Glob(files, "*")
	require.NoError(t, err)
	require.Len(t, names, len(shipped))
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		require.NoError(t, err)
		sum := sha256.Sum256(text)
		require.Equal(t, shipped[name], hex.EncodeToString(sum[:]), name)
	}
}
