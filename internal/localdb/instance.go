package localdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

const (
	startLimit = 2 * time.Minute        // of a Start whose context has no earlier deadline
	stopLimit  = time.Minute            // of a Stop, likewise
	killLimit  = 20 * time.Second       // for the kernel to clear away killed processes
	pollEvery  = 20 * time.Millisecond  // between two questions whether a server answers
	askLimit   = 2 * time.Second        // for one such question
	stopEvery  = 2 * time.Second        // between two requests to stop
	lockEvery  = 100 * time.Millisecond // between two tries for a directory that is in use
)

// instance is what PostgreSQL and Redis have in common: a directory, a port, a process to start and stop.
type instance struct {
	kind     string // in error messages
	dir      string
	temp     bool
	port     int
	who      *account // nil: the caller's own user
	lock     *os.File
	log      io.Writer
	stopSig  string // an orderly shutdown
	orphan   string // what the keeper sends when the owner dies
	argv     func() ([]string, error)
	answers  func(ctx context.Context, pid int) error
	run      *run         // nil before the first start
	pid      atomic.Int64 // 0 while down
	givePort bool         // another port may be chosen when this one is taken
}

// prepare makes the directory and takes its lock. It waits for an earlier server on the directory to go.
func (i *instance) prepare(ctx context.Context, o Options) (err error) {
	if i.who, err = unprivileged(); err != nil {
		return err
	}
	i.log, i.port, i.givePort = o.Log, o.Port, o.Port == 0
	if i.givePort {
		if i.port, err = freePort(ctx); err != nil {
			return err
		}
	}
	if i.temp = o.Dir == ""; i.temp {
		i.dir, err = os.MkdirTemp("", "safetill-"+i.kind+"-*")
	} else if i.dir, err = filepath.Abs(o.Dir); err == nil {
		err = os.MkdirAll(i.dir, 0o755)
	}
	if err == nil {
		err = i.own()
	}
	if err == nil {
		err = i.takeLock(ctx)
	}
	if err != nil && i.temp && i.dir != "" {
		_ = os.RemoveAll(i.dir)
	}
	return err
}

// own gives the directory to the user that the server runs as, and to nobody else.
func (i *instance) own() error {
	if err := os.Chmod(i.dir, 0o700); err != nil {
		return err
	}
	if i.who == nil {
		return nil
	}
	if err := os.Chown(i.dir, i.who.uid, i.who.gid); err != nil {
		return err
	}
	for parent := filepath.Dir(i.dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 && !ownedBy(info, i.who.uid) {
			return fmt.Errorf("%s: user %s, as whom it runs for root, may not pass %s: choose a directory elsewhere", i.dir, i.who.name, parent)
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

// takeLock waits until no process of an earlier server, and no other owner, holds the directory. The lock belongs to the open file,
// which keeper and server inherit: it is free when the last of them is gone, and no pid has to be believed.
func (i *instance) takeLock(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(i.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		ok, err := tryLock(f)
		if ok {
			i.lock = f
			return nil
		}
		if err != nil {
			_ = f.Close()
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return fmt.Errorf("%s is in use by another process: %w", i.dir, ctx.Err())
		case <-tick.C:
		}
	}
}

// start runs the server and returns when it answers. After an error nothing runs.
func (i *instance) start(ctx context.Context) error {
	if i.lock == nil {
		return errors.New("closed")
	}
	if i.run != nil && i.run.alive() {
		return fmt.Errorf("already running with pid %d", i.run.pid)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for try := 1; ; try++ {
		err := i.startOnce(ctx)
		if err == nil {
			i.pid.Store(int64(i.run.pid))
			i.givePort = false
			return nil
		}
		// Another process may have bound the port between our look and the server's bind.
		if !i.givePort || try == 5 || !strings.Contains(i.run.tail(), "ddress already in use") {
			return err
		}
		if i.port, err = freePort(ctx); err != nil {
			return err
		}
	}
}

func (i *instance) startOnce(ctx context.Context) error {
	argv, err := i.argv()
	if err != nil {
		return err
	}
	if err := i.exec(ctx, argv, i.orphan); err != nil {
		return err
	}
	r := i.run
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, askLimit)
		err := i.answers(ask, r.pid)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-r.done:
			return fmt.Errorf("exit status %d at start:\n%s", r.status, r.tail())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no answer: %w (last: %w)\n%s", ctx.Err(), err, r.tail()), i.kill(ctx))
		case <-tick.C:
		}
	}
}

// exec starts argv as the instance's run. The keeper of the run before is sent away only now, so that a temporary directory is never
// without somebody to remove it.
func (i *instance) exec(ctx context.Context, argv []string, orphanSignal string) error {
	temp := ""
	if i.temp {
		temp = i.dir
	}
	r, err := spawn(ctx, argv, i.who, i.lock, orphanSignal, temp, i.log)
	if err != nil {
		return err
	}
	if i.run != nil {
		i.run.dismiss("keep")
	}
	i.run = r
	return nil
}

// stop shuts the server down in an orderly way; where ctx ends first, it is killed and the error says so.
func (i *instance) stop(ctx context.Context) error {
	if i.run == nil || !i.run.alive() {
		i.pid.Store(0)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if err := i.askToStop(ctx); err != nil {
		return errors.Join(fmt.Errorf("killed, since it did not stop: %w", err), i.kill(ctx))
	}
	i.pid.Store(0)
	return nil
}

// askToStop asks the server to stop, and asks again: a Redis that writes its first append-only file refuses, and forgets it.
func (i *instance) askToStop(ctx context.Context) error {
	tick := time.NewTicker(stopEvery)
	defer tick.Stop()
	for i.run.alive() {
		if err := signal(i.run.pid, i.stopSig); err != nil {
			return err
		}
		select {
		case <-i.run.done:
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// kill ends the server and its children with SIGKILL and returns when the last is gone, also when ctx has ended.
//
// The parent is stopped first. Otherwise: we list its children, it forks one more, we kill it and the list, and the new child serves
// its client on.
func (i *instance) kill(ctx context.Context) error {
	i.pid.Store(0)
	r := i.run
	if r == nil || !r.alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
	defer cancel()
	_ = signal(r.pid, "STOP")
	pids := children(ctx, r.pid)
	_ = signal(r.pid, "KILL")
	for _, pid := range pids {
		_ = signal(pid, "KILL")
	}
	err := r.wait(ctx)
	for n := 0; err == nil && n < len(pids); n++ {
		err = waitGone(ctx, pids[n])
	}
	if err != nil {
		return fmt.Errorf("processes of pid %d are still there: %w", r.pid, err)
	}
	return nil
}

// waitGone waits for a process that is not ours to wait for: a killed one closes its files, which run.done tells, before it is gone.
func waitGone(ctx context.Context, pid int) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !gone(pid) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// close stops the server, removes a temporary directory and gives a kept one free.
func (i *instance) close(ctx context.Context) error {
	if i.lock == nil {
		return nil
	}
	err := i.stop(ctx)
	if i.temp {
		err = errors.Join(err, os.RemoveAll(i.dir))
	}
	if i.run != nil {
		i.run.dismiss("")
	}
	err = errors.Join(err, i.lock.Close())
	i.lock = nil
	return err
}

func (i *instance) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("localdb: %s: %w", i.kind, err)
}

func (r *run) tail() string {
	if r == nil {
		return ""
	}
	return r.log.String()
}
