package ratelimit

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The working group's pull request 166 renames both parameters. A revision is a line.
func TestNextRevisionOfTheDraft(t *testing.T) {
	t.Parallel()
	next := revision{available: "a", window: "w"}
	h := http.Header{}
	next.encode(h, []Quota{{Limit: PerMinute(100).Normal(), Result: Result{Remaining: 50}, Reset: 30 * time.Second}})
	require.Equal(t, http.Header{"Ratelimit-Policy": {`"default";q=100;w=60`}, "Ratelimit": {`"default";a=50;w=30`}}, h)
}
