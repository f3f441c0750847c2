package pgledger

import (
	"context"
	"errors"
	"fmt"
	"unique"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/ledger"
)

// Open is [ledger.Store.Open]: one transaction.
func (s *Store) Open(ctx context.Context, accounts []ledger.State) error {
	ids := make([]ledger.AccountID, len(accounts))
	var names, currencies []string
	var scales, normals []int16
	var floors numerics
	for i, a := range accounts {
		ids[i] = a.ID
		names, currencies = append(names, string(a.ID)), append(currencies, a.Currency)
		scales, normals = append(scales, int16(a.Scale)), append(normals, int16(a.Normal))
		floors.addFloor(a.Floor)
	}
	if err := s.idle(); err != nil {
		return fmt.Errorf("pgledger: open: %w", err)
	}
	tx, err := s.beginOpen(ctx)
	if err != nil {
		return fmt.Errorf("pgledger: open: begin: %w", err)
	}
	defer func() { // does nothing after a commit
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	if _, err := tx.Exec(ctx, s.sql.open, names, currencies, scales, normals, floors.String()); err != nil {
		return fail("open", err)
	}
	have, err := s.In(tx).States(ctx, ids)
	if err != nil {
		return err
	}
	for i, a := range accounts {
		if have[i] == nil { // hidden by row security, or a trigger has kept it out
			return fmt.Errorf("pgledger: open: account %q is not there after its insert", a.ID)
		}
		if !ledger.SameAccountAs(have[i], &a) {
			return &ledger.AccountExistsError{ID: a.ID}
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("pgledger: open: commit: %w", err)
	}
	return nil
}

// beginOpen begins a transaction, READ COMMITTED whatever the default: who waited for
// another that opens the same accounts must see them. In the caller's it is a savepoint.
func (s *Store) beginOpen(ctx context.Context) (pgx.Tx, error) {
	db, ok := s.db.(interface {
		BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
	})
	if !ok {
		return s.db.Begin(ctx)
	}
	return db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
}

// States is [ledger.Store.States]: one round trip.
func (s *Store) States(ctx context.Context, ids []ledger.AccountID) ([]*ledger.State, error) {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	states := make([]*ledger.State, 0, len(ids))
	err := pg.Probe(ctx, s.db, func(rows pgx.Rows) error {
		return eachState(rows, func(s *ledger.State) { states = append(states, s) })
	}, s.sql.states, names)
	if err != nil {
		return nil, fail("read accounts", err)
	}
	return states, nil
}

// eachState scans rows of an account, behind the columns of before, and closes
// them. f gets nil for a row of nulls.
func eachState(rows pgx.Rows, f func(*ledger.State), before ...any) error {
	defer rows.Close()
	for rows.Next() {
		var id, currency, floor, debits, credits, heldDebits, heldCredits *string
		var scale, normal *int16
		var version *int64
		if err := rows.Scan(append(before, &id, &currency, &scale, &normal, &floor, &debits, &credits, &heldDebits, &heldCredits, &version)...); err != nil {
			return err
		}
		if id == nil {
			f(nil)
			continue
		}
		s := &ledger.State{
			ID: ledger.AccountID(*id), Currency: unique.Make(*currency).Value(), Scale: uint8(*scale), Normal: ledger.Side(*normal), Version: *version,
		}
		if err := errors.Join(parse(&s.Debits, debits), parse(&s.Credits, credits),
			parse(&s.HeldDebits, heldDebits), parse(&s.HeldCredits, heldCredits)); err != nil {
			return err
		}
		if floor != nil {
			s.Floor = new(ledger.Amount)
			if err := parse(s.Floor, floor); err != nil {
				return err
			}
		}
		f(s)
	}
	return rows.Err()
}

func parse(a *ledger.Amount, s *string) (err error) {
	*a, err = ledger.ParseMinor(*s)
	return err
}

// Lines is [ledger.Store.Lines]: one round trip, two index scans.
func (s *Store) Lines(ctx context.Context, account ledger.AccountID, after int64, limit int) ([]ledger.Recorded, error) {
	var page []ledger.Recorded
	err := pg.Probe(ctx, s.db, func(rows pgx.Rows) (err error) {
		page, err = readLines(rows)
		return err
	}, s.sql.lines, string(account), after, limit)
	if err != nil {
		return nil, fail("entries", err)
	}
	return page, nil
}

func readLines(rows pgx.Rows) (page []ledger.Recorded, err error) {
	defer rows.Close()
	for rows.Next() {
		var r ledger.Recorded
		var transaction, amount, balance, contra string
		var posting, side int16
		if err := rows.Scan(&r.Version, &transaction, &posting, &side, &amount, &balance, &contra, &r.At); err != nil {
			return nil, err
		}
		if err := errors.Join(parse(&r.Amount, &amount), parse(&r.Balance, &balance)); err != nil {
			return nil, err
		}
		r.Transaction, r.Posting = ledger.TransactionID(transaction), int(posting)
		r.Side, r.Contra = ledger.Side(side), ledger.AccountID(contra)
		page = append(page, r)
	}
	return page, rows.Err()
}
