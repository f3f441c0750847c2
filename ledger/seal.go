package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Seal is a link of the hash chain over all that was ever decided. Its Hash is
// over the seal before it and every transaction since then, with its postings
// and holds: whoever keeps one Hash elsewhere (prints it, sends it to an
// auditor) can tell later whether any of that was changed. What an account is called,
// its currency, decimal places, side and floor are not in it. [Ledger.Verify] looks at
// all seals.
type Seal struct {
	Number       int64 // 1 for the first; 0 where there is none yet
	Transactions int64 // in this seal
	Hash         [32]byte
	At           time.Time // by the store's clock
}

// Sealer is what a [Store] implements that keeps a hash chain.
type Sealer interface {
	// Seal seals what is decided and not sealed yet, and returns the last seal.
	Seal(ctx context.Context) (Seal, error)
	// VerifySeals recomputes the chain and returns the last seal, and the first
	// that is not what it was.
	VerifySeals(ctx context.Context) (last Seal, broken *Seal, err error)
}

// Seal extends the ledger's hash chain by what was decided since the last seal,
// and returns the last one. It is apart from posting, and holds nobody up; it may wait
// for those who have begun to write before it, and should have a deadline: call it now
// and then, from one process or many. Its error is [errors.ErrUnsupported] where the
// store keeps no chain. Cost: it reads what it seals once.
func (l *Ledger) Seal(ctx context.Context) (Seal, error) {
	s, ok := l.store.(Sealer)
	if !ok {
		return Seal{}, fmt.Errorf("ledger: seal: %w", errors.ErrUnsupported)
	}
	seal, err := s.Seal(ctx)
	if err != nil {
		return Seal{}, fmt.Errorf("ledger: seal: %w", err)
	}
	return seal, nil
}
