// Package localdb starts private PostgreSQL and Redis servers from the binaries that this machine already has: for tests,
// and for a durable single machine without containers.
//
// Guaranteed:
//   - A server that Start returned without error answers queries; it was asked, and it is ours and not a stranger on the same port.
//   - A server does not outlive the process that started it, however that process ends, SIGKILL included. A shell between the two
//     holds a pipe to the owner; when the pipe closes, it shuts the server down in an orderly way and removes a temporary directory.
//   - One data directory has at most one server. The directory's lock is held by the owner, by the shell and by every process of the
//     server, so a Start on it waits until the last process of an earlier server is gone.
//   - Servers listen on 127.0.0.1 only and run as an unprivileged user when the caller is root.
//   - Durability is PostgreSQL's default: fsync and synchronous_commit stay on.
//
// Not guaranteed:
//   - Passwords. Any user of this machine may connect; use it where the machine's users trust each other.
//   - That Redis has written what it acknowledged. With appendfsync everysec, the default here and in Redis, it delays the write itself
//     for up to two seconds while a sync is under way, so a SIGKILL can lose acknowledged commands, and a power cut a second's worth.
//     Where that matters set appendfsync to always.
//   - Anything once the shell itself is killed by SIGKILL: then nobody watches the owner.
//
// Where the binaries are missing, and on systems other than Unix, Start fails with ErrNotInstalled.
package localdb
