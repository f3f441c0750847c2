//go:build unix

package localdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is the user that servers run as when the caller is root.
type account struct {
	name     string
	uid, gid int
}

// unprivileged returns nil where the caller is not root: then servers run as the caller.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid > 0 {
			return &account{name, uid, gid}, nil
		}
	}
	return nil, errors.New("running as root, and there is no user postgres or nobody to start the server as")
}

// detach puts the process into a group of its own, so that a Ctrl-C meant for the owner does not reach its servers.
func detach(cmd *exec.Cmd, who *account) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if who != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}
	}
}

func ownedBy(info fs.FileInfo, uid int) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid
}

func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	return err == nil, err
}

var signals = map[string]syscall.Signal{
	"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "QUIT": syscall.SIGQUIT, "STOP": syscall.SIGSTOP, "KILL": syscall.SIGKILL,
}

func signal(pid int, name string) error {
	if err := syscall.Kill(pid, signals[name]); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send SIG%s to pid %d: %w", name, pid, err)
	}
	return nil
}

// gone reports whether pid has ended; a zombie that its new parent has not collected yet has.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && bytes.Contains(text, []byte(") Z "))
}

// children lists the direct children of pid: from /proc, or from ps where there is none.
func children(ctx context.Context, pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	if len(stats) == 0 {
		out, _ := exec.CommandContext(ctx, "ps", "-A", "-o", "pid=,ppid=").Output()
		return childrenInTable(string(out), pid)
	}
	var list []int
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it ended meanwhile
		}
		// "pid (any name) state ppid …": the name may hold spaces and brackets, so count from its end.
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if len(fields) > 1 && string(fields[1]) == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			list = append(list, child)
		}
	}
	return list
}

func childrenInTable(table string, parent int) []int {
	var list []int
	for line := range strings.Lines(table) {
		var pid, ppid int
		if n, _ := fmt.Sscan(line, &pid, &ppid); n == 2 && ppid == parent {
			list = append(list, pid)
		}
	}
	return list
}
