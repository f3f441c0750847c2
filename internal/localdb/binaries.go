package localdb

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// debianBins is where Debian and its kin keep the binaries of each PostgreSQL version, outside of PATH.
const debianBins = "/usr/lib/postgresql/*/bin"

// findBins returns the first directory that holds every one of the named programs: of PATH, then of more. Taking all programs from
// one directory keeps an initdb of one version from preparing data for a server of another.
func findBins(more []string, names ...string) (string, error) {
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" || runtime.GOOS == "js" || runtime.GOOS == "wasip1" {
		return "", fmt.Errorf("%w: not supported on %s", ErrNotInstalled, runtime.GOOS)
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), more...) {
		if filepath.IsAbs(dir) && !slices.ContainsFunc(names, func(n string) bool { return !executable(filepath.Join(dir, n)) }) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: no directory of PATH, or like those of Debian, has %s", ErrNotInstalled, strings.Join(names, " and "))
}

// postgresDirs lists Debian's directories, the newest version first: 15 before 9.6.
func postgresDirs(pattern string) []string {
	dirs, _ := filepath.Glob(pattern)
	version := func(dir string) float64 {
		v, _ := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64)
		return v
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Compare(version(b), version(a)) })
	return dirs
}

func executable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
