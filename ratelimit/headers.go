package ratelimit

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Quota is what a client is told of one limit.
type Quota struct {
	Limit  Limit // with its defaults
	Result Result
	// Reset is after what time all of it is back. With a refusal it is at most the time to wait, so that no field asks for more patience than
	// Retry-After.
	Reset time.Duration
}

// counted tells whether the numbers of the result are numbers: nobody counts while the store fails, or is not asked.
func (q *Quota) counted() bool { return q.Result.Source < FromFailOpen }

// Encoder adds fields to the header of an answer that tell what is left. It adds to those that are there already: more than one limiter may be
// on the way to a handler. [Draft11] and [NoFields] are two; one of your own may write X-RateLimit-Remaining, say.
type Encoder func(h http.Header, quotas []Quota)

// Draft11 encodes the fields RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-11:
//
//	RateLimit-Policy: "default";q=100;w=60
//	RateLimit: "default";r=50;t=30
//
// q and w are the limit's Rate and Per, r is what remains and t is [Quota.Reset] in seconds, rounded up. w is there only for a Per of whole seconds:
// the draft has no others, and a window that is rounded would tell another limit. Several limits are members of one list. What was not counted, because
// the store failed or was not asked, has no RateLimit.
func Draft11(h http.Header, quotas []Quota) { draft11.encode(h, quotas) }

// NoFields encodes nothing.
func NoFields(http.Header, []Quota) {}

// revision is what differs between the draft's revisions: how the parameters are named. The fields' names are in net/http's canonical form; on the wire
// of HTTP/1 case does not matter.
type revision struct{ available, window string }

// draft11 is the revision of May 2026. The working group's pull request 166 would make it {"a", "w"}.
var draft11 = revision{available: "r", window: "t"}

const (
	policyField = "Ratelimit-Policy"
	limitField  = "Ratelimit"
)

// encode writes both fields into one string.
func (v revision) encode(h http.Header, quotas []Quota) {
	var room [128]byte
	text := appendPolicies(room[:0], quotas)
	cut := len(text)
	text = v.appendLimits(text, quotas)
	if len(text) == 0 {
		return
	}
	both, lines := string(text), make([]string, 2)
	lines[0], lines[1] = both[:cut], both[cut:]
	if cut > 0 {
		addLine(h, policyField, lines[0:1:1])
	}
	if cut < len(both) {
		addLine(h, limitField, lines[1:2:2])
	}
}

func addLine(h http.Header, name string, line []string) {
	if have := h[name]; len(have) > 0 {
		line = append(slices.Clip(have), line...)
	}
	h[name] = line
}

func appendPolicies(b []byte, quotas []Quota) []byte {
	first := len(b)
	for i := range quotas {
		l := &quotas[i].Limit
		next, ok := appendItem(b, first, l.Name)
		if !ok {
			continue
		}
		b = appendParameter(next, "q", l.Rate)
		if l.Algorithm == Concurrency { // its Per is a lease, no window
			b = append(b, `;qu="concurrent-requests"`...)
		} else if l.Per >= time.Second && l.Per%time.Second == 0 {
			b = appendParameter(b, "w", int64(l.Per/time.Second))
		}
	}
	return b
}

func (v revision) appendLimits(b []byte, quotas []Quota) []byte {
	first := len(b)
	for i := range quotas {
		q := &quotas[i]
		if !q.counted() {
			continue
		}
		next, ok := appendItem(b, first, q.Limit.Name)
		if !ok {
			continue
		}
		b = appendParameter(next, v.available, q.Result.Remaining)
		b = appendParameter(b, v.window, wholeSeconds(q.Reset))
	}
	return b
}

// appendItem begins a member of a list that began at first with a String (RFC 9651, section 4.1.6). A name that cannot be one has no member.
func appendItem(b []byte, first int, name string) ([]byte, bool) {
	begun := len(b)
	if begun > first {
		b = append(b, ", "...)
	}
	b = append(b, '"')
	for i := range len(name) {
		switch c := name[i]; {
		case c < ' ' || c > '~':
			return b[:begun], false
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"'), true
}

// maxInteger is the largest Integer of RFC 9651.
const maxInteger = 999_999_999_999_999

func appendParameter(b []byte, name string, n int64) []byte {
	b = append(b, ';')
	b = append(b, name...)
	b = append(b, '=')
	return strconv.AppendInt(b, min(max(n, 0), maxInteger), 10)
}

// wholeSeconds rounds up: who comes earlier comes too early.
func wholeSeconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return s
}

// untilFull is how long it takes until all of a limit is back. Of a bucket its state says so. Of others it is a time by the store's clock, which is compared
// with this process': as much as the two differ it is wrong.
func untilFull(limit Limit, r *Result, now func() time.Time) time.Duration {
	if !limit.Algorithm.bucket() {
		return min(max(r.ResetAt.Sub(now()), 0), MaxRefill)
	}
	per, rate := limit.Interval()
	return time.Duration(mulDivUp(limit.Burst-min(r.Remaining, limit.Burst), per, rate)) * time.Microsecond
}
