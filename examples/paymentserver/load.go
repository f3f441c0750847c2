package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shopspring/decimal"
)

const (
	loadReaders = 32               // connections of the check
	loadTimeout = 10 * time.Second // of one request
	loadMaxSent = 10_000_000       // a receipt stays in memory: 40 bytes each
	loadNamed   = 5                // faults named in the verdict
)

// loadRun is one run of `paymentserver load`.
type loadRun struct {
	addr, adminAddr string
	rate, customers int
	inFlight        int
	length, settle  time.Duration
	hot, duplicates float64
	seed            uint64

	client *http.Client
	random *rand.Rand // of the schedule alone
	id     string     // in every reference: two runs with one seed are different payments
	date   string
	before []decimal.Decimal // total_paid per customer

	mu       sync.Mutex
	receipts []loadReceipt
	tally    loadTally
}

// loadTally is what the table shows.
type loadTally struct {
	sent, accepted, repeats, refused, failed, unknown, found int
	trouble                                                  string // the first refusal or error
	accept, posted                                           []time.Duration
	took                                                     time.Duration // first intended send to last answer
	firstAccepted, lastPosted                                time.Time     // by the server's clock
}

// runLoad sends payments on a fixed schedule, keeps every receipt and checks all
// of them against the server. It returns an error for faulty flags, and when a
// payment is lost, posted twice or booked with a wrong amount. It ends within the
// run's length, -settle, and the time to read each receipt once.
func runLoad(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	l, err := parseLoad(args, stderr)
	if err != nil {
		return err
	}
	l.client = &http.Client{Transport: &http.Transport{
		// About 20 µs of CPU a request: a tenth of a core at 5,000/s, which a
		// client of our own would halve; not worth its bugs.
		MaxIdleConnsPerHost: l.inFlight, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
	}}
	defer l.client.CloseIdleConnections()
	fmt.Fprintf(stdout, "load: %d/s for %s on %s, seed %d, run %s\n", l.rate, l.length, l.addr, l.seed, l.id)
	if err := l.prepare(ctx); err != nil {
		return fmt.Errorf("load: before the run: %w", err)
	}
	stop := l.progress(stderr)
	err = l.send(ctx)
	stop()
	if err != nil {
		return fmt.Errorf("load: interrupted, receipts not checked: %w", err)
	}
	err = l.check(ctx)
	l.print(stdout, err)
	return err
}

// parseLoad reads the flags and names all that are out of range.
func parseLoad(args []string, stderr io.Writer) (*loadRun, error) {
	l := &loadRun{id: strconv.FormatInt(time.Now().UnixNano(), 36), date: time.Now().UTC().Format(time.DateTime)}
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&l.addr, "addr", "127.0.0.1:8080", "the server's `host:port`")
	f.StringVar(&l.adminAddr, "admin-addr", "127.0.0.1:8081", "the `host:port` of its admin interface")
	f.IntVar(&l.rate, "rate", 1000, "payments a second")
	f.DurationVar(&l.length, "for", 10*time.Second, "length of the run")
	f.DurationVar(&l.settle, "settle", time.Minute, "how long to wait until all is posted")
	f.IntVar(&l.customers, "customers", 500, "customers GIG00001 and on that pay")
	f.IntVar(&l.inFlight, "in-flight", 1024, "requests without an answer; more wait, and the wait is latency")
	f.Float64Var(&l.hot, "hot", 0, "share of the payments of GIG00001, 0 to 1")
	f.Float64Var(&l.duplicates, "duplicates", 0, "share of requests that repeat a reference, 0 to 1")
	f.Uint64Var(&l.seed, "seed", 0, "seed of customers and repeats, 0 for a random one")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var errs []error
	demand := func(ok bool, name, rule string) {
		if !ok {
			errs = append(errs, fmt.Errorf("load: -%s %s: %s", name, f.Lookup(name).Value, rule))
		}
	}
	for name, addr := range map[string]string{"addr": l.addr, "admin-addr": l.adminAddr} {
		_, _, err := net.SplitHostPort(addr)
		demand(err == nil, name, "must be host:port")
	}
	demand(l.rate >= 1 && l.rate <= 1_000_000, "rate", "must be in 1..1000000")
	demand(l.length >= time.Millisecond && l.length.Seconds()*float64(l.rate) <= loadMaxSent, "for", "must be at least 1ms and 10 million payments at most")
	demand(l.settle >= 0, "settle", "must not be negative")
	demand(l.customers >= 1 && l.customers <= 99_999, "customers", "must be in 1..99999")
	demand(l.inFlight >= 1 && l.inFlight <= 65_536, "in-flight", "must be in 1..65536")
	demand(l.hot >= 0 && l.hot <= 1, "hot", "must be in 0..1")
	demand(l.duplicates >= 0 && l.duplicates <= 1, "duplicates", "must be in 0..1")
	if f.NArg() > 0 {
		errs = append(errs, fmt.Errorf("load: unexpected argument %q", f.Arg(0)))
	}
	for l.seed == 0 {
		l.seed = rand.Uint64()
	}
	l.random = rand.New(rand.NewPCG(l.seed, l.seed))
	return l, errors.Join(errs...)
}

// progress draws a bar if w is a terminal; stop ends it and waits for it.
func (l *loadRun) progress(w io.Writer) (stop func()) {
	file, ok := w.(*os.File)
	if !ok {
		return func() {}
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		start, tick := time.Now(), time.NewTicker(200*time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
			}
			l.mu.Lock()
			sent, acked := l.tally.sent, l.tally.accepted+l.tally.repeats
			l.mu.Unlock()
			full := int(min(30, 30*time.Since(start)/l.length))
			fmt.Fprintf(w, "\r[%s%s] sent %d, acknowledged %d\x1b[K", strings.Repeat("#", full), strings.Repeat(".", 30-full), sent, acked)
		}
	})
	return func() { close(done); wg.Wait() }
}

// print writes the table.
func (l *loadRun) print(w io.Writer, verdict error) {
	t := &l.tally
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-17s "+format+"\n", append([]any{name}, args...)...)
	}
	line("sent", "%d", t.sent)
	line("accepted", "%d", t.accepted)
	line("repeats answered", "%d", t.repeats)
	line("refused", "%d", t.refused)
	line("errors", "%d", t.failed)
	line("unknown", "%d, %d of them known to the server", t.unknown, t.found)
	if t.trouble != "" {
		line("first trouble", "%s", t.trouble)
	}
	line("accepted/s", "%.0f", float64(t.accepted)/t.took.Seconds())
	if span := t.lastPosted.Sub(t.firstAccepted); len(t.posted) > 0 && span > 0 {
		line("posted/s", "%.0f", float64(len(t.posted))/span.Seconds())
	}
	line("accept", "%s", loadPercentiles(t.accept))
	line("accept to posted", "%s", loadPercentiles(t.posted))
	if verdict != nil {
		line("verdict", "FAILED: %v", verdict)
		return
	}
	line("verdict", "ok: %d payments posted once each, %d balances agree", t.accepted+t.found, l.customers)
}

// loadPercentiles sorts d. The nearest rank, so that each figure is one that was measured.
func loadPercentiles(d []time.Duration) string {
	if len(d) == 0 {
		return "not measured"
	}
	slices.Sort(d)
	at := func(percent int) time.Duration { return d[(len(d)*percent+99)/100-1].Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v  p95 %v  p99 %v  max %v", at(50), at(95), at(99), at(100))
}
