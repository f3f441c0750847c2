package settlement

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/shopspring/decimal"
)

// FakeBank is a bank that fails as banks do. The zero value never does.
type FakeBank struct {
	// Book is the file in which it writes what it has paid: a bank does not forget
	// when we die. Several may have one. Default: it is in memory, and does.
	Book string
	// Faults says what happens to each call of Pay in turn; then calls go through.
	Faults []Fault
	// Trouble is the share of the calls of Pay, from 0 to 1, that get no answer; at
	// every other of them it has paid. Default: 0.
	Trouble float64
	// Slow is how long a call takes. Default: 0.
	Slow time.Duration

	mu              sync.Mutex
	calls, troubles int
	paid            map[string]decimal.Decimal // by key
	known           int64                      // bytes of the book that are in paid
}

// payment is a line of the book.
type payment struct {
	Key    string          `json:"key"`
	Amount decimal.Decimal `json:"amount"`
}

// Fault is one of a bank.
type Fault uint8

// What can happen to a call.
const (
	None     Fault = iota
	Lost           // it pays, and its answer does not arrive
	Down           // it does not pay, and there is no answer either
	Declined       // it says no, unless it has paid
)

var errNoAnswer = errors.New("the bank does not answer")

// Pay implements [Bank].
func (b *FakeBank) Pay(ctx context.Context, key string, amount decimal.Decimal) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(b.Slow):
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil {
		return "", err
	}
	_, before := b.paid[key]
	fault := b.fault()
	switch {
	case fault == Down:
		return "", errNoAnswer
	case fault == Declined && !before:
		return "", ErrDeclined
	}
	if err := b.pay(key, amount); err != nil {
		return "", err
	}
	if fault == Lost {
		return "", errNoAnswer
	}
	return "receipt-" + key, nil
}

// fault says what happens to the next call.
func (b *FakeBank) fault() Fault {
	b.calls++
	if n := b.calls - 1; n < len(b.Faults) {
		return b.Faults[n]
	}
	if rand.Float64() >= b.Trouble {
		return None
	}
	if b.troubles++; b.troubles%2 == 0 {
		return Lost
	}
	return Down
}

// pay pays once for each key; the book has been read. Of the lines of one key the first
// is the payment:
//
//	A and B have read the book, and find nothing under the key
//	both write a line
//	both read on, and find the same line first
func (b *FakeBank) pay(key string, amount decimal.Decimal) error {
	if _, paid := b.paid[key]; !paid {
		if err := errors.Join(b.write(payment{key, amount}), b.read()); err != nil {
			return err
		}
	}
	if have := b.paid[key]; !have.Equal(amount) {
		return fmt.Errorf("key %s was used for %s", key, have)
	}
	return nil
}

// read reads what the book has got since the last time, from other processes too. Its
// last line may be half written: that is not paid, and never will be.
func (b *FakeBank) read() error {
	if b.paid == nil {
		b.paid = map[string]decimal.Decimal{}
	}
	if b.Book == "" {
		return nil
	}
	file, err := os.OpenFile(b.Book, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.NewSectionReader(file, b.known, math.MaxInt64-b.known))
	if err != nil {
		return err
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	b.known += int64(len(text))
	for line := range bytes.Lines(text) {
		var p payment
		if json.Unmarshal(line, &p) != nil {
			continue
		}
		if _, paid := b.paid[p.Key]; !paid {
			b.paid[p.Key] = p.Amount
		}
	}
	return nil
}

// write begins a line of its own. What it puts in front makes no payment of a line that
// was cut off before its end, whatever is missing.
func (b *FakeBank) write(p payment) error {
	if b.Book == "" {
		b.paid[p.Key] = p.Amount
		return nil
	}
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(b.Book, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "-\n%s\n", line)
	return errors.Join(err, file.Sync(), file.Close())
}

// Find implements [Bank].
func (b *FakeBank) Find(_ context.Context, key string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil {
		return "", err
	}
	if _, ok := b.paid[key]; !ok {
		return "", nil
	}
	return "receipt-" + key, nil
}

// Paid returns what the bank has paid in all, and how often, as far as it has read its
// book: that is what there was at the last Pay or Find.
func (b *FakeBank) Paid() (total decimal.Decimal, times int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, amount := range b.paid {
		total = total.Add(amount)
	}
	return total, len(b.paid)
}
