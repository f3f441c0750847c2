package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/strictjson"
)

// badCase is a request that has to be refused.
type badCase struct {
	name   string
	body   string
	status int
	fields []string // that the answer names, all of them
}

// badTypes are what no field takes: all are strings.
var badTypes = map[string]string{
	"null": `null`, "a number": `10000`, "a float": `1.5`, "true": `true`, "an array": `["10000"]`, "an object": `{"value":"10000"}`,
}

// badValues are the values, as JSON, that have the right type and break a rule.
var badValues = map[string][]string{
	"transaction_amount": {
		`""`, `"-1"`, `"-0.01"`, `"0"`, `"0.00"`, `"000"`, `"1e3"`, `"1E3"`, `"NaN"`, `"Infinity"`, `"-Inf"`, `"+5"`, `"1,000"`, `"10,50"`, `" 5"`, `"5 "`,
		`"5\n"`, `"5\u0000"`, `"5."`, `".5"`, `"."`, `"1.234"`, `"0.001"`, `"1.000"`, `"10000000000000"`, `"99999999999999.99"`, `"00000000000001"`,
		`"1.2.3"`, `"--5"`, `"0x10"`, `"1_000"`, `"1/2"`, `"NGN 5"`, `"₦5"`, `"٥"`, `"５"`, `"ten"`, `"null"`,
	},
	"payment_status": {
		`""`, `"complete"`, `"Complete"`, `"COMPLETED"`, `" COMPLETE"`, `"COMPLETE "`, `"COMPLETE\n"`, `"COMPLETE\u0000"`, `"СOMPLETE"`, `"PAID"`, `"POSTED"`,
		`"pending"`, `"failed"`, `"CANCELED"`, `"PENDING,COMPLETE"`,
	},
	"transaction_date": {
		`""`, `"2025-02-30 10:00:00"`, `"2025-02-29 10:00:00"`, `"2100-02-29 10:00:00"`, `"2025-11-31 10:00:00"`, `"2025-13-01 10:00:00"`, `"2025-00-10 10:00:00"`,
		`"2025-11-00 10:00:00"`, `"2025-11-07 25:00:00"`, `"2025-11-07 24:00:00"`, `"2025-11-07 23:60:00"`, `"2025-11-07 23:59:60"`, `"2025-11-07T14:54:16"`,
		`"2025-11-07T14:54:16Z"`, `"2025-11-07 14:54:16Z"`, `"2025-11-07 14:54:16+01"`, `"2025-11-07 14:54:16.5"`, `"2025-11-07 14:54"`, `"2025-11-07"`,
		`"14:54:16"`, `"07/11/2025 14:54:16"`, `"25-11-07 14:54:16"`, `"2025-11-7 14:54:16"`, `"2025-11-07 4:54:16"`, `" 2025-11-07 14:54:16"`,
		`"2025-11-07  4:54:16"`, `"2025-11-07 14:54:16 "`, `"2025-11-07 14:54:16\n"`, `"1762527256"`, `"now"`, `"infinity"`, `"-025-11-07 14:54:16"`,
		`"0000-01-01 00:00:00"`, // PostgreSQL has no year 0: one such payment would fail the whole batch
	},
	"transaction_reference": {
		`""`, `" "`, `" R"`, `"R "`, `"R 1"`, `"R\n"`, `"R\u0000"`, `"-R"`, `"/R"`, `".."`, `"a/b"`, `"a/../b"`, `"R/"`, `"R?a=1"`, `"R#1"`, `"R%41"`, `"Ré"`, `"R'; DROP TABLE payments"`, `"{R}"`, `"R\\"`,
	},
	"customer_id": {
		`""`, `" "`, `" GIG00001"`, `"GIG00001 "`, `"GIG 00001"`, `"GIG00001\n"`, `"GIG00001\u0000"`, `"-GIG00001"`, `"GIG/00001"`, `"ＧIG00001"`, `"GIG00001'--"`,
		`"GIG99999"`, `"GIG00011"`, `"gig00001"`, `"clearing"`, `"customer:GIG00001"`, `"financed-assets"`, // unknown ones
	},
}

// badBody is a payment that nothing is wrong with but the changes, under a
// reference that no good one has.
func badBody(changes ...string) string {
	return apiBody(append([]string{"transaction_reference", `"BAD"`}, changes...)...)
}

// badFields are payments with one field that is wrong, in every way.
func badFields() (cases []badCase) {
	for _, member := range apiGood {
		field, value := member[0], member[1]
		if field == "transaction_reference" {
			value = `"BAD"`
		}
		add := func(status int, named, what, body string) {
			cases = append(cases, badCase{name: named + " " + what, body: body, status: status, fields: []string{named}})
		}
		add(422, field, "missing", badBody(field, ""))
		add(422, field, "too long", badBody(field, strconv.Quote(strings.Repeat("1", 65))))
		add(422, field, "far too long", badBody(field, strconv.Quote(strings.Repeat("1", 60_000))))
		for _, wrong := range badValues[field] {
			add(422, field, wrong, badBody(field, wrong))
		}
		for what, wrong := range badTypes {
			add(400, field, what, badBody(field, wrong))
		}
		add(400, field, "with half a surrogate pair", badBody(field, `"\ud800"`))
		add(400, field, "twice", strings.Replace(badBody(), "{", fmt.Sprintf(`{"%s":%s,`, field, value), 1))
		add(400, field, "twice, once escaped", strings.Replace(badBody(), "{", fmt.Sprintf(`{"\u%04x%s":%s,`, field[0], field[1:], value), 1))
		for _, variant := range []string{strings.ToUpper(field), strings.ToUpper(field[:1]) + field[1:], strings.ReplaceAll(field, "s", "ſ")} {
			if variant != field {
				add(400, variant, "instead", strings.Replace(badBody(), field, variant, 1))
				add(400, variant, "beside", badBody(variant, `"x"`))
			}
		}
	}
	return cases
}

// badBodies are what is wrong as a whole.
func badBodies() []badCase {
	good := badBody()
	cases := []badCase{
		{"an unknown key", badBody("extra", `"x"`), 400, []string{"extra"}},
		{"a key of the answer", badBody("accepted_at", `"2020-01-01T00:00:00Z"`), 400, []string{"accepted_at"}},
		{"a key of scripts", badBody("__proto__", `{}`), 400, []string{"__proto__"}},
		{"all missing", `{}`, 422, []string{"transaction_reference", "customer_id", "payment_status", "transaction_date", "transaction_amount"}},
		{
			"all empty", badBody("customer_id", `""`, "transaction_reference", `""`, "payment_status", `""`, "transaction_date", `""`, "transaction_amount", `""`), 422,
			[]string{"transaction_reference", "customer_id", "payment_status", "transaction_date", "transaction_amount"},
		},
		{
			"three faults", badBody("transaction_amount", `"-1"`, "transaction_date", `"2025-02-30 10:00:00"`, "payment_status", ""), 422,
			[]string{"transaction_amount", "transaction_date", "payment_status"},
		},
		{"one byte too many", good + strings.Repeat(" ", maxBody+1-len(good)), 413, nil},
		{"too large", badBody("transaction_reference", strconv.Quote(strings.Repeat("R", 200_000))), 413, nil},
		{"far too large", strings.Repeat(good, 20_000), 413, nil},
	}
	for what, body := range map[string]string{
		"empty": "", "white space": " \r\n\t", "an array": "[" + good + "]", "a string": strconv.Quote(good), "a number": "1", "null": "null",
		"a form": "customer_id=GIG00001", "XML": "<payment/>", "cut off": good[:50], "no end": "{", "very deep": strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
		"trailing object": good + good, "trailing word": good + "x", "trailing comma": good + ",", "comma before the end": strings.Replace(good, "}", ",}", 1),
		"single quotes": strings.ReplaceAll(good, `"`, "'"), "a comment": "/**/" + good, "a bare control character": strings.Replace(good, "COMPLETE", "COMP\nLETE", 1),
		"a byte order mark": "\ufeff" + good, "a zero byte at the end": good + "\x00", "UTF-16": strings.Join(strings.Split(good, ""), "\x00"),
		"invalid UTF-8 in a value": strings.Replace(good, "COMPLETE", "COMPLETE\xff", 1), "invalid UTF-8 in a key": strings.Replace(good, "customer_id", "customer_id\xc3", 1),
		"invalid UTF-8 after it": good + "\xff",
	} {
		cases = append(cases, badCase{"body: " + what, body, 400, nil})
	}
	return cases
}

func TestBadInputPayments(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		s.payAFew(t)
		before := apiState(t, s)
		for _, c := range append(badFields(), badBodies()...) {
			if !t.Run(c.name, func(t *testing.T) {
				requireProblem(t, s.post(t, c.body), c.status, c.fields...)
				require.Equal(t, before, apiState(t, s))
			}) {
				before = apiState(t, s) // the next one is not to blame
			}
		}
		requireProblem(t, apiCall(t, http.MethodGet, s.public+"/api/v1/payments/BAD", ""), http.StatusNotFound, "reference")
		s.accept(t, http.StatusAccepted, apiBody("transaction_reference", `"BAD"`)) // refusals leave the reference free
		s.settled(t, "BAD")
		s.sound(t)
	})
}

// badSlow is a body that is sent in pieces, without a length.
type badSlow struct{ rest []byte }

func (r *badSlow) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, errors.New("the client fails")
	}
	n := copy(p[:min(len(p), 1000)], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func TestBadInputBodyWithoutLength(t *testing.T) {
	t.Parallel()
	s := startAPI(t)
	before := apiState(t, s)
	send := func(body []byte) (apiAnswer, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.public+"/api/v1/payments", &badSlow{body})
		require.NoError(t, err)
		resp, err := apiClient.Do(req)
		if err != nil {
			return apiAnswer{}, err
		}
		defer func() { _ = resp.Body.Close() }()
		var text bytes.Buffer
		_, err = text.ReadFrom(resp.Body)
		return apiAnswer{resp.StatusCode, resp.Header, text.Bytes()}, err
	}
	a, err := send(bytes.Repeat([]byte(" "), maxBody+1))
	if err == nil { // the client's own failure may win
		requireProblem(t, a, http.StatusRequestEntityTooLarge)
	}
	_, err = send([]byte(apiBody())) // whole, but for the end
	require.Error(t, err)
	require.Equal(t, before, apiState(t, s))
}

func TestBadInputSeed(t *testing.T) {
	t.Parallel()
	s := startAPI(t)
	before := apiState(t, s)
	for body, status := range map[string]int{
		`{}`: 422, `{"count":0}`: 422, `{"count":-1}`: 422, `{"count":100001}`: 422, `{"count":9223372036854775807}`: 422,
		`{"count":9223372036854775808}`: 400, `{"count":1.5}`: 400, `{"count":5.0}`: 400, `{"count":1e3}`: 400, `{"count":"5"}`: 400, `{"count":true}`: 400,
		`{"count":null}`: 400, `{"count":[5]}`: 400, `{"count":{"n":5}}`: 400, `{"count":5,"count":6}`: 400,
	} {
		requireProblem(t, apiCall(t, http.MethodPost, s.admin+"/api/v1/admin/seed-customers", body), status, "count")
	}
	requireProblem(t, apiCall(t, http.MethodPost, s.admin+"/api/v1/admin/seed-customers", `{"Count":5}`), http.StatusBadRequest, "Count")
	requireProblem(t, apiCall(t, http.MethodPost, s.admin+"/api/v1/admin/seed-customers", `{"count":5,"from":1}`), http.StatusBadRequest, "from")
	for _, body := range []string{"", "5", "[5]", `{"count":5}{"count":6}`, `{"count":005}`, `{"count":+5}`, `{"count":NaN}`, `{"count":0x10}`, "count=5"} {
		requireProblem(t, apiCall(t, http.MethodPost, s.admin+"/api/v1/admin/seed-customers", body), http.StatusBadRequest)
	}
	requireProblem(t, apiCall(t, http.MethodPost, s.admin+"/api/v1/admin/seed-customers", strings.Repeat(" ", maxBody+1)), http.StatusRequestEntityTooLarge)
	require.Equal(t, before, apiState(t, s))
}

func TestBadInputQueries(t *testing.T) {
	t.Parallel()
	apiBoth(t, func(t *testing.T, s *apiServer) {
		long := strings.Repeat("r", 65)
		for path, want := range map[string]badCase{
			"/customers?limit=0":                     {status: 400, fields: []string{"limit"}},
			"/customers?limit=-1":                    {status: 400, fields: []string{"limit"}},
			"/customers?limit=1001":                  {status: 400, fields: []string{"limit"}},
			"/customers?limit=":                      {status: 400, fields: []string{"limit"}},
			"/customers?limit=ten":                   {status: 400, fields: []string{"limit"}},
			"/customers?limit=1.5":                   {status: 400, fields: []string{"limit"}},
			"/customers?limit=1e1":                   {status: 400, fields: []string{"limit"}},
			"/customers?limit=%205":                  {status: 400, fields: []string{"limit"}},
			"/customers?limit=99999999999999999999":  {status: 400, fields: []string{"limit"}},
			"/customers?offset=-1":                   {status: 400, fields: []string{"offset"}},
			"/customers?offset=":                     {status: 400, fields: []string{"offset"}},
			"/customers?offset=x":                    {status: 400, fields: []string{"offset"}},
			"/customers?offset=1073741825":           {status: 400, fields: []string{"offset"}},
			"/customers?offset=-9223372036854775809": {status: 400, fields: []string{"offset"}},
			"/customers?limit=0&offset=-1":           {status: 400, fields: []string{"limit", "offset"}},
			"/customers?limit=5&limit=6":             {status: 400, fields: []string{"limit"}},
			"/customers?limit=5;offset=3":            {status: 400, fields: []string{"limit", "offset"}},
			"/customers?offset=%2":                   {status: 400, fields: []string{"limit", "offset"}},
			"/customers/GIG99999/balance":            {status: 404, fields: []string{"customer_id"}},
			"/customers/gig00001/balance":            {status: 404, fields: []string{"customer_id"}},
			"/customers/clearing/balance":            {status: 404, fields: []string{"customer_id"}},
			"/customers/" + long + "/balance":        {status: 400, fields: []string{"customer_id"}},
			"/customers/%20/balance":                 {status: 400, fields: []string{"customer_id"}},
			"/customers/GIG00001%00/balance":         {status: 400, fields: []string{"customer_id"}},
			"/customers/%ff/balance":                 {status: 400, fields: []string{"customer_id"}},
			"/customers/GIG00001'/balance":           {status: 400, fields: []string{"customer_id"}},
			"/payments/UNKNOWN":                      {status: 404, fields: []string{"reference"}},
			"/payments/M-1x":                         {status: 404, fields: []string{"reference"}},
			"/payments/m-1":                          {status: 404, fields: []string{"reference"}},
			"/payments/" + long:                      {status: 400, fields: []string{"reference"}},
			"/payments/":                             {status: 404},
			"/payments//M-1":                         {status: 404},
			"/payments/M-1/":                         {status: 404},
			"/payments/M-1/x":                        {status: 404},
			"/payments/M%2F1":                        {status: 404},
			"/payments/-M-1":                         {status: 400, fields: []string{"reference"}},
			"/payments/%20M-1":                       {status: 400, fields: []string{"reference"}},
			"/payments/M-1%00":                       {status: 400, fields: []string{"reference"}},
			"/payments/M-1%0a":                       {status: 400, fields: []string{"reference"}},
			"/payments/%ff":                          {status: 400, fields: []string{"reference"}},
			"/payments/M-1%27%20OR%201=1":            {status: 400, fields: []string{"reference"}},
			"/payments/%c3%a9":                       {status: 400, fields: []string{"reference"}},
		} {
			requireProblem(t, apiCall(t, http.MethodGet, s.public+"/api/v1"+path, ""), want.status, want.fields...)
		}
	})
}

func TestBadInputMethodsAndPaths(t *testing.T) {
	t.Parallel()
	s := startAPI(t)
	before := apiState(t, s)
	health := []string{"/livez", "/readyz", "/api/v1/health"}
	for base, routes := range map[string]map[string][]string{
		s.public: {
			http.MethodPost: {"/api/v1/payments"},
			http.MethodGet:  append([]string{"/api/v1/payments/R-1", "/api/v1/customers", "/api/v1/customers/GIG00001/balance"}, health...),
		},
		s.admin: {
			http.MethodPost: {"/api/v1/admin/seed-customers"},
			http.MethodGet:  append([]string{"/api/v1/admin/stats", "/api/v1/admin/verify", "/metrics", "/debug/pprof/", "/debug/pprof/heap"}, health...),
		},
	} {
		for allowed, paths := range routes {
			for _, path := range paths {
				for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"} {
					if method == allowed {
						continue
					}
					a := apiCall(t, method, base+path, "")
					requireProblem(t, a, http.StatusMethodNotAllowed)
					require.Equal(t, allowed, a.header.Get("Allow"), "%s %s", method, path)
				}
			}
		}
		for _, path := range []string{
			"/", "/api", "/api/v1", "/api/v1/", "/api/v2/payments", "/API/v1/payments", "/api/v1/Payments", "//api/v1/payments", "/api/v1//payments",
			"/api/v1/payment", "/api/v1/customers/", "/api/v1/customers/GIG00001", "/api/v1/customers/GIG00001/balance/", "/api/v1/customers/GIG00001/balance/x",
			"/api/v1/admin", "/favicon.ico", "/livez/", "/api/v1/health/x", "/debug/pprof", "/.env", "/%2e%2e/etc/passwd",
		} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				a := apiCall(t, method, base+path, "")
				requireProblem(t, a, http.StatusNotFound)
				require.Contains(t, string(a.body), "no such path")
			}
		}
	}
	require.Equal(t, before, apiState(t, s))
}

// requireProblem checks that an answer is a problem document of RFC 9457, whole
// and with nothing else in it, that names these fields.
func requireProblem(t *testing.T, a apiAnswer, status int, fields ...string) {
	t.Helper()
	require.Equal(t, status, a.status, "%s", a.body)
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
	var p struct {
		Type, Title, Detail string
		Status              int
		Errors              []struct{ Field, Reason string }
	}
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&p), "%s", a.body)
	require.Equal(t, "about:blank", p.Type)
	require.Equal(t, http.StatusText(status), p.Title)
	require.Equal(t, status, p.Status)
	require.NotEmpty(t, p.Detail)
	var named []string
	for _, e := range p.Errors {
		require.NotEmpty(t, e.Reason)
		named = append(named, e.Field)
	}
	require.ElementsMatch(t, fields, named, "%s", a.body)
}

// apiState is all that a payment could have changed, as text: payments by state,
// queues, every balance and version, what the ledger holds.
func apiState(t *testing.T, s *apiServer) string {
	t.Helper()
	var all []string
	for _, target := range []string{s.admin + "/api/v1/admin/stats", s.public + "/api/v1/customers?limit=1000", s.admin + "/api/v1/admin/verify"} {
		a := apiCall(t, http.MethodGet, target, "")
		require.Equal(t, http.StatusOK, a.status, "%s", a.body)
		all = append(all, string(a.body))
	}
	return strings.Join(all, "\n")
}

// FuzzPaymentBody feeds whole bodies: what is taken obeys every rule.
func FuzzPaymentBody(f *testing.F) {
	f.Add([]byte(apiBody()))
	for _, c := range append(badFields(), badBodies()...) {
		if len(c.body) < 1000 {
			f.Add([]byte(c.body))
		}
	}
	identifies := regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._:-]*\z`)
	known := []string{"customer_id", "payment_status", "transaction_amount", "transaction_date", "transaction_reference"}
	f.Fuzz(func(t *testing.T, data []byte) {
		var body paymentBody
		if err := strictjson.Decode(bytes.NewReader(data), maxBody, &body); err != nil {
			refusal, ok := errors.AsType[*strictjson.Error](err)
			require.True(t, ok, "%v is not the client's fault", err)
			require.NotEmpty(t, refusal.Reason)
			return
		}
		p, faults := body.payment()
		require.Equal(t, p == nil, len(faults) > 0)
		if p == nil {
			var named []string
			for _, fault := range faults {
				require.Contains(t, known, fault.Field)
				require.NotEmpty(t, fault.Reason)
				named = append(named, fault.Field)
			}
			slices.Sort(named)
			require.Len(t, slices.Compact(named), len(faults), "a field is named once")
			return
		}
		require.Positive(t, p.Amount.Sign())
		require.True(t, p.Amount.Equal(p.Amount.Truncate(2)), p.Amount)
		require.True(t, p.Amount.LessThan(decimal.New(1, 13)), p.Amount)
		require.True(t, p.Amount.Equal(decimal.RequireFromString(*body.Amount)))
		date, err := time.Parse(time.DateTime, p.Date)
		require.NoError(t, err)
		require.Equal(t, *body.Date, date.Format(time.DateTime))
		require.Positive(t, date.Year(), "PostgreSQL has no year 0")
		for _, id := range []string{p.Reference, p.CustomerID} {
			require.LessOrEqual(t, len(id), 64)
			require.Regexp(t, identifies, id)
		}
		require.Contains(t, []string{"COMPLETE", "PENDING", "FAILED", "CANCELLED"}, p.BankStatus)
		require.Equal(t, p.BankStatus == "COMPLETE", p.posts())
		require.True(t, p.AcceptedAt.IsZero() && p.PostedAt.IsZero() && p.Reason == "")
	})
}

// What the command line must not say is refused before anything is opened, all at once.
func TestBadInputCommandLines(t *testing.T) {
	t.Parallel()
	for line, wants := range map[string][]string{
		"-data d -postgres u":             {"-data brings its own servers"},
		"-data d -redis u":                {"-data brings its own servers"},
		"-redis u":                        {"-redis needs -postgres"},
		"-workers 0 -pg-conns 0 -seed -1": {"-workers 0: must be in 1..1000", "-pg-conns 0: must be in 1..1000", "-seed -1: must be in 0..100000"},
		"-workers 1001 -pg-conns 1001 -seed 100001": {
			"-workers 1001: must be", "-pg-conns 1001: must be", "-seed 100001: must be",
		},
		"-bank-trouble -0.1": {"-bank-trouble -0.1: must be in 0..0.9"},
		"-bank-trouble 0.91": {"-bank-trouble 0.91: must be"},
		"-bank-trouble NaN":  {"-bank-trouble NaN: must be"},
		"-limit-ip -1":       {"-limit-ip -1: must be"},
		"serve":              {`unexpected argument "serve"`},
	} {
		_, err := parseOptions(append([]string{"-postgres=", "-redis="}, strings.Fields(line)...), io.Discard)
		for _, want := range wants {
			require.ErrorContains(t, err, want, line)
		}
	}
	_, err := parseOptions(strings.Fields("-postgres u -redis u -workers 1000 -pg-conns 1000 -seed 100000 -bank-trouble 0.9"), io.Discard)
	require.NoError(t, err)
}
