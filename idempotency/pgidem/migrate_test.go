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
		"0001_init.sql":  "a6ccef63a2848653b622ff0da8d2375e44df16ffa9ac7e995ca29e8277dfd24e",
		"0002_steps.sql": "1180ded11a23e83bc7b44e39a0208ff443d9d4c328fe3ee18afeb7cb3e1ed70f",
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
