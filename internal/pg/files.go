package pg

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
)

// file is one migration as the program has it.
type file struct {
	version  int
	name     string
	sql      string
	checksum string // SHA-256, in hexadecimal
}

var fileName = regexp.MustCompile(`^([0-9]{4})_[a-z0-9_]+\.sql$`)

// parseName reads the version of "0001_init.sql".
func parseName(name string) (int, error) {
	m := fileName.FindStringSubmatch(name)
	if m == nil {
		return 0, fmt.Errorf("migration file %q is not named like 0001_init.sql", name)
	}
	return strconv.Atoi(m[1])
}

// readFiles returns the migrations of a line, which are numbered from 1 without a gap.
func readFiles(files fs.FS) ([]file, error) {
	if files == nil {
		return nil, errors.New("no migration files")
	}
	names, err := fs.Glob(files, "*.sql") // sorted
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("no migration files: *.sql at the root of Files")
	}
	list := make([]file, 0, len(names))
	for n, name := range names {
		version, err := parseName(name)
		if err != nil {
			return nil, err
		}
		if version != n+1 {
			return nil, fmt.Errorf("migration file %q: want version %d next", name, n+1)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		// A checkout with Windows line ends is the same migration.
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
		sum := sha256.Sum256(text)
		list = append(list, file{version, name, string(text), hex.EncodeToString(sum[:])})
	}
	return list, nil
}
