package proof

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// naive is a store as one writes it who forgets that others write too: it reads, decides, and writes what it has decided. It knows posts
// only.
type naive struct {
	ledger.Store // none: histories call no other method
	pool         *pgxpool.Pool
	lock         string
}

func newNaive(t *testing.T, pool *pgxpool.Pool, lock string) ledger.Store {
	t.Helper()
	_, err := pool.Exec(t.Context(), `
CREATE TABLE accounts (id text PRIMARY KEY, bank bool NOT NULL, floor bigint, debits bigint NOT NULL DEFAULT 0, credits bigint NOT NULL DEFAULT 0,
	version bigint NOT NULL DEFAULT 0);
CREATE TABLE decided (id text PRIMARY KEY, fingerprint bytea NOT NULL, verdict smallint NOT NULL, posting smallint NOT NULL, at timestamptz NOT NULL);`)
	require.NoError(t, err)
	return &naive{pool: pool, lock: lock}
}

type naiveAccount struct {
	ID                       string
	Bank                     bool
	Floor                    *int64
	Debits, Credits, Version int64
}

func (a *naiveAccount) low() bool { return a.Floor != nil && a.Credits-a.Debits < *a.Floor }

func (s *naive) Open(ctx context.Context, accounts []ledger.State) error {
	for _, a := range accounts {
		var floor *int64
		if a.Floor != nil {
			floor = new(units(*a.Floor))
		}
		_, err := s.pool.Exec(ctx, "INSERT INTO accounts (id, bank, floor) VALUES ($1, $2, $3)", string(a.ID), a.Normal == ledger.Debit, floor)
		if err != nil {
			return err
		}
	}
	return nil
}

func units(a ledger.Amount) int64 {
	n, err := strconv.ParseInt(a.String(), 10, 64)
	if err != nil {
		panic(err) // histories move small amounts
	}
	return n
}

func (s *naive) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	var o ledger.Outcome
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
		o, err = s.post(ctx, tx, &drafts[0]) // histories post one at a time
		return err
	})
	return []ledger.Outcome{o}, err
}

func (s *naive) post(ctx context.Context, tx pgx.Tx, d *ledger.Draft) (o ledger.Outcome, err error) {
	var ids []string
	for _, p := range d.Postings {
		ids = append(ids, string(p.Debit), string(p.Credit))
	}
	accounts, err := s.accounts(ctx, tx, ids, s.lock)
	if err != nil {
		return o, err
	}
	var fingerprint []byte
	err = tx.QueryRow(ctx, "SELECT fingerprint, verdict, posting, at FROM decided WHERE id = $1", string(d.ID)).
		Scan(&fingerprint, &o.Verdict, &o.Posting, &o.At)
	if err == nil {
		return new(ledger.Book).Again(d, ledger.Fingerprint(fingerprint), o), nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return o, err
	}
	o.Verdict, o.Posting = naiveDecision(accounts, d)
	if o.Verdict == ledger.Posted {
		for _, id := range slices.Sorted(maps.Keys(accounts)) { // in one order: it is not deadlocks that shall be caught
			a := accounts[id]
			_, err := tx.Exec(ctx, "UPDATE accounts SET debits = $2, credits = $3, version = $4 WHERE id = $1", a.ID, a.Debits, a.Credits, a.Version)
			if err != nil {
				return o, err
			}
		}
	}
	err = tx.QueryRow(ctx, "INSERT INTO decided VALUES ($1, $2, $3, $4, clock_timestamp()) RETURNING at",
		string(d.ID), d.Fingerprint[:], o.Verdict, o.Posting).Scan(&o.At)
	return o, err
}

func naiveDecision(accounts map[string]*naiveAccount, d *ledger.Draft) (ledger.Verdict, int) {
	for _, p := range d.Postings {
		debit, credit := accounts[string(p.Debit)], accounts[string(p.Credit)]
		debit.Debits += units(p.Amount)
		credit.Credits += units(p.Amount)
		debit.Version++
		credit.Version++
	}
	for i, p := range d.Postings {
		if accounts[string(p.Debit)].low() || accounts[string(p.Credit)].low() {
			return ledger.InsufficientFunds, i
		}
	}
	return ledger.Posted, 0
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (s *naive) accounts(ctx context.Context, db querier, ids []string, lock string) (map[string]*naiveAccount, error) {
	rows, err := db.Query(ctx, "SELECT id, bank, floor, debits, credits, version FROM accounts WHERE id = ANY($1)"+lock, ids)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[naiveAccount])
	byID := map[string]*naiveAccount{}
	for _, a := range list {
		byID[a.ID] = a
	}
	return byID, err
}

func (s *naive) States(ctx context.Context, ids []ledger.AccountID) ([]*ledger.State, error) {
	var names []string
	for _, id := range ids {
		names = append(names, string(id))
	}
	accounts, err := s.accounts(ctx, s.pool, names, "")
	if err != nil {
		return nil, err
	}
	states := make([]*ledger.State, len(ids))
	for i, name := range names {
		a := accounts[name]
		states[i] = &ledger.State{
			ID: ids[i], Currency: currency, Scale: scale, Normal: ledger.Credit,
			Debits: ledger.Minor(a.Debits), Credits: ledger.Minor(a.Credits), Version: a.Version,
		}
		if a.Bank {
			states[i].Normal = ledger.Debit
		}
	}
	return states, nil
}
