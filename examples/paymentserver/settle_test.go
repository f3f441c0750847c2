package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What was collected is paid out once, by a bank that mostly does not answer, and
// never more than there is.
func TestAPISettlesOnce(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		s.accept(t, http.StatusAccepted, apiPaid("S-1", "GIG00001", "100", "COMPLETE"))
		s.settled(t, "S-1")
		begin := func(key, amount string) apiAnswer {
			return s.write(t, "settlements", key, fmt.Sprintf(`{"amount":%q}`, amount))
		}
		over := func(a apiAnswer, status string) map[string]any {
			t.Helper()
			require.Equal(t, http.StatusAccepted, a.status, "%s", a.body)
			var found map[string]any
			require.Eventually(t, func() bool {
				found = s.get(t, a.object(t)["status_url"].(string))
				return found["status"] == status
			}, apiWait, 10*time.Millisecond, "%v", found)
			return found
		}
		first := begin("k1", "60")
		require.Equal(t, string(first.body), string(begin("k1", "60").body))
		require.NotEmpty(t, over(first, "COMPLETED")["receipt"])
		require.Contains(t, over(begin("k2", "40.01"), "COMPENSATED")["reason"], "condition")
		over(begin("k3", "40"), "COMPLETED")
		requireProblem(t, begin("k4", "-1"), http.StatusUnprocessableEntity, "amount")
		require.Equal(t, http.StatusBadRequest, begin("", "1").status)
		requireProblem(t, apiCall(t, http.MethodGet, s.admin+"/api/v1/admin/settlements/none", ""), http.StatusNotFound, "id")
		s.sound(t)
	}, "-bank-trouble", "0.5")
}
