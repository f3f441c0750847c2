package redislimit

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// form is a valid limit with what the script is told of it.
type form struct {
	ratelimit.Limit       // with its defaults
	class           class // of its counters
	per, rate       int64 // a unit comes back every per/rate µs
	window          int64 // Per in µs
	refill          span
	head            []byte
}

func newForm(l ratelimit.Limit) *form {
	l = l.Normal()
	f := &form{Limit: l, window: l.Per.Microseconds()}
	f.per, f.rate = l.Interval()
	switch l.Algorithm {
	case ratelimit.SlidingLog:
		f.class = logClass
	case ratelimit.Concurrency:
		f.class = holdersClass
	case ratelimit.SlidingCounter, ratelimit.FixedWindow:
		f.class = windowClass
	default:
		f.class = bucketClass
		f.refill = f.span(l.Burst)
		f.head = u64(nil, f.per)
		f.head = u32(f.head, f.rate)
		f.head = u32(f.head, l.Burst)
		f.head = u64(f.head, f.refill.us)
		f.head = u32(f.head, f.refill.frac)
		return f
	}
	f.head = u64(nil, f.window)
	f.head = u32(f.head, l.Rate)
	if f.class == windowClass {
		f.head = u32(f.head, int64(l.Algorithm))
	}
	return f
}

// maxForms bounds how many limits are remembered; a program has few.
const maxForms = 1 << 14

// forms remembers limits that were seen, all valid.
type forms struct {
	byLimit sync.Map // ratelimit.Limit to *form
	n       atomic.Int64
}

// of returns the form of a limit, or what is wrong with it.
func (fs *forms) of(l ratelimit.Limit) (*form, error) {
	if f, ok := fs.byLimit.Load(l); ok {
		return f.(*form), nil
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	f := newForm(l)
	if fs.n.Load() < maxForms {
		if _, loaded := fs.byLimit.LoadOrStore(l, f); !loaded {
			fs.n.Add(1)
		}
	}
	return f, nil
}

const (
	bucketCode byte = 16 * (iota + 1)
	windowCode
	logCode
	holdersCode
	decisionCode
	settleCode
)

func (c class) code() byte {
	switch c {
	case bucketClass:
		return bucketCode
	case windowClass:
		return windowCode
	case logClass:
		return logCode
	default:
		return holdersCode
	}
}

const (
	exact = 1 << 53 // what a double holds exactly
	// oneKind is a Take of one unit of a bucket, without more.
	oneKind = 5
	// anyKind is the kind of the ops that package ratelimit does not know: always carried out.
	anyKind = byte(ratelimit.Charge)
)

// plainTake tells whether an op is one of the many that need no further word.
func (f *form) plainTake(op *ratelimit.Op) bool {
	return f.class == bucketClass && op.Kind == ratelimit.Take && op.N == 1 && op.Min == 0 && op.Ahead == 0
}

// appendOp packs an op. Numbers beyond what can make a difference are cut.
func (f *form) appendOp(b []byte, op *ratelimit.Op) []byte {
	if f.plainTake(op) {
		return append(append(b, bucketCode+oneKind), f.head...)
	}
	b = append(b, f.class.code()+byte(op.Kind))
	b = append(b, f.head...)
	n, least := op.N, op.Min
	switch op.Kind {
	case ratelimit.Charge, ratelimit.Return:
		n = min(n, 2*f.Burst)
		if f.class == logClass && op.Kind == ratelimit.Return {
			n = min(op.N, 1<<32-1) // after the clock was set back an entry may have more than the limit
		}
	default:
		n, least = min(n, f.Burst+1), min(least, f.Burst+1)
	}
	switch f.class {
	case bucketClass:
		var cost span
		if n <= f.Burst || op.Kind == ratelimit.Return {
			cost = f.span(n)
		}
		b = u64(b, cost.us)
		b = u32(b, cost.frac)
		b = u32(b, n)
		b = u32(b, least)
		ahead := int64(min(op.Ahead/time.Microsecond, exact))
		if op.Kind == ratelimit.Return && ahead > 0 {
			ahead = min(min(max(op.At, 0), exact)+ahead, exact) // when the bucket was to be full
		}
		return u64(b, ahead)
	case holdersClass:
		b = u32(b, n)
		return text(b, op.Holder)
	default:
		b = u32(b, n)
		b = u32(b, least)
		return u64(b, min(max(op.At, -exact), exact))
	}
}

func u64(b []byte, n int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(n)) }

func u32(b []byte, n int64) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }

func text(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
