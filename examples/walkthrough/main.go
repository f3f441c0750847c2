// Command walkthrough takes orders through a limit, a key, a ledger and a saga, in
// memory or on one PostgreSQL. docs/walkthrough.md shows what it prints.
package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/ratelimit"
)

func main() { cli.Main("walkthrough", run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var url string
	f := cli.NewFlags("walkthrough", stderr)
	f.EnvVar(&url, "postgres", "SAFETILL_POSTGRES_URL", "`URL` of PostgreSQL; default $SAFETILL_POSTGRES_URL, else memory")
	if err := f.Parse(args); err != nil {
		return err
	}
	f.NoArguments()
	if err := f.Err(); err != nil {
		return err
	}
	s, err := open(ctx, url)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.serve(ctx, stdout); err != nil {
		return err
	}
	return s.prove(ctx, stdout)
}

// serve answers the requests of Ada's that the limit lets in.
func (s *shop) serve(ctx context.Context, stdout io.Writer) error {
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerHour(3), nil)
	if err != nil {
		return err
	}
	for _, request := range []struct {
		what  string
		do    func(ctx context.Context, order, amount string) (string, error)
		order string
	}{
		{"Ada pays for order-1", s.pay, "order-1"},
		{"her client asks again", s.pay, "order-1"},
		{"order-2 is to be delivered", s.deliver, "order-2"},
		{"Ada pays for order-3", s.pay, "order-3"},
	} {
		r, err := limiter.Allow(ctx, "ada")
		if err != nil {
			return err
		}
		answer := fmt.Sprintf("too many requests, come back in %v", r.RetryAfter.Round(time.Minute))
		if r.Allowed {
			if answer, err = request.do(ctx, request.order, "40.25"); err != nil {
				return err
			}
		}
		fmt.Fprintf(stdout, "%s: %s\n", request.what, answer)
	}
	return nil
}

// prove shows the balances, and that they are what the entries add up to.
func (s *shop) prove(ctx context.Context, stdout io.Writer) error {
	balances, err := s.ledger.Balances(ctx, "ada", "shop")
	if err != nil {
		return err
	}
	for _, b := range balances {
		fmt.Fprintf(stdout, "%s has %v, %v of it available\n", b.Account, b.Posted, b.Available)
	}
	report, err := s.ledger.Verify(ctx)
	if err == nil {
		fmt.Fprintf(stdout, "%d transactions, %d entries, it all adds up: %t\n", report.Transactions, report.Entries, report.OK())
	}
	return err
}
