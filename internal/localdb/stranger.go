package localdb

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// forgetStranger removes a postmaster.pid that names a process which is not a server on this data.
//
// PostgreSQL itself ignores the file when the process is gone. But: a container is killed, its postmaster had pid 30, the container
// starts again, pid 30 is now the owner, and PostgreSQL refuses to start because "pid 30 is running". A postmaster's working directory
// is its data directory; where that cannot be read (no /proc), the file stays and PostgreSQL decides.
func (p *Postgres) forgetStranger() error {
	name := filepath.Join(p.data(), "postmaster.pid")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if pid := firstNumber(string(text)); pid > 0 && elsewhere(pid, p.data()) {
		return os.Remove(name)
	}
	return nil
}

func firstNumber(text string) int {
	line, _, _ := strings.Cut(text, "\n")
	n, _ := strconv.Atoi(strings.TrimSpace(line)) // 0, which is no pid, where it is no number
	return n
}

// elsewhere reports whether pid is known to work in another directory than dir.
func elsewhere(pid int, dir string) bool {
	cwd, err1 := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	want, err2 := os.Stat(dir)
	return err1 == nil && err2 == nil && !os.SameFile(cwd, want)
}
