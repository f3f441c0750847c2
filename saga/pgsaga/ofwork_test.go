package pgsaga

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// What a COMMIT fails with is the step's fault, unless it says that the database is not well.
func TestWhoseFaultItIsThatACommitFails(t *testing.T) {
	t.Parallel()
	of := func(severity, code string) error {
		return fmt.Errorf("commit: %w", &pgconn.PgError{SeverityUnlocalized: severity, Code: code})
	}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{of("ERROR", "23505"), true}, // a constraint that is deferred
		{of("ERROR", "P0001"), true}, // a trigger that is
		{of("ERROR", "ZX001"), true},
		{of("ERROR", "40001"), false}, // to be done again
		{of("ERROR", "53100"), false}, // no room
		{of("FATAL", "57P01"), false}, // it is told to stop
		{of("FATAL", "ZX001"), false},
		{errors.New("the connection was lost"), false},
	} {
		require.Equal(t, c.want, ofWork(c.err), "%v", c.err)
	}
}
