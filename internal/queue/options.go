package queue

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// ConsumeOptions are the options of [Consume].
type ConsumeOptions struct {
	// Name begins the name of every worker; a random part follows. Default: "worker".
	Name string
	// Workers is how many batches are handled at the same time. Default: 10.
	Workers int
	// Batch is how many messages a worker claims at most. Default: 100.
	Batch int

	// PollMin and PollMax bound the pause of an idle worker between two looks at the queue: it begins with PollMin and
	// doubles while the queue stays empty. Defaults: 2 ms and 50 ms.
	PollMin, PollMax time.Duration
	// Wake ends the pause of an idle worker at once. Default: none, workers only poll.
	Wake *Waker

	// Renew is how often the lease is renewed while a handler runs, and how often leases that ran out are looked for. It
	// must be well below the lease of the queue. Default: a third of it, 5 s if the queue is no [Leaser].
	Renew time.Duration
	// ErrorMin and ErrorMax bound the pause of a worker after an error of the handler or of the queue; it doubles from one
	// to the next. Defaults: 100 ms and 10 s.
	ErrorMin, ErrorMax time.Duration
	// Timeout bounds each claim and renewal, and the tries to acknowledge or return a batch together. Default: 3 s.
	Timeout time.Duration
	// Grace is how long handlers may go on after the context of Consume is done, before theirs is cancelled too.
	// Default: 5 s.
	Grace time.Duration

	// Logger hears of failing and panicking handlers, errors of the queue and reaped messages: the first failure of a row
	// as an error, those after it at debug level. Default: none.
	Logger *slog.Logger
}

func (o *ConsumeOptions) withDefaults(q Queue) (ConsumeOptions, error) {
	var c ConsumeOptions
	if o != nil {
		c = *o
	}
	lease := 15 * time.Second
	if l, ok := q.(Leaser); ok {
		lease = l.Lease()
	}
	c.Name = cmp.Or(c.Name, "worker")
	c.Workers = cmp.Or(c.Workers, 10)
	c.Batch = cmp.Or(c.Batch, 100)
	c.PollMin = cmp.Or(c.PollMin, min(2*time.Millisecond, cmp.Or(max(c.PollMax, 0), time.Hour)))
	c.PollMax = cmp.Or(c.PollMax, max(50*time.Millisecond, c.PollMin))
	c.Renew = cmp.Or(c.Renew, max(lease/3, time.Millisecond))
	c.ErrorMin = cmp.Or(c.ErrorMin, min(100*time.Millisecond, cmp.Or(max(c.ErrorMax, 0), time.Hour)))
	c.ErrorMax = cmp.Or(c.ErrorMax, max(10*time.Second, c.ErrorMin))
	c.Timeout = cmp.Or(c.Timeout, 3*time.Second)
	c.Grace = cmp.Or(c.Grace, 5*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c, c.validate(lease)
}

func (o *ConsumeOptions) validate(lease time.Duration) error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("queue: ConsumeOptions."+format, args...))
		}
	}
	refuse(o.Workers < 0, "Workers %d is negative", o.Workers)
	refuse(o.Batch < 0, "Batch %d is negative", o.Batch)
	refuse(o.PollMin < 0, "PollMin %v is negative", o.PollMin)
	refuse(o.PollMax < o.PollMin, "PollMax %v is below PollMin %v", o.PollMax, o.PollMin)
	refuse(o.ErrorMin < 0, "ErrorMin %v is negative", o.ErrorMin)
	refuse(o.ErrorMax < o.ErrorMin, "ErrorMax %v is below ErrorMin %v", o.ErrorMax, o.ErrorMin)
	refuse(o.Timeout < 0, "Timeout %v is negative", o.Timeout)
	refuse(o.Grace < 0, "Grace %v is negative", o.Grace)
	refuse(o.Renew < 0 || o.Renew >= lease, "Renew %v is not between 0 and the lease of the queue, %v", o.Renew, lease)
	return errors.Join(errs...)
}
