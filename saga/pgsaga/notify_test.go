package pgsaga

import (
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A NOTIFY takes a lock that all commits of a database share, for as long as its own
// takes: checkpoints would wait for each other.
func TestNoNotifyInTheTransactionOfACheckpoint(t *testing.T) {
	t.Parallel()
	all := reflect.ValueOf(newStatements("s"))
	for i := range all.NumField() {
		require.NotContains(t, strings.ToUpper(all.Field(i).String()), "NOTIFY", all.Type().Field(i).Name)
	}
	require.Greater(t, all.NumField(), 10)
}
