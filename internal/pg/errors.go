package pg

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Codes of https://www.postgresql.org/docs/current/errcodes-appendix.html that are named here.
const (
	codeUniqueViolation      = "23505"
	codeNoSchema             = "3F000"
	codeNoColumn             = "42703"
	codeNoObject             = "42704" // a type, among others
	codeNoFunction           = "42883"
	codeNoTable              = "42P01"
	codeReadOnly             = "25006" // read_only_sql_transaction
	codeIdleInTransaction    = "25P03"
	codeTransactionTimeout   = "25P04"
	codeSerializationFailure = "40001"
	codeDeadlock             = "40P01"
	codeLockNotAvailable     = "55P03"
	codeQueryCanceled        = "57014"
	codeAdminShutdown        = "57P01"
	codeCrashShutdown        = "57P02"
	codeCannotConnectNow     = "57P03"
	codeIdleSessionTimeout   = "57P05"
	codeTooManyConnections   = "53300"
	codeCannotConnect        = "08001"
	codeRejected             = "08004"
)

// notThere are what PostgreSQL says of a statement whose tables were not migrated.
var notThere = []string{codeNoTable, codeNoColumn, codeNoObject, codeNoFunction, codeNoSchema}

// Retryable reports whether the whole unit of work that failed with err, from its Begin on, has had no effect and may well succeed when
// done again: serialization failures, deadlocks, locks not available, a server that is starting, stopping or full of connections, and
// connections that failed before anything was sent.
//
// A connection lost later is not retryable here, since the lost answer may have been that of COMMIT: such an error is Unavailable, and
// only work that carries an id of its own may be repeated after it. The error of a batch that had COMMIT in it must be marked with
// [CommitSent]. The error of a cancelled context is never retryable.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	_, sent := errors.AsType[commitSent](err)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case codeSerializationFailure, codeDeadlock, codeLockNotAvailable:
			return true // the server has rolled back
		case codeTooManyConnections, codeCannotConnect, codeRejected,
			codeAdminShutdown, codeCrashShutdown, codeCannotConnectNow, codeIdleSessionTimeout:
			return !sent
		}
		return false
	}
	if sent {
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return Unavailable(err)
	}
	// pgx calls a connection that it finds closed safe to retry, since this statement was not sent. An earlier one may have closed it, and
	// that may have been COMMIT: the server commits, dies before it answers, and a retry would do the work a second time.
	return !errors.Is(err, pgconn.ErrConnClosed) && pgconn.SafeToRetry(err)
}

// commitSent is an error after which the work may be done.
type commitSent struct{ error }

func (c commitSent) Unwrap() error { return c.error }

// CommitSent marks the error of a batch that ended with COMMIT. This is how the work is done twice without the mark:
//
//	the server reads the statements and the COMMIT at once, and is told to stop;
//	it commits, and answers 57P01, terminating connection;
//	that code, answered to a statement, means that nothing was done: the work is repeated.
//
// A server that is told to stop while it waits for a statement, or works on one, has not committed.
func CommitSent(err error) error {
	if err == nil {
		return nil
	}
	return commitSent{err}
}

// Unavailable reports whether err says that the database cannot be used now, whatever the statement: unreachable, starting, stopping,
// out of connections, memory or disk, read-only after a failover, a connection lost, a time limit of ours reached. It is what a circuit
// breaker counts. Errors that the statement or its data earned, and the error of a cancelled context (a client that hung up), are not.
func Unavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return unavailableCode(e.Code)
	}
	if _, ok := errors.AsType[net.Error](err); ok { // refused, reset, timed out, no such host; also context.DeadlineExceeded
		return true
	}
	for _, lost := range []error{
		context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, pgconn.ErrConnClosed,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE,
	} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return false
}

func unavailableCode(code string) bool {
	switch code {
	case codeReadOnly, codeIdleInTransaction, codeTransactionTimeout, codeQueryCanceled,
		codeAdminShutdown, codeCrashShutdown, codeCannotConnectNow, codeIdleSessionTimeout:
		return true
	}
	// Class 08 is the connection's, and poolers use all of it for servers that they cannot reach, 08P01 too; 53 is a lack of disk,
	// memory or connections; 58 is the system below PostgreSQL.
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "58")
}

// IsUniqueViolation reports whether err is a duplicate key, and the name of the constraint or index that refused it.
func IsUniqueViolation(err error) (constraint string, ok bool) {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.Code != codeUniqueViolation {
		return "", false
	}
	return e.ConstraintName, true
}

// rollback ends tx with a context that still lives when the caller's does not.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
	defer cancel()
	_ = tx.Rollback(ctx) // after a commit there is nothing to end, and a broken connection has ended it
}

// classified is an error that can be asked whether repeating is of use.
type classified struct{ error }

// Retryable is [Retryable] of the error.
func (c classified) Retryable() bool { return Retryable(c.error) }

func (c classified) Unwrap() error { return c.error }

// Classify gives an error of the driver a method Retryable() bool, for users,
// who cannot call this package:
//
//	e, ok := errors.AsType[interface { error; Retryable() bool }](err)
func Classify(err error) error {
	if err == nil {
		return nil
	}
	return classified{err}
}
