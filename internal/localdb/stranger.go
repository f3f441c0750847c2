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
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 {
		return nil
	}
	cwd, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return nil
	}
	data, err := os.Stat(p.data())
	if err != nil || os.SameFile(cwd, data) {
		return err
	}
	return os.Remove(name)
}
