//go:build unix

package localdb

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func programs(t *testing.T, dir string, names ...string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o755))
	}
	return dir
}

// PATH has a postgres without its initdb, as some distributions link it: both must come from the next place.
func TestBinariesComeFromOneDirectory(t *testing.T) {
	root := t.TempDir()
	half := programs(t, filepath.Join(root, "bin"), "postgres", "pg_ctl")
	old := programs(t, filepath.Join(root, "lib", "9.6", "bin"), "postgres", "initdb")
	programs(t, filepath.Join(root, "lib", "15", "bin"), "postgres", "initdb")
	newest := programs(t, filepath.Join(root, "lib", "17", "bin"), "postgres", "initdb")
	programs(t, filepath.Join(root, "lib", "18", "bin"), "psql")
	dirs := postgresDirs(filepath.Join(root, "lib", "*", "bin"))

	t.Setenv("PATH", half)
	dir, err := findBins(dirs, "initdb", "postgres")
	require.NoError(t, err)
	require.Equal(t, newest, dir)

	t.Setenv("PATH", half+string(filepath.ListSeparator)+old)
	dir, err = findBins(dirs, "initdb", "postgres")
	require.NoError(t, err)
	require.Equal(t, old, dir, "PATH is the user's choice")

	_, err = findBins(nil, "initdb", "no-such-program")
	require.ErrorIs(t, err, ErrNotInstalled)
}

func TestChildrenInATableOfPs(t *testing.T) {
	t.Parallel()
	require.Equal(t, []int{11, 12}, childrenInTable("  10 1\n11   10\n 12 10\nbad line\n13 1\n", 10))
}

func TestTailKeepsTheEnd(t *testing.T) {
	t.Parallel()
	var log tail
	for range 2 * tailSize {
		_, _ = log.Write([]byte("x"))
	}
	_, _ = log.Write([]byte(" the end\n"))
	require.Len(t, log.String(), tailSize-1)
	require.Regexp(t, "x the end$", log.String())
}
