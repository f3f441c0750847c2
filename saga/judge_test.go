package saga

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hollow is an error that wraps none.
type hollow struct{}

func (hollow) Error() string { return "hollow" }
func (hollow) Unwrap() error { return nil }

func TestJudge(t *testing.T) {
	t.Parallel()
	plain := errors.New("500")
	for _, c := range []struct {
		name string
		err  error
		want verdict
	}{
		{"no error", nil, applied},
		{"an error", plain, failed},
		{"one that wraps none", hollow{}, failed},
		{"its time is up", fmt.Errorf("charge: %w", context.DeadlineExceeded), unknown},
		{"it was cancelled", fmt.Errorf("charge: %w", context.Canceled), unknown},
		{"a network that timed out", fmt.Errorf("charge: %w", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}), unknown},
		{"a network that has refused", &net.DNSError{Err: "no such host"}, failed},
		{"a no", fmt.Errorf("charge: %w", Reject(plain)), rejected},
		{"a no that took too long", Reject(context.DeadlineExceeded), rejected},
		{"a doubt", fmt.Errorf("charge: %w", InDoubt(plain)), unknown},
		{"a doubt of a no", InDoubt(Reject(plain)), unknown},
		{"a no in spite of a doubt", Reject(InDoubt(plain)), rejected},
		{"two errors", errors.Join(plain, plain), failed},
		{"an error and a no", errors.Join(plain, Reject(plain), plain), rejected},
		{"a no and a doubt", errors.Join(Reject(plain), InDoubt(plain)), unknown},
		{"a doubt and a no", errors.Join(InDoubt(plain), Reject(plain)), unknown},
		{"a no and a time that is up", errors.Join(Reject(plain), context.DeadlineExceeded), unknown},
		{"a panic", InDoubt(&panicked{value: "nil map"}), unknown},
	} {
		require.Equal(t, c.want, judge(c.err), c.name)
	}
}

func TestTextOfAnError(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a?b?", text(errors.New("a\x00b\xff")))
	require.Len(t, text(errors.New(strings.Repeat("x", maxText+1))), maxText)
}
