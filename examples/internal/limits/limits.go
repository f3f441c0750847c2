// Package limits holds what is sent to a server to limits by address, by customer and of all together: in one decision, in which all are charged
// or none.
package limits

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/ratelimit"
)

// Options are how many requests a second there may be; 0 is no limit. Each lets a second's worth through at once.
type Options struct {
	Address, Customer, All int64
	Proxies                []netip.Prefix // whose X-Forwarded-For is believed
}

// Flags adds the flags that set them.
func (o *Options) Flags(f *cli.Flags) {
	f.Int64Var(&o.Address, "limit-ip", 0, "payments a second from one address, or IPv6 /64; 0 for any")
	f.Int64Var(&o.Customer, "limit-customer", 0, "payments a second for one customer; 0 for any")
	f.Int64Var(&o.All, "limit-global", 0, "payments a second from everybody together; 0 for any")
	f.Func("proxies", "`prefixes` of addresses whose X-Forwarded-For tells the client's, like 10.0.0.0/8,fd00::/8", func(text string) error {
		for part := range strings.SplitSeq(text, ",") {
			prefix, err := netip.ParsePrefix(part)
			if err != nil {
				return err
			}
			o.Proxies = append(o.Proxies, prefix)
		}
		return nil
	})
}

// Demand states the flags' rules.
func (o *Options) Demand(f *cli.Flags) {
	for name, n := range map[string]int64{"limit-ip": o.Address, "limit-customer": o.Customer, "limit-global": o.All} {
		f.Demand(n >= 0 && n <= ratelimit.MaxRate, name, fmt.Sprintf("in 0..%d", ratelimit.MaxRate))
	}
}

// Gate holds requests to the limits.
type Gate struct {
	limiter *ratelimit.Limiter
	o       Options
	client  func(*http.Request) (string, bool)
}

// New returns a gate that counts in a store. While that fails, this process counts for itself.
func New(counters ratelimit.Store, o *Options, log *slog.Logger) (*Gate, error) {
	limiter, err := ratelimit.New(counters, ratelimit.PerSecond(max(1, o.All)), &ratelimit.Options{OnError: ratelimit.FailLocal, Logger: log})
	return &Gate{limiter: limiter, o: *o, client: ratelimit.ClientIP(o.Proxies...)}, err
}

// Admit charges a request of a customer to all limits, or returns a [problem.Problem] that refuses it. In either case it tells in
// the answer's header what is left, and with a refusal when to come again. ctx is that of the decision, not of the request: what has arrived
// may be taken from a client that has gone.
func (g *Gate) Admit(ctx context.Context, header http.Header, r *http.Request, customer string) error {
	var checks []ratelimit.Check
	limit := func(name string, n int64, key string) {
		if n > 0 {
			checks = append(checks, ratelimit.Check{Limit: ratelimit.PerSecond(n).Named(name), Key: key})
		}
	}
	if g.o.Address > 0 {
		address, known := g.client(r)
		if !known {
			address = "unknown" // they share a limit
		}
		limit("ip", g.o.Address, address)
	}
	limit("customer", g.o.Customer, customer)
	limit("global", g.o.All, "all")
	d := ratelimit.Hold(ctx, g.limiter, checks...)
	ratelimit.Draft11(header, d.Quotas)
	switch {
	case d.Refusal == nil:
		return nil
	case d.Refusal.Err != nil:
		return fmt.Errorf("limits: %w", d.Refusal.Err)
	}
	if s := d.Refusal.RetrySeconds(); s > 0 {
		header.Set("Retry-After", strconv.FormatInt(s, 10))
	}
	return problem.New(d.Refusal.Status, "too many payments a second: no room by the limits "+strings.Join(d.Refusal.Violated, ", "))
}
