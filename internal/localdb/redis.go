package localdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Redis is a private Redis server. URL, Addr and Pid may be called from anywhere; the other methods by one goroutine at a time.
type Redis struct {
	in       instance
	bin      string
	settings map[string]string
}

// StartRedis starts a server with an append-only file, synced every second, no snapshots and 4096 databases, and returns when it has
// loaded its data and answers. Directory, context and errors are as for StartPostgres.
func StartRedis(ctx context.Context, o Options) (*Redis, error) {
	bin, err := findBins(nil, "redis-server")
	if err != nil {
		return nil, err
	}
	r := &Redis{bin: bin, settings: map[string]string{
		"bind":        "127.0.0.1",
		"appendonly":  "yes",
		"appendfsync": "everysec",
		"save":        "",
		"databases":   "4096",
	}}
	maps.Copy(r.settings, o.Settings)
	r.in = instance{kind: "redis", stopSig: "TERM", orphan: "TERM", argv: r.argv, answers: r.answers}
	if err := r.begin(ctx, o); err != nil {
		return nil, err
	}
	return r, nil
}

// begin starts the server for the first time. After an error there is nothing left of it.
func (r *Redis) begin(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := r.in.prepare(ctx, o); err != nil {
		return r.in.wrap(err)
	}
	if err := r.in.start(ctx); err != nil {
		return r.in.wrap(errors.Join(err, r.in.close(context.WithoutCancel(ctx))))
	}
	return nil
}

// Addr is host:port; it stays the same over restarts.
func (r *Redis) Addr() string { return fmt.Sprintf("127.0.0.1:%d", r.in.port) }

// URL is a connection string for database 0.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// Pid is the server's process, 0 while it is down.
func (r *Redis) Pid() int { return int(r.in.pid.Load()) }

// Start starts a stopped or killed server again on the same port and data, and returns when it has loaded them and answers.
func (r *Redis) Start(ctx context.Context) error { return r.in.wrap(r.in.start(ctx)) }

// Stop writes and syncs the append-only file and returns when the server is gone. Where ctx ends first (a minute at the most) it is
// killed, and the error says so. The data stays for another Start.
func (r *Redis) Stop(ctx context.Context) error { return r.in.wrap(r.in.stop(ctx)) }

// Kill ends every process of the server with SIGKILL, as a crash would, and returns when they are gone.
func (r *Redis) Kill() error { return r.in.wrap(r.in.kill(context.Background())) }

// Close is Stop for good: it also removes a temporary directory and gives a kept one free for others.
func (r *Redis) Close(ctx context.Context) error { return r.in.wrap(r.in.close(ctx)) }

// argv writes the configuration anew: a file, since only there a value may be several words.
func (r *Redis) argv() ([]string, error) {
	var conf strings.Builder
	fmt.Fprintf(&conf, "port %d\ndir %s\n", r.in.port, quoted(r.in.dir))
	for _, name := range slices.Sorted(maps.Keys(r.settings)) {
		value := r.settings[name]
		if value == "" {
			value = `""`
		}
		fmt.Fprintf(&conf, "%s %s\n", name, value)
	}
	name, err := r.configure(conf.String())
	return []string{filepath.Join(r.bin, "redis-server"), name}, err
}

// quoted returns a text as redis.conf takes it. Go's %q is not that: Redis does not know \u3000, which is a blank of
// Japanese folder names.
func quoted(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return `"` + b.String() + `"`
}

// configure writes a configuration that the server may write too, as a sentinel does.
func (r *Redis) configure(conf string) (name string, err error) {
	name = filepath.Join(r.in.dir, "redis.conf")
	if err = os.WriteFile(name, []byte(conf), 0o644); err == nil && r.in.who != nil {
		err = os.Chown(name, r.in.who.uid, r.in.who.gid)
	}
	return name, err
}

// answers asks for the process id too: where the port belongs to somebody else's server, that one may answer instead.
func (r *Redis) answers(ctx context.Context, pid int) error {
	// A bare dial first: the client would write every refusal to the program's standard error.
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.Addr())
	if err != nil {
		return err
	}
	_ = conn.Close()
	c := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	defer func() { _ = c.Close() }()
	if err := c.Ping(ctx).Err(); err != nil { // refused while the append-only file is loaded
		return err
	}
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", pid)) {
		return fmt.Errorf("port %d is answered by another server", r.in.port)
	}
	return nil
}
