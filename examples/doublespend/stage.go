package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// stage is one way with tables of its own, and what came of it.
type stage struct {
	way    way
	place  place
	pool   *pgxpool.Pool // the audit's
	books  books
	result result
}

// result is a row of the table.
type result struct {
	audit

	rounds    int           // of the race
	paid      int           // requests of the race that were answered "paid"
	declined  int           // and "declined"
	conflicts int           // answers "ask again" in the race
	behind    time.Duration // how long another payment took while a server was frozen
	uniform   figures
	hot       figures
}

// openStage makes a schema with the way's tables.
func openStage(ctx context.Context, w way, postgres string, redis []string) (*stage, error) {
	schema := "doublespend_" + w.name + "_" + strings.ToLower(rand.Text()[:8])
	s := &stage{way: w, place: place{postgres: postgres, redis: redis, schema: schema}}
	var err error
	if s.pool, err = s.place.pool(ctx, settings{conns: 2, lease: time.Minute}, &wire{}); err != nil {
		return nil, err
	}
	err = s.setUp(ctx, schema)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", w.name, err), s.close(ctx))
	}
	return s, nil
}

func (s *stage) setUp(ctx context.Context, schema string) error {
	if _, err := s.pool.Exec(ctx, `CREATE SCHEMA `+pgx.Identifier{schema}.Sanitize()); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, sqlTables+s.way.tables); err != nil {
		return err
	}
	if s.way.setUp != nil {
		if err := s.way.setUp(ctx, s.pool); err != nil {
			return err
		}
	}
	s.books = sqlBooks{s.pool}
	if s.way.books == nil {
		return nil
	}
	var err error
	s.books, err = s.way.books(s.pool)
	return err
}

// close removes the schema. Keys on Redis expire.
func (s *stage) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	defer s.pool.Close()
	_, err := s.pool.Exec(ctx, `DROP SCHEMA IF EXISTS `+pgx.Identifier{s.place.schema}.Sanitize()+` CASCADE`)
	return err
}

// audit reads the books of accounts and adds what is wrong to the result.
func (s *stage) audit(ctx context.Context, accounts []string) (audit, error) {
	read, err := s.books.read(ctx, accounts)
	if err != nil {
		return audit{}, fmt.Errorf("%s: audit: %w", s.way.name, err)
	}
	if len(read) != len(accounts) {
		return audit{}, fmt.Errorf("%s: audit: %d of %d accounts are there", s.way.name, len(read), len(accounts))
	}
	found := judge(read)
	s.result.add(found)
	return found, nil
}

// backoff is half to all of a pause that doubles from a millisecond on.
func backoff(tries int, longest time.Duration) time.Duration {
	d := min(time.Millisecond<<min(tries, 20), longest)
	return d/2 + mathrand.N(d/2+1)
}
