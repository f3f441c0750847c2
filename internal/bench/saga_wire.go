package main

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// sagaDB is an engine's database and what the engine does to it. Its connections count round trips.
type sagaDB struct {
	url     string
	name    string
	callers int

	ids, steps, trips atomic.Int64
}

// conns is how many connections an engine gets. On two cores DBOS is as fast with 20, and not faster with 128.
func (db *sagaDB) conns() int { return min(max(db.callers, 20), 64) }

// step is a step of a saga.
func (db *sagaDB) step() { db.steps.Add(1) }

// sagaTurn tells the ids of one turn from those of another.
var sagaTurn atomic.Int64

func (db *sagaDB) newID() string {
	db.ids.CompareAndSwap(0, sagaTurn.Add(1)<<32)
	return fmt.Sprintf("saga-%d", db.ids.Add(1))
}

func (db *sagaDB) config() (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(db.url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(db.conns())
	config.ConnConfig.Database = db.name
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return countedConn{conn, &db.trips}, err
	}
	return config, nil
}

func (db *sagaDB) pool(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := db.config()
	if err != nil {
		return nil, err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// sql is for engines on database/sql. It keeps its connections, which database/sql does with two of them only.
func (db *sagaDB) sql() (*sql.DB, error) {
	config, err := db.config()
	if err != nil {
		return nil, err
	}
	handle := stdlib.OpenDB(*config.ConnConfig)
	handle.SetMaxOpenConns(db.conns())
	handle.SetMaxIdleConns(db.conns())
	return handle, nil
}

// countedConn counts what is sent: pgx writes once for all that it then waits for.
type countedConn struct {
	net.Conn
	sent *atomic.Int64
}

func (c countedConn) Write(p []byte) (int, error) {
	c.sent.Add(1)
	return c.Conn.Write(p)
}

// wal reads the server's write-ahead log.
type wal struct{ *pgx.Conn }

func openWAL(ctx context.Context, url string) (*wal, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "CREATE EXTENSION pg_walinspect")
	return &wal{conn}, err
}

// position is up to where the log is durable.
func (w *wal) position(ctx context.Context) (lsn string, err error) {
	err = w.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&lsn)
	return lsn, err
}

// commits is how many transactions have written that they are committed.
func (w *wal) commits(ctx context.Context, from, to string) (n int64, err error) {
	if from == to {
		return 0, nil
	}
	err = w.QueryRow(ctx, `SELECT coalesce(sum(count), 0)::bigint FROM pg_get_wal_stats($1::pg_lsn, $2::pg_lsn, true)
WHERE "resource_manager/record_type" = 'Transaction/COMMIT'`, from, to).Scan(&n)
	return n, err
}
