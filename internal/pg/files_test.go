package pg

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParseName(f *testing.F) {
	for _, name := range []string{"0001_init.sql", "0000_x.sql", "1_x.sql", "0001_X.sql", "0001_.sql", "0001_a.sql\n", "../0001_a.sql"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		version, err := parseName(name)
		if err != nil {
			return
		}
		require.True(t, strings.HasPrefix(name, fmt.Sprintf("%04d_", version)))
		require.True(t, strings.HasSuffix(name, ".sql"))
		require.NotContains(t, name, "/")
	})
}
