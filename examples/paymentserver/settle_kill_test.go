package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

// settlement begins one at p, and returns its address and true once it is acknowledged.
func (b *bank) settlement(ctx context.Context, p *program, key, amount string) (at string, ok bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.admin+"/api/v1/admin/settlements", strings.NewReader(fmt.Sprintf(`{"amount":%q}`, amount)))
	if err != nil {
		return "", false
	}
	req.Header.Set("Idempotency-Key", key)
	resp, err := b.client.Do(req)
	if err != nil {
		return "", false
	}
	var begun struct {
		URL string `json:"status_url"`
	}
	body, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close(), json.Unmarshal(body, &begun))
	return begun.URL, err == nil && resp.StatusCode == http.StatusAccepted
}

// TestSettlingServersAreKilled in turn, while a bank that both know pays, and mostly does
// not say so: what it has paid is what has left the books.
func TestSettlingServersAreKilled(t *testing.T) {
	t.Parallel()
	book := filepath.Join(t.TempDir(), "book")
	args := []string{"-migrate", "-postgres", testdb.PostgresURL(t), "-bank-book", book, "-bank-trouble", "0.7"}
	servers := []*program{startServer(t, args...), startServer(t, args...)}
	b := newBank(t, "settling", servers...)
	for range 100 { // 50.50 in all
		require.NoError(t, b.pay(t.Context(), b.next()))
	}
	b.settle(t, drainLimit)
	at := map[string]bool{}
	for n := range 40 { // 1.50 each: more than there is
		eventually(t, startLimit, func() error {
			url, ok := b.settlement(t.Context(), servers[n%2], fmt.Sprint("s", n), "1.50")
			if !ok {
				return errors.New("not acknowledged")
			}
			at[url] = true
			return nil
		})
		if n%10 == 5 {
			killed := servers[n/10%2]
			killed.Kill()
			require.NoError(t, killed.restart(t.Context()))
		}
	}
	require.Len(t, at, 40)
	completed := 0
	for url := range at {
		var found struct{ Status, Reason string }
		eventually(t, 3*time.Minute, func() error {
			if err := b.get(t.Context(), servers[0].admin, strings.TrimPrefix(url, "/api/v1/"), &found); err != nil {
				return err
			}
			if found.Status != "COMPLETED" && found.Status != "COMPENSATED" {
				return fmt.Errorf("%s is %+v", url, found)
			}
			return nil
		})
		if found.Status == "COMPLETED" {
			completed++
		}
	}
	text, err := os.ReadFile(book)
	require.NoError(t, err)
	var paid decimal.Decimal
	keys := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		var p struct {
			Key    string
			Amount decimal.Decimal
		}
		if json.Unmarshal([]byte(line), &p) == nil && !keys[p.Key] { // of the lines of one key the first is the payment
			keys[p.Key], paid = true, paid.Add(p.Amount)
		}
	}
	require.Equal(t, decimal.New(int64(completed)*150, -2).String(), paid.String())
	require.Equal(t, 33, completed, "as many as there is money for, and no hold is left")
	b.settle(t, drainLimit)
}
