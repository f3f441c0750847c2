package imports

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each rule bites: an edge is added to a module that is in order, and the line that comes of it names both ends.
func TestRulesBite(t *testing.T) {
	t.Parallel()
	const pgx, redis, bloom = "github.com/jackc/pgx/v5", "github.com/redis/go-redis/v9", "github.com/bits-and-blooms/bloom/v3"
	for _, c := range []struct {
		from, to string
		want     string // part of the fault; "" for none
	}{
		{"ledger", "fmt", ""},
		{"ledger", decimal, ""},
		{"ledger", module + "/internal/join", ""},
		{"recon", bloom, ""},
		{"ledger", bloom, "ledger must not need " + bloom},
		{"ledger", pgx, "ledger must not need " + pgx},
		{"ledger", "golang.org/x/sync/errgroup", "ledger must not need golang.org/x/sync/errgroup"},
		{"ratelimit", module + "/internal/pg", "ratelimit must not need " + pgx},
		{"ledger", module + "/idempotency", "idempotency, another room"},
		{"notify", module + "/ratelimit", "ratelimit, another room"},
		{"ledger", module + "/ledger/pgledger", "ledger is a core and must not need its sub-package"},
		{"ledger/pgledger", pgx, ""},
		{"ledger/pgledger", module + "/internal/pg", ""},
		{"ledger/pgledger", redis, "pgledger has not the name of the driver " + redis},
		{"ledger/pgledger", module + "/idempotency/pgidem", "idempotency/pgidem, another room"},
		{"ratelimit/redislimit", redis, ""},
		{"ratelimit/redislimit", pgx, "redislimit has not the name of the driver " + pgx},
		{"notify/fcm", module + "/internal/pg", "fcm has not the name of the driver " + pgx},
		{"notify/fcm", "google.golang.org/api/fcm/v1", ""},
		{"notify/kafkanotify", "github.com/twmb/franz-go/pkg/kgo", ""},
		{"notify/pgnotify", "github.com/twmb/franz-go/pkg/kgo", "pgnotify has not the name of the driver"},
		{"internal/queue", pgx, "internal/queue has not the name of the driver"},
		{"internal/queue", module + "/ledger", "internal/queue is in no room"},
		{"internal/localdb", redis, ""},
		{"internal/testdb", "testing", ""},
		{"ledger/ledgertest", "testing", ""},
		{"ledger/ledgertest", "github.com/stretchr/testify/require", "ledgertest must not need github.com/stretchr"},
		{"ledger", "testing", "ledger must not import testing"},
		{"internal/queue", "testing/synctest", "queue must not import testing/synctest"},
		{"ledger/pgledger", module + "/internal/testdb", "testdb, which is for tests"},
		{"ledger/pgledger", module + "/ledger/ledgertest", "ledgertest, which is for tests"},
		{"ledger/pgledger", module + "/examples/paymentserver", "pgledger must not import"},
	} {
		pkgs := []pkg{
			{ImportPath: module + "/internal/join", Imports: []string{"sync"}},
			{ImportPath: module + "/internal/pg", Imports: []string{pgx}},
			{ImportPath: module + "/internal/testdb", Imports: []string{"testing", pgx, redis}},
			{ImportPath: module + "/" + c.from, Imports: []string{"context", c.to}},
		}
		got := strings.Join(faults(pkgs), "\n")
		if c.want == "" {
			require.Empty(t, got, "%s may import %s", c.from, c.to)
			continue
		}
		require.Contains(t, got, c.want, "%s may not import %s", c.from, c.to)
	}
}

func TestRulesBiteInTests(t *testing.T) {
	t.Parallel()
	const server = module + "/examples/paymentserver"
	require.Len(t, faults([]pkg{{ImportPath: module + "/ledger", XTestImports: []string{server}}}), 1)
	require.Len(t, faults([]pkg{{ImportPath: module + "/ledger", TestImports: []string{server}}}), 1)
	require.Empty(t, faults([]pkg{{ImportPath: module + "/ledger", XTestImports: []string{testdb, "github.com/stretchr/testify/require"}}}))
}

func TestUnwantedModules(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"github.com/gin-gonic/gin", "github.com/prometheus/client_golang", "github.com/go-redis/redis_rate/v10"},
		unwanted([]string{
			"github.com/gin-gonic/gin", decimal, "github.com/prometheus/client_golang", "github.com/redis/go-redis/v9",
			"github.com/go-redis/redis_rate/v10",
		}))
}
