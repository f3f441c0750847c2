package ratelimit

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Many callers meet a limit for the first time: all get one plan, whose id is there for all. Under -race.
func TestPlanOfALimitThatIsNewToAll(t *testing.T) {
	t.Parallel()
	for i := range 200 {
		l := Limit{Rate: int64(i) + 1, Per: 17 * time.Second}
		seen := make([]*plan, 8)
		var wg sync.WaitGroup
		for j := range seen {
			wg.Go(func() {
				p, err := planOf(l)
				if err == nil && planByID(p.id) == p {
					seen[j] = p
				}
			})
		}
		wg.Wait()
		for _, p := range seen {
			require.NotNil(t, p)
			require.Same(t, seen[0], p)
		}
	}
}

func TestQuotientByMultiplication(t *testing.T) {
	t.Parallel()
	for _, per := range []int64{1, 2, 3, 7, 1000, 333_333, 1 << 32, 86_400_000_000, MaxPer.Microseconds()} {
		p := newPlan(Limit{Rate: 1, Per: time.Duration(per) * time.Microsecond, Burst: 1})
		for _, units := range []int64{0, 1, 2, 3, 1000, 999_999} {
			for d := int64(-2); d <= 2; d++ {
				us := max(0, units*per+d)
				require.Equal(t, (us+per-1)/per, p.units(moment{us: us}), "%d / %d", us, per)
			}
		}
	}
}
