package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// report prints what came of all: Markdown that can be read as it is.
func report(ctx context.Context, w io.Writer, stages []*stage, o *options) error {
	var version string
	if err := stages[0].pool.QueryRow(ctx, `SHOW server_version`).Scan(&version); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s, %d cores of %s, load %s; %s, PostgreSQL %s, %d Redis; %s.\n\n", time.Now().UTC().Format("2006-01-02"),
		runtime.NumCPU(), cpuModel(), loadAverage(), runtime.Version(), version, len(o.redis), command(o))
	fmt.Fprintf(w, "Two servers. %d accounts with 100, each raced for by two payments of 80 and a retry of either: %d may be paid.\n",
		o.rounds, o.rounds)
	fmt.Fprintf(w, "Then a server freezes for %v before it writes, and the other one gets a payment of the same account.\n\n", 3*o.lease)
	safety(w, stages)
	if o.turns > 0 {
		fmt.Fprintf(w, "\nSpeed: %d clients, every 20th payment is sent a second time to the other server; medians of %d turns of %v.\n"+
			"Round trips are those on many accounts and conflicts those on one, for each payment.\n\n",
			o.workers, o.turns, o.length)
		speeds(w, stages, o)
	}
	fmt.Fprintln(w)
	advise(w, stages, o)
	return nil
}

func command(o *options) string {
	return fmt.Sprintf("-rounds %d -lease %v -for %v -turns %d -workers %d -accounts %d", o.rounds, o.lease, o.length, o.turns, o.workers, o.accounts)
}

// table prints rows of cells as a Markdown table, the first column to the left and the others to the right.
func table(w io.Writer, head []string, rows [][]string) {
	width := make([]int, len(head))
	rule := make([]string, len(head))
	for i := range head {
		for _, r := range append(rows, head) {
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
		rule[i] = strings.Repeat("-", width[i]-1) + ":"
	}
	rule[0] = strings.Repeat("-", width[0])
	for _, r := range append([][]string{head, rule}, rows...) {
		fmt.Fprintf(w, "| %-*s |", width[0], r[0])
		for i, cell := range r[1:] {
			fmt.Fprintf(w, " %*s |", width[i+1], cell)
		}
		fmt.Fprintln(w)
	}
}

func safety(w io.Writer, stages []*stage) {
	var rows [][]string
	for _, s := range stages {
		r := s.result
		rows = append(rows, []string{
			s.way.title, fmt.Sprint(r.overspends), major(r.made), fmt.Sprintf("%d of %d", r.paid, r.rounds), fmt.Sprint(r.declined),
			fmt.Sprint(r.conflicts), r.behind.Round(time.Millisecond).String(),
		})
	}
	table(w, []string{"way", "overspends", "money made", "paid", "declined", "conflicts", "behind the frozen"}, rows)
}

func speeds(w io.Writer, stages []*stage, o *options) {
	var rows [][]string
	for _, s := range stages {
		u, h := s.result.uniform, s.result.hot
		rows = append(rows, []string{
			s.way.title, fmt.Sprintf("%.1f", u.trips), fmt.Sprintf("%.0f", u.perSecond), fmt.Sprint(u.p99.Round(100 * time.Microsecond)),
			fmt.Sprintf("%.0f", h.perSecond), fmt.Sprint(h.p99.Round(100 * time.Microsecond)), fmt.Sprintf("%.2f", h.conflicts),
		})
	}
	table(w, []string{
		"way", "round trips", fmt.Sprintf("%d accounts, /s", o.accounts), "p99", "one account, /s", "p99", "conflicts",
	}, rows)
}

func major(minor int64) string { return fmt.Sprintf("%d.%02d", minor/100, max(minor, -minor)%100) }

// advise says what to take, by what was seen.
func advise(w io.Writer, stages []*stage, o *options) {
	var lost []string
	var safe []*stage
	for _, s := range stages {
		if s.result.overspends > 0 || s.result.wrong > 0 {
			lost = append(lost, s.way.title)
		} else {
			safe = append(safe, s)
		}
	}
	if len(lost) > 0 {
		fmt.Fprintf(w, "Not to be used for money: %s.\n", strings.Join(lost, "; "))
	}
	if o.turns > 0 && len(safe) > 0 {
		by := func(f func(*stage) float64) string {
			return slices.MaxFunc(safe, func(a, b *stage) int { return cmp.Compare(f(a), f(b)) }).way.title
		}
		fmt.Fprintf(w, "Most payments/s of the others: on many accounts %s, on one account %s.\n",
			by(func(s *stage) float64 { return s.result.uniform.perSecond }), by(func(s *stage) float64 { return s.result.hot.perSecond }))
	}
	fmt.Fprint(w, `
Where all that a payment does is in one PostgreSQL, let the database decide, in the transaction that pays: a ledger whose
transaction's id is the request, or pgidem.DoTx where the answer is more than a verdict. Neither forgets nor waits for a
lease, and a crash leaves nothing half done. Where many pay at once, or from one account, let them share commits (ledger.Group).
Where it calls somebody else (a card network), claim an idempotency key first, hand the key on, and have a unique index or the
ledger's id behind it for the day after the key has expired.
A version serves where conflicts are rare; on one account they are not. A lock saves work, it does not save money: compare its
fencing number in the write, or take it in the transaction that writes.
`)
}

func cpuModel() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(data))[0]
}
