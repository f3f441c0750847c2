package pgledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/ledger"
)

var _ ledger.Sealer = (*Store)(nil)

const (
	sealSize  = 10_000                // batches that a seal is over
	sealPause = 10 * time.Millisecond // between two looks at who is still writing
)

// A seal is over the transactions with a seq up to its own. What commits later
// must have a higher one, or it would be in no seal. The number is drawn in a
// transaction that has its id by then (decidedSQL), so:
//
//	H: the highest number drawn so far; then X: a new transaction id;
//	every transaction that drew up to H has an id below X;
//	when all ids below X are done, everything up to H that ever will be is there.
//
// That takes no lock and holds up nobody. It waits for the longest transaction
// that writes anything on this server: a snapshot counts those of its other databases.
const (
	horizonSQL = `SELECT CASE WHEN is_called THEN last_value + 8191 ELSE 0 END FROM {sequence}`
	nextIDSQL  = `SELECT pg_current_xact_id()::text::bigint` // a snapshot's xmax will not do: it ends at the last that is done
	doneSQL    = `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1`

	lastSealSQL = `
SELECT number, to_seq, transactions, hash, sealed_at FROM {seals} ORDER BY number DESC LIMIT 1`

	insertSealSQL = `
INSERT INTO {seals} (number, to_seq, transactions, hash) VALUES ($1, $2, $3, $4) RETURNING sealed_at`

	sealsSQL = `SELECT number, to_seq, transactions, hash, sealed_at FROM {seals} ORDER BY number`

	// A digest a transaction, of all that never changes, in the order of their
	// numbers. Texts stand behind their length, so that no two contents run
	// together into one. Of most transactions there is one posting, which needs no
	// aggregate.
	digestsSQL = `
SELECT sha256(convert_to(concat_ws(' ', octet_length(t.id), t.id, t.seq, encode(t.fingerprint, 'hex'), t.verdict, t.posting,
    extract(epoch FROM t.at), t.kind, coalesce(octet_length(t.target), 0), coalesce(t.target, ''), coalesce(extract(epoch FROM t.expires_at), 0),
    CASE WHEN p.seq IS NULL AND q.seq IS NULL THEN 'none' ELSE concat_ws(' ', p.text, q.texts) END,
    coalesce(CASE WHEN t.kind = 1 THEN (
        SELECT string_agg(concat_ws(' ', posting, debit_no, credit_no, amount), ' ' ORDER BY posting) FROM {holds} WHERE transaction_id = t.id
    ) END, 'none')), 'UTF8'))
FROM {transactions} t
LEFT JOIN (SELECT seq, ` + postingSQL + ` AS text FROM {postings} WHERE seq > $1 AND seq <= $2 AND posting = 0) p ON p.seq = t.seq
LEFT JOIN (
    SELECT seq, string_agg(` + postingSQL + `, ' ' ORDER BY posting) AS texts
    FROM {postings} WHERE seq > $1 AND seq <= $2 AND posting <> 0 GROUP BY seq
) q ON q.seq = t.seq
WHERE t.seq > $1 AND t.seq <= $2 ORDER BY t.seq`

	postingSQL = `concat_ws(' ', posting, debit_no, credit_no, debit_version, credit_version, extract(epoch FROM at), amount,
    debit_balance, credit_balance, octet_length(transaction_id), transaction_id)`
)

// errOwnTransaction is why a transaction cannot seal: it would wait for itself.
var errOwnTransaction = errors.New("pgledger: seal: not within a transaction")

// Seal is [ledger.Sealer.Seal]: it waits until everybody who has begun to write
// anything on this server, in another database too, is done, then reads what is not sealed yet, in transactions
// of its own. A store over a transaction cannot seal.
func (s *Store) Seal(ctx context.Context) (ledger.Seal, error) {
	if _, callers := s.db.(pgx.Tx); callers || s.idle() != nil {
		return ledger.Seal{}, errOwnTransaction
	}
	var horizon, next int64
	if err := s.db.QueryRow(ctx, s.sql.horizon).Scan(&horizon); err != nil {
		return ledger.Seal{}, fail("seal", err)
	}
	if err := s.db.QueryRow(ctx, nextIDSQL).Scan(&next); err != nil {
		return ledger.Seal{}, fail("seal", err)
	}
	for done := false; !done; {
		if err := s.db.QueryRow(ctx, doneSQL, next).Scan(&done); err != nil {
			return ledger.Seal{}, fail("seal", err)
		}
		if !done {
			select {
			case <-ctx.Done():
				return ledger.Seal{}, fmt.Errorf("pgledger: seal: others are still writing: %w", ctx.Err())
			case <-time.After(sealPause):
			}
		}
	}
	for {
		last, err := s.sealOnce(ctx, horizon)
		if err != nil {
			return ledger.Seal{}, fail("seal", err)
		}
		if last.to >= horizon {
			return last.Seal, nil
		}
	}
}

// sealed is a seal and the number that it goes up to.
type sealed struct {
	ledger.Seal
	to int64
}

func (s *Store) sealOnce(ctx context.Context, horizon int64) (last sealed, err error) {
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		// One sealer at a time: the next one finds what this one has sealed.
		if _, err := tx.Exec(ctx, s.sql.lockSeals); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, s.sql.lastSeal)
		if err != nil {
			return err
		}
		if last, err = pgx.CollectOneRow(rows, scanSeal); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		// Numbers are drawn by those who write nothing too: each repeat of what was
		// decided draws one. A stretch without a transaction is passed here, since the
		// next call would begin at its beginning again.
		var n int64
		hash := last.Hash
		for n == 0 && last.to < horizon {
			from := last.to
			last.to = min(horizon, from+sealSize*ledger.MaxBatch)
			if n, hash, err = s.digest(ctx, tx, hash, from, last.to); err != nil {
				return err
			}
		}
		if n == 0 { // nothing was decided since the last seal
			return nil
		}
		last.Number, last.Transactions, last.Hash = last.Number+1, n, hash
		return tx.QueryRow(ctx, s.sql.insertSeal, last.Number, last.to, n, hash[:]).Scan(&last.At)
	})
	return last, err
}

func scanSeal(row pgx.CollectableRow) (s sealed, err error) {
	var hash []byte
	err = row.Scan(&s.Number, &s.to, &s.Transactions, &hash, &s.At)
	copy(s.Hash[:], hash)
	return s, err
}

// digest continues the chain over the numbers above from, up to to. The first seal
// has no seal before it, and is over whatever stands below the first number that is
// drawn: nothing, unless somebody has put it there, to be in no seal.
func (s *Store) digest(ctx context.Context, tx pgx.Tx, hash [32]byte, from, to int64) (n int64, _ [32]byte, err error) {
	if from == 0 {
		from = math.MinInt64
	}
	rows, err := tx.Query(ctx, s.sql.digests, from, to)
	if err != nil {
		return 0, hash, err
	}
	link := make([]byte, 0, 2*len(hash))
	var one []byte
	_, err = pgx.ForEachRow(rows, []any{&one}, func() error {
		link = append(append(link[:0], hash[:]...), one...)
		hash = sha256.Sum256(link)
		n++
		return nil
	})
	return n, hash, err
}

// VerifySeals is [ledger.Sealer.VerifySeals], in one transaction.
func (s *Store) VerifySeals(ctx context.Context) (last ledger.Seal, broken *ledger.Seal, err error) {
	err = s.audit(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql.seals)
		if err != nil {
			return err
		}
		seals, err := pgx.CollectRows(rows, scanSeal)
		if err != nil {
			return err
		}
		var before sealed
		for i, seal := range seals {
			n, hash, err := s.digest(ctx, tx, before.Hash, before.to, seal.to)
			if err != nil {
				return err
			}
			last = seal.Seal
			if hash != seal.Hash || n != seal.Transactions || seal.Number != int64(i+1) {
				broken = &seal.Seal
				return nil
			}
			before = seal
		}
		return nil
	})
	if err != nil {
		return ledger.Seal{}, nil, fail("verify seals", err)
	}
	return last, broken, nil
}
