//go:build !unix

package localdb

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
)

// Other systems have no /bin/sh and no signals to keep a server with; only the package compiles there.

type account struct {
	name     string
	uid, gid int
}

func unprivileged() (*account, error)     { return nil, ErrNotInstalled }
func detach(*exec.Cmd, *account)          {}
func ownedBy(fs.FileInfo, int) bool       { return false }
func tryLock(*os.File) (bool, error)      { return false, ErrNotInstalled }
func signal(int, string) error            { return ErrNotInstalled }
func children(context.Context, int) []int { return nil }
func gone(int) bool                       { return true }
