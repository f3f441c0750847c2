package settlement_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/settlement"
	"github.com/safetill/safetill/saga"
)

// deaf is a bank of which the payments can be counted, and that may answer no questions.
type deaf struct {
	settlement.FakeBank
	mute bool
	told atomic.Int64
}

func (d *deaf) Pay(ctx context.Context, key string, amount decimal.Decimal) (string, error) {
	d.told.Add(1)
	return d.FakeBank.Pay(ctx, key, amount)
}

func (d *deaf) Find(ctx context.Context, key string) (string, error) {
	if d.mute {
		return "", errors.New("the bank does not say")
	}
	return d.FakeBank.Find(ctx, key)
}

// After a lost answer the bank is asked before it is told again; if it does not say, it
// is told again; and as long as it may have paid, the hold stays.
func TestASettlementInDoubt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bank   *deaf
		status saga.Status
		told   int64
	}{
		"the answer is lost": {&deaf{FakeBank: settlement.FakeBank{Faults: []settlement.Fault{settlement.Lost}}}, saga.Completed, 1},
		"it does not say":    {&deaf{mute: true, FakeBank: settlement.FakeBank{Faults: []settlement.Fault{settlement.Lost}}}, saga.Completed, 2},
		"it never answers":   {&deaf{mute: true, FakeBank: settlement.FakeBank{Trouble: 1}}, saga.Stuck, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l, s := till(t, c.bank)
				require.NoError(t, s.Begin(t.Context(), "s1", hundred))
				time.Sleep(3 * time.Hour)
				got, err := s.Find(t.Context(), "s1")
				require.NoError(t, err)
				require.Equal(t, c.status, got.Status, got.Reason)
				require.Equal(t, c.told, c.bank.told.Load())
				_, times := c.bank.Paid()
				require.Equal(t, 1, times)
				_, available := posted(t, l, "clearing")
				require.Equal(t, "0", available, "the bank has it, or may have")
			})
		})
	}
}
