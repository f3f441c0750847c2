package ratelimit_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// exampleLimiter is of two an hour, on a clock that stands.
func exampleLimiter() *ratelimit.Limiter {
	noon := func() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }
	l, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: noon}), ratelimit.PerHour(2), &ratelimit.Options{Now: noon})
	if err != nil {
		panic(err)
	}
	return l
}

func ExampleNewMiddleware() {
	limit, err := ratelimit.NewMiddleware(exampleLimiter(), &ratelimit.HandlerOptions{
		Key: ratelimit.ClientIP(netip.MustParsePrefix("10.0.0.0/8")), // what the proxies at 10.x.x.x tell
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /rates", limit(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })))

	for _, client := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"} {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/rates", nil)
		r.RemoteAddr = "10.0.0.1:1234"
		r.Header.Set("X-Forwarded-For", client)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Printf("%d %q %s\n", w.Code, w.Header().Get("Retry-After"), w.Header().Get("RateLimit"))
	}
	// Output:
	// 200 "" "default";r=1;t=1800
	// 200 "" "default";r=0;t=3600
	// 429 "1800" "default";r=0;t=1800
	// 200 "" "default";r=1;t=1800
}

// One request is held to three limits: all are charged, or none.
func ExampleNewMiddleware_checks() {
	address, user := ratelimit.ClientIP(), ratelimit.SubjectKey(subject)
	limit, err := ratelimit.NewMiddleware(exampleLimiter(), &ratelimit.HandlerOptions{
		Checks: func(r *http.Request) ([]ratelimit.Check, bool) {
			a, known := address(r)
			u, signedIn := user(r)
			return []ratelimit.Check{
				{Limit: ratelimit.PerHour(100).Named("address"), Key: a},
				{Limit: ratelimit.PerHour(1).Named("user"), Key: u},
				{Limit: ratelimit.PerSecond(1000).Named("all"), Key: "all"},
			}, known && signedIn
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := limit(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	for range 2 {
		ctx := context.WithValue(context.Background(), claimsKey{}, "ada")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/payments", nil))
		fmt.Println(w.Code, w.Header().Get("RateLimit"))
		if w.Code != http.StatusOK {
			fmt.Println(w.Body)
		}
	}
	// Output:
	// 200 "address";r=99;t=36, "user";r=0;t=3600, "all";r=999;t=1
	// 429 "address";r=99;t=36, "user";r=0;t=3600, "all";r=999;t=1
	// {"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,"detail":"The limit is used up. Send the request again when the time of Retry-After is over.","code":"limited","violated-policies":["user"]}
}

// claimsKey is where authentication leaves the subject of the token that it has verified.
type claimsKey struct{}

func subject(ctx context.Context) string {
	s, _ := ctx.Value(claimsKey{}).(string)
	return s
}

func ExampleSubjectKey() {
	key := ratelimit.SubjectKey(subject)
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
	fmt.Println(key(r))
	fmt.Println(key(r.WithContext(context.WithValue(r.Context(), claimsKey{}, "ada"))))
	// Output:
	//  false
	// ada true
}

func ExampleHeaderKey() {
	key := ratelimit.HeaderKey("X-Consumer-ID")
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
	r.Header.Set("X-Consumer-ID", "shop-7") // as your gateway does
	fmt.Println(key(r))
	r.Header.Add("X-Consumer-ID", "shop-8") // one of both is somebody else's word
	fmt.Println(key(r))
	// Output:
	// shop-7 true
	//  false
}

func ExampleClientIP() {
	key := ratelimit.ClientIP(netip.MustParsePrefix("10.0.0.0/8"))
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
	r.Header.Set("X-Forwarded-For", "198.51.100.7, 192.0.2.1") // the left one is what the client wrote itself
	r.RemoteAddr = "10.0.0.1:443"
	fmt.Println(key(r))
	r.RemoteAddr = "203.0.113.5:443" // not one of the proxies
	fmt.Println(key(r))
	r.RemoteAddr = "[2001:db8::1]:443"
	fmt.Println(key(r))
	// Output:
	// 192.0.2.1 true
	// 203.0.113.5 true
	// 2001:db8::/64 true
}

func ExampleClientAddress() {
	client := ratelimit.ClientAddress{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Header: "Forwarded", IPv6Bits: 48}
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
	r.RemoteAddr = "10.0.0.1:443"
	r.Header.Set("Forwarded", `for="[2001:db8:1:2::3]:4711";proto=https`)
	fmt.Println(client.Key(r))
	fmt.Println(client.Of(r))
	// Output:
	// 2001:db8:1::/48 true
	// 2001:db8:1:2::3 true
}

// What a middleware for another protocol does.
func ExampleHold() {
	l := exampleLimiter()
	for range 2 {
		decision := ratelimit.Hold(context.Background(), l, ratelimit.Check{Limit: ratelimit.PerMinute(3), Key: "ada", N: 2})
		header := http.Header{}
		ratelimit.Draft11(header, decision.Quotas)
		fmt.Println(header.Get("RateLimit"))
		if refusal := decision.Refusal; refusal != nil {
			fmt.Println(refusal.Code, refusal.Violated, refusal.RetrySeconds())
		}
	}
	// Output:
	// "default";r=1;t=40
	// "default";r=1;t=20
	// limited [default] 20
}

func ExampleDraft11() {
	h := http.Header{}
	ratelimit.Draft11(h, []ratelimit.Quota{{Limit: ratelimit.PerMinute(100).Normal(), Result: ratelimit.Result{Remaining: 50}, Reset: 30 * time.Second}})
	fmt.Println(h.Get("RateLimit-Policy"))
	fmt.Println(h.Get("RateLimit"))
	// Output:
	// "default";q=100;w=60
	// "default";r=50;t=30
}

func ExampleParseFields() {
	answer := http.Header{}
	answer.Set("RateLimit-Policy", `"default";q=100;w=60`)
	answer.Set("RateLimit", `"default";r=50;t=30`)
	told, err := ratelimit.ParseFields(answer)
	fmt.Println(told[0].Remaining, "left for", told[0].Reset, err)
	// Output: 50 left for 30s <nil>
}
