package idempotency_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/safetill/safetill/idempotency"
)

// tenantKey is where authentication leaves the tenant in a request's context.
type tenantKey struct{}

// authenticate stands for your own.
func authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tenant-7's secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tenantKey{}, "tenant-7")))
	})
}

func ExampleNewMiddleware() {
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	once, err := idempotency.NewMiddleware(guard, &idempotency.HandlerOptions{
		Scope: func(r *http.Request) string {
			tenant, _ := r.Context().Value(tenantKey{}).(string)
			return tenant
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	pay := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Printf("charging %s\n", body)
		w.Header().Set("Location", "/payments/1")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "charged")
	})
	mux := http.NewServeMux()
	mux.Handle("POST /payments", authenticate(once(pay)))

	send := func(key, body string) {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/payments", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer tenant-7's secret")
		if key != "" {
			r.Header.Set("Idempotency-Key", key)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header().Get("Idempotency-Replayed") == "true")
	}
	send(`"8e03978e"`, "10.00 EUR")
	send(`"8e03978e"`, "10.00 EUR")
	send(`8e03978e`, "10.00 EUR") // without quotes it is the same key
	send(`"8e03978e"`, "99.00 EUR")
	send("", "10.00 EUR")
	// Output:
	// charging 10.00 EUR
	// 201 false
	// 201 true
	// 201 true
	// 422 false
	// 400 false
}

func ExampleParseKey() {
	header := http.Header{}
	header.Set("Idempotency-Key", `"a \"quoted\" key"`)
	fmt.Println(idempotency.ParseKey(header["Idempotency-Key"]))
	header.Set("Idempotency-Key", `one, two`)
	fmt.Println(idempotency.ParseKey(header["Idempotency-Key"]))
	// Output:
	// a "quoted" key <nil>
	//  idempotency: Idempotency-Key has ',', which a key without quotes must not have
}
