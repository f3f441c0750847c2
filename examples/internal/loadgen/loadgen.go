// Package loadgen puts a payment server under load and checks its answers: an
// open-loop generator, whose latencies count from the moment at which a payment
// should have been sent, that keeps every receipt and at the end compares them
// all with what the server has in its books.
package loadgen

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shopspring/decimal"
	"github.com/valyala/fasthttp"

	"github.com/safetill/safetill/examples/internal/cli"
)

// run is one run of `paymentserver load`.
type run struct {
	addr, adminAddr           string
	rate, customers, inFlight int
	length, settle            time.Duration
	hot, duplicates           float64
	seed                      uint64

	client   *fasthttp.Client
	random   *rand.Rand
	id, date string            // the id is in every reference: two runs with one seed are different payments
	before   []decimal.Decimal // total_paid per customer
	bar      io.Writer         // nil if standard error is no terminal
	drawn    time.Time

	mu       sync.Mutex
	receipts []receipt

	sent, accepted, repeats, refused, failed, unknown, found int

	trouble                   string // the first refusal or error
	took                      time.Duration
	accept, toPosted          []time.Duration
	firstAccepted, lastPosted time.Time // by the server's clock
}

// Run sends payments on a fixed schedule, keeps every receipt and checks all
// of them against the server. Errors: faulty flags, and any payment that is lost,
// posted twice or booked wrongly. It ends within the run's length, -settle, and
// the time to read each receipt once.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	l, err := parse(args, stderr)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // it has memory to spare, and no processor
	// The generator is on the machine of the server that it measures. The standard
	// client cost half as much as the server; this one costs a quarter of that.
	l.client = &fasthttp.Client{MaxConnsPerHost: l.inFlight + checkers, MaxIdleConnDuration: 30 * time.Second, MaxIdemponentCallAttempts: 1}
	defer l.client.CloseIdleConnections()
	fmt.Fprintf(stdout, "load: %d/s for %s on %s, seed %d, run %s\n", l.rate, l.length, l.addr, l.seed, l.id)
	if err := l.prepare(ctx); err != nil {
		return fmt.Errorf("load: before the run: %w", err)
	}
	if file, ok := stderr.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			l.bar = file
		}
	}
	if err := l.send(ctx); err != nil {
		return fmt.Errorf("load: receipts not checked: %w", err)
	}
	err = l.check(ctx)
	l.print(stdout, err)
	return err
}

// parse reads the flags and names all that are out of range.
func parse(args []string, stderr io.Writer) (*run, error) {
	l := &run{id: strconv.FormatInt(time.Now().UnixNano(), 36), date: time.Now().UTC().Format(time.DateTime)}
	f := cli.NewFlags("load", stderr)
	f.StringVar(&l.addr, "addr", "127.0.0.1:8080", "the server's `host:port`")
	f.StringVar(&l.adminAddr, "admin-addr", "127.0.0.1:8081", "the `host:port` of its admin interface")
	f.IntVar(&l.rate, "rate", 1000, "payments a second")
	f.DurationVar(&l.length, "for", 10*time.Second, "length of the run")
	f.DurationVar(&l.settle, "settle", time.Minute, "how long to wait until all is posted")
	f.IntVar(&l.customers, "customers", 500, "customers GIG00001 and on that pay")
	f.IntVar(&l.inFlight, "in-flight", 1024, "requests without an answer; more wait, and their wait is latency")
	f.Float64Var(&l.hot, "hot", 0, "share of the payments of GIG00001, 0 to 1")
	f.Float64Var(&l.duplicates, "duplicates", 0, "share of requests that repeat a reference, 0 to 1")
	f.Uint64Var(&l.seed, "seed", 0, "seed of customers and repeats, 0 for a random one")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if l.seed == 0 {
		l.seed = rand.Uint64()
	}
	l.random = rand.New(rand.NewPCG(l.seed, l.seed))
	_, _, err := net.SplitHostPort(l.addr)
	f.Demand(err == nil, "addr", "host:port")
	_, _, err = net.SplitHostPort(l.adminAddr)
	f.Demand(err == nil, "admin-addr", "host:port")
	f.Demand(l.rate >= 1 && l.rate <= 1_000_000, "rate", "in 1..1000000")
	f.Demand(l.length > 0 && l.length.Seconds()*float64(l.rate) <= 1e7, "for", "positive, and 10 million payments at most")
	f.Demand(l.settle >= 0, "settle", "0 or more")
	f.Demand(l.customers >= 1 && l.customers <= 99_999, "customers", "in 1..99999")
	f.Demand(l.inFlight >= 1 && l.inFlight <= 65_536, "in-flight", "in 1..65536")
	f.Demand(l.hot >= 0 && l.hot <= 1, "hot", "in 0..1")
	f.Demand(l.duplicates >= 0 && l.duplicates <= 1, "duplicates", "in 0..1")
	f.NoArguments()
	return l, f.Err()
}

// progress draws a bar over the last one, five times a second, if bar is a terminal.
func (l *run) progress(start time.Time) {
	if l.bar == nil || time.Since(l.drawn) < 200*time.Millisecond {
		return
	}
	l.drawn = time.Now()
	full := int(min(30, 30*time.Since(start)/l.length))
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.bar, "\r[%-30s] %d sent, %d acknowledged\x1b[K", strings.Repeat("#", full), l.sent, l.accepted+l.repeats)
}

// print writes the table.
func (l *run) print(w io.Writer, verdict error) {
	text := fmt.Sprintf("ok: %d payments posted once each, %d balances agree", l.accepted+l.found, l.customers)
	if verdict != nil {
		text = "FAILED: " + verdict.Error()
	}
	posted := float64(len(l.toPosted)) / max(l.lastPosted.Sub(l.firstAccepted), time.Millisecond).Seconds()
	for _, row := range [][2]any{
		{"sent", l.sent},
		{"accepted", l.accepted},
		{"repeats answered", l.repeats},
		{"refused", l.refused},
		{"errors", l.failed},
		{"unknown", fmt.Sprintf("%d, %d of them known to the server", l.unknown, l.found)},
		{"first trouble", cmp.Or(l.trouble, "none")},
		{"accepted/s", int(float64(l.accepted) / l.took.Seconds())},
		{"posted/s", int(posted)},
		{"accept", percentiles(l.accept)},
		{"accept to posted", percentiles(l.toPosted)},
		{"verdict", text},
	} {
		fmt.Fprintf(w, "%-17s %v\n", row[0], row[1])
	}
}

// percentiles sorts d. Nearest rank: each figure is one that was measured.
func percentiles(d []time.Duration) string {
	if len(d) == 0 {
		return "not measured"
	}
	slices.Sort(d)
	at := func(percent int) time.Duration { return d[(len(d)*percent+99)/100-1].Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v  p95 %v  p99 %v  max %v", at(50), at(95), at(99), at(100))
}
