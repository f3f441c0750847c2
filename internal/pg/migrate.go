package pg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/internal/absent"
)

// Migration is one line of numbered SQL files: the history of one package's tables.
type Migration struct {
	// Line names the history, such as "ledger": lower-case letters, digits and underscores. Several lines share a schema.
	Line string

	// By is the function that applies it, such as "pgledger.Migrate", for errors to name.
	By string

	// Files holds the files at its root, numbered from 0001 without a gap: 0001_init.sql, 0002_holds.sql. They name their tables
	// without a schema and neither begin nor end a transaction. A file that was shipped never changes.
	Files fs.FS

	// Schema is created where it is missing, and quoted, so that any name will do. Default: the connection's current schema.
	Schema string
}

// SchemaError says that the database is at another version than the program: older or without the tables (Have < Want; By helps),
// or newer (Have > Want, only from Migrate; a newer program helps).
type SchemaError struct {
	Line       string
	By         string // the function that applies the migrations, such as pgledger.Migrate
	Have, Want int    // versions; Have is 0 where nothing of the line was applied, or Cause is all that is known
	Cause      error  // the error of the statement that has failed for it, if one has
}

func (e *SchemaError) Error() string {
	switch {
	case e.Cause != nil:
		return fmt.Sprintf("the tables of %s are missing in this schema, or too old: %s: %v", e.Line, e.remedy(), e.Cause)
	case e.Have == 0:
		return fmt.Sprintf("pg: the tables of %s are missing: %s", e.Line, e.remedy())
	case e.Have < e.Want:
		return fmt.Sprintf("pg: the tables of %s are at version %d: %s", e.Line, e.Have, e.remedy())
	default:
		return fmt.Sprintf("pg: the tables of %s are at version %d, newer than this program, which knows %d", e.Line, e.Have, e.Want)
	}
}

func (e *SchemaError) remedy() string {
	if e.By == "" {
		return fmt.Sprintf("apply its migrations up to version %d", e.Want)
	}
	return fmt.Sprintf("%s brings them to version %d", e.By, e.Want)
}

// Unwrap returns the Cause.
func (e *SchemaError) Unwrap() error { return e.Cause }

// ChecksumError says that a file is not the one that was applied to this database under its number.
type ChecksumError struct {
	Line, Name       string
	Version          int
	Recorded, Actual string // SHA-256, in hexadecimal
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("pg: %s of %s has changed since it was applied: recorded checksum %.12s, the file has %.12s",
		e.Name, e.Line, e.Recorded, e.Actual)
}

const (
	rollbackLimit = 5 * time.Second
	maxIdentifier = 63 // bytes; PostgreSQL cuts longer names without an error
	createTable   = `create table if not exists %s (
	line       text        not null,
	version    integer     not null,
	name       text        not null,
	checksum   text        not null,
	applied_at timestamptz not null default now(),
	primary key (line, version)
)`
)

const migrationsTable = "safetill_migrations"

var lineName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func (m Migration) check() error {
	var errs []error
	if !lineName.MatchString(m.Line) {
		errs = append(errs, fmt.Errorf("line %q must be lower-case letters, digits and underscores", m.Line))
	}
	if len(m.Schema) > maxIdentifier || strings.ContainsRune(m.Schema, 0) {
		errs = append(errs, fmt.Errorf("schema %q must be at most %d bytes without NUL", m.Schema, maxIdentifier))
	}
	return errors.Join(errs...)
}

// Migrate brings the tables of m to the version of its files, in one transaction on db, or in a savepoint where db is a transaction: then
// they become visible with the caller's commit, and nothing is left by its rollback. A second call does nothing. Calls for one schema
// wait for each other, until the end of the caller's transaction if there is one; such a transaction must be READ COMMITTED, and a
// stricter one is refused, since it cannot see what the call before it has done. A connection that is in a transaction is refused.
//
// Errors: *ChecksumError, *SchemaError with Have > Want, and those of PostgreSQL, which say which file failed. Cost: 7 round trips, and
// with files to apply two more and two a file.
func Migrate(ctx context.Context, db DB, m Migration) error {
	files, err := readFiles(m.Files)
	if err := errors.Join(m.check(), err); err != nil {
		return fmt.Errorf("pg: migrate %s: %w", m.Line, err)
	}
	if absent.Is(db) {
		db = Missing("database")
	}
	if InTransaction(db) {
		return fmt.Errorf("pg: migrate %s: the connection is in a transaction: hand that over", m.Line)
	}
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("pg: migrate %s: begin: %w", m.Line, err)
	}
	defer rollback(ctx, tx)
	if err := readCommitted(ctx, tx); err != nil {
		return fmt.Errorf("pg: migrate %s: %w", m.Line, err)
	}
	if err := m.migrate(ctx, tx, files); err != nil {
		return fmt.Errorf("pg: migrate %s: %w", m.Line, err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("pg: migrate %s: commit: %w", m.Line, err)
	}
	return nil
}

// readCommitted changes the isolation of a transaction that is stricter by default; PostgreSQL refuses that in a savepoint of the
// caller's. SHOW takes no snapshot, after which it would be too late.
//
// Otherwise: our snapshot is taken, another process applies version 2 and commits, we get the lock, still see version 1, and fail.
func readCommitted(ctx context.Context, tx pgx.Tx) error {
	var level string
	if err := tx.QueryRow(ctx, "show transaction_isolation").Scan(&level); err != nil || strings.HasPrefix(level, "read ") {
		return err
	}
	if _, err := tx.Exec(ctx, "set transaction isolation level read committed"); err != nil {
		return fmt.Errorf("a transaction must be READ COMMITTED, this one is %s: %w", level, err)
	}
	return nil
}

func (m Migration) migrate(ctx context.Context, tx pgx.Tx, files []file) error {
	var path string
	if err := tx.QueryRow(ctx, "select coalesce(nullif($1, ''), current_schema(), ''), current_setting('search_path')", m.Schema).
		Scan(&m.Schema, &path); err != nil {
		return err
	}
	if m.Schema == "" {
		return errors.New("the connection has no current schema: name one")
	}
	// The lock comes before any look at the tables. Otherwise: two processes find version 1, both apply version 2, one fails.
	const lock = "select pg_advisory_xact_lock(hashtextextended('safetill_migrations', 0) # hashtextextended($1, 0))"
	if _, err := tx.Exec(ctx, lock, m.Schema); err != nil {
		return err
	}
	if err := m.prepare(ctx, tx); err != nil {
		return err
	}
	pending, err := m.pending(ctx, tx, files)
	if err != nil || len(pending) == 0 {
		return err
	}
	// Temporary tables come last, or one of the session's could take the place of a table that a file names.
	if err := setSearchPath(ctx, tx, pgx.Identifier{m.Schema}.Sanitize()+", pg_temp"); err != nil {
		return err
	}
	for _, f := range pending {
		if err := m.apply(ctx, tx, f); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	// A local setting lasts until the end of the outermost transaction, and that may be the caller's.
	return setSearchPath(ctx, tx, path)
}

func setSearchPath(ctx context.Context, tx pgx.Tx, path string) error {
	_, err := tx.Exec(ctx, "select set_config('search_path', $1, true)", path)
	return err
}

// prepare makes the schema and the table of records where they are missing. It looks first: PostgreSQL checks the right to create before
// it finds out that there is nothing to create, and a program in service has no such right.
func (m Migration) prepare(ctx context.Context, tx pgx.Tx) error {
	var schema, table bool
	const look = "select exists (select from pg_namespace where nspname = $1), to_regclass($2) is not null"
	if err := tx.QueryRow(ctx, look, m.Schema, Table(m.Schema, migrationsTable)).Scan(&schema, &table); err != nil {
		return err
	}
	if !schema {
		if _, err := tx.Exec(ctx, "create schema "+pgx.Identifier{m.Schema}.Sanitize()); err != nil {
			return err
		}
	}
	if !table {
		if _, err := tx.Exec(ctx, fmt.Sprintf(createTable, Table(m.Schema, migrationsTable))); err != nil {
			return err
		}
	}
	return nil
}

// pending compares the records with the files and returns those to apply.
func (m Migration) pending(ctx context.Context, tx pgx.Tx, files []file) ([]file, error) {
	rows, err := tx.Query(ctx, "select version, checksum from "+Table(m.Schema, migrationsTable)+" where line = $1 order by version", m.Line)
	if err != nil {
		return nil, err
	}
	type record struct {
		Version  int
		Checksum string
	}
	records, err := pgx.CollectRows(rows, pgx.RowToStructByPos[record])
	if err != nil {
		return nil, err
	}
	if n := len(records); n > 0 && records[n-1].Version > len(files) {
		return nil, &SchemaError{Line: m.Line, By: m.By, Have: records[n-1].Version, Want: len(files)}
	}
	for n, r := range records {
		if r.Version != n+1 {
			return nil, fmt.Errorf("the record of version %d is missing in %s", n+1, Table(m.Schema, migrationsTable))
		}
		if f := files[n]; f.checksum != r.Checksum {
			return nil, &ChecksumError{Line: m.Line, Name: f.name, Version: f.version, Recorded: r.Checksum, Actual: f.checksum}
		}
	}
	return files[len(records):], nil
}

// apply runs one file. Without arguments the driver sends it as one simple query, which may hold many statements.
func (m Migration) apply(ctx context.Context, tx pgx.Tx, f file) error {
	if _, err := tx.Exec(ctx, f.sql); err != nil {
		return err
	}
	if tx.Conn().PgConn().TxStatus() != 'T' {
		return errors.New("the file ends the transaction; it must not")
	}
	_, err := tx.Exec(ctx, "insert into "+Table(m.Schema, migrationsTable)+" (line, version, name, checksum) values ($1, $2, $3, $4)",
		m.Line, f.version, f.name, f.checksum)
	return err
}

// CheckSchema returns a *SchemaError where the tables of m are missing or older than its files. A newer database is fine: while a new
// version is rolled out, the old program works beside it. Cost: 2 round trips, no lock, and it never fails a transaction of the caller's.
func CheckSchema(ctx context.Context, db DB, m Migration) error {
	files, err := readFiles(m.Files)
	if err := errors.Join(m.check(), err); err != nil {
		return fmt.Errorf("pg: check the schema of %s: %w", m.Line, err)
	}
	have, err := m.version(ctx, db)
	if err != nil {
		return fmt.Errorf("pg: check the schema of %s: %w", m.Line, err)
	}
	if have < len(files) {
		return &SchemaError{Line: m.Line, By: m.By, Have: have, Want: len(files)}
	}
	return nil
}

// Explain makes the error of a statement on the tables of m a *SchemaError where they, or something in them, are not there. Any other
// error, and that of a function or trigger that the statement has called, is returned as it is.
func (m Migration) Explain(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.Where != "" || !slices.Contains(notThere, e.Code) {
		return err
	}
	files, unreadable := readFiles(m.Files)
	if unreadable != nil {
		return err
	}
	return &SchemaError{Line: m.Line, By: m.By, Want: len(files), Cause: err}
}

// version asks for the table before it reads it, since a query on a table that is not there would abort the caller's transaction.
func (m Migration) version(ctx context.Context, db DB) (have int, err error) {
	var table *string
	const look = `select case when to_regclass(t) is null then null else t end
		from (select quote_ident(coalesce(nullif($1, ''), current_schema())) || '.' || $2::text as t) as names`
	if err := db.QueryRow(ctx, look, m.Schema, migrationsTable).Scan(&table); err != nil || table == nil {
		return 0, err
	}
	err = db.QueryRow(ctx, "select coalesce(max(version), 0) from "+*table+" where line = $1", m.Line).Scan(&have)
	return have, err
}
