package localdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private PostgreSQL server. URL and Pid may be called from anywhere; the other methods by one goroutine at a time.
type Postgres struct {
	in       instance
	bin      string
	settings map[string]string
}

// StartPostgres prepares a data directory where there is none (a second or two), starts a server on it and returns when it answers.
// It waits for an earlier server on the same directory to be gone. ctx bounds the start only, with 2 minutes at the most; on failure
// the error ends with the last lines of the server's log, nothing runs, and a temporary directory is removed.
func StartPostgres(ctx context.Context, o Options) (*Postgres, error) {
	bin, err := findBins(postgresDirs(debianBins), "initdb", "postgres")
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, settings: map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "", // a socket's path may be 107 bytes long, and tests have long paths
		"max_connections":         "200",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
	}}
	maps.Copy(p.settings, o.Settings)
	p.in = instance{kind: "postgres", stopSig: "INT", orphan: "INT", argv: p.argv, answers: p.answers}
	if o.Dir == "" {
		p.in.orphan = "QUIT" // nobody will read the data again: no checkpoint
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := p.in.prepare(ctx, o); err != nil {
		return nil, p.in.wrap(err)
	}
	err = p.initdb(ctx)
	if err == nil {
		err = p.in.start(ctx)
	}
	if err != nil {
		return nil, p.in.wrap(errors.Join(err, p.in.close(context.WithoutCancel(ctx))))
	}
	return p, nil
}

// URL is a connection string for the superuser and the database postgres; it stays the same over restarts.
func (p *Postgres) URL() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", p.in.port)
}

// Pid is the server's process, 0 while it is down.
func (p *Postgres) Pid() int { return int(p.in.pid.Load()) }

// Start starts a stopped or killed server again on the same port and data, and returns when it has recovered and answers.
func (p *Postgres) Start(ctx context.Context) error { return p.in.wrap(p.in.start(ctx)) }

// Stop ends all sessions, writes a checkpoint and returns when every process of the server is gone. Where ctx ends first (a minute at
// the most) the server is killed, which loses nothing, and the error says so. The data stays for another Start.
func (p *Postgres) Stop(ctx context.Context) error { return p.in.wrap(p.in.stop(ctx)) }

// Kill ends every process of the server with SIGKILL, as a crash would, and returns when they are gone.
func (p *Postgres) Kill() error { return p.in.wrap(p.in.kill(context.Background())) }

// Close is Stop for good: it also removes a temporary directory and gives a kept one free for others.
func (p *Postgres) Close(ctx context.Context) error { return p.in.wrap(p.in.close(ctx)) }

func (p *Postgres) data() string { return filepath.Join(p.in.dir, "data") }

// initdb prepares the data beside its final name and then renames it. Otherwise: the owner is killed while initdb runs, the next start
// finds half a data directory, and refuses it for ever.
func (p *Postgres) initdb(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		return nil
	}
	fresh := p.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	argv := []string{filepath.Join(p.bin, "initdb"), "-D", fresh, "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"}
	if p.in.temp {
		argv = append(argv, "--no-sync")
	}
	if err := p.in.exec(ctx, argv, "INT"); err != nil {
		return err
	}
	if err := p.in.run.wait(ctx); err != nil {
		return errors.Join(fmt.Errorf("initdb: %w", err), p.in.kill(ctx))
	}
	if p.in.run.status != 0 {
		return fmt.Errorf("initdb: exit status %d:\n%s", p.in.run.status, p.in.run.tail())
	}
	if err := os.Rename(fresh, p.data()); err != nil {
		return err
	}
	return syncDir(p.in.dir)
}

func (p *Postgres) argv() ([]string, error) {
	if err := p.forgetStranger(); err != nil {
		return nil, err
	}
	argv := []string{filepath.Join(p.bin, "postgres"), "-D", p.data(), "-p", strconv.Itoa(p.in.port)}
	for _, name := range slices.Sorted(maps.Keys(p.settings)) {
		argv = append(argv, "-c", name+"="+p.settings[name])
	}
	return argv, nil
}

// answers asks for the data directory too: where the port belongs to somebody else's server, that one may answer instead.
func (p *Postgres) answers(ctx context.Context, _ int) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var dir string
	if err := conn.QueryRow(ctx, "show data_directory").Scan(&dir); err != nil {
		return err
	}
	if dir != p.data() {
		return fmt.Errorf("port %d is answered by a server on %s", p.in.port, dir)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
