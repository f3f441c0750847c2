package localdb

import (
	"errors"
	"io"
)

// ErrNotInstalled says that this machine has no binaries to start the server from.
var ErrNotInstalled = errors.New("localdb: server binaries are not installed")

// Options says where a server keeps its data and how it runs. The zero value is a throw-away server on a free port.
type Options struct {
	// Dir holds the server's data; it is created where missing, and taken over by the unprivileged user that the server runs as when
	// the caller is root. Default: a temporary directory, removed by Close and when the owner dies.
	Dir string

	// Port on 127.0.0.1. Default: a free one below the range that the system gives to outgoing connections, so that the port is still
	// free when the server is killed and started again.
	Port int

	// Settings are added to the server's own, in the syntax of postgresql.conf (without quotes) or redis.conf, and win over the
	// defaults of this package. Default: none.
	Settings map[string]string

	// Log receives what the server writes to its log, from one goroutine. Default: only the last 8 KiB are kept, for error messages.
	Log io.Writer
}
