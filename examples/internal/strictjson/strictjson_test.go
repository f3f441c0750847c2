package strictjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/strictjson"
)

const limit = 64 << 10

type item struct {
	Amount string `json:"amount"`
	Count  int8   `json:"count"`
}

type document struct {
	CustomerID string          `json:"customer_id"`
	Note       *string         `json:"note"`
	Paid       bool            `json:"paid"`
	Size       float32         `json:"size"`
	Items      []item          `json:"items"`
	Matrix     [][]int         `json:"matrix"`
	At         time.Time       `json:"at"`
	Price      decimal.Decimal `json:"price"`
	Child      *document       `json:"child"`
	Plain      string
	Secret     string `json:"-"`
}

func decode(body string) (document, error) {
	var d document
	err := strictjson.Decode(strings.NewReader(body), limit, &d)
	return d, err
}

func TestDecodeRefusesWhatTwoReadersUnderstandDifferently(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, field, reason string }{
		"empty":                 {"", "", "body is empty"},
		"white space":           {" \n\t ", "", "body is empty"},
		"cut short":             {`{"customer_id":"a"`, "", "not valid JSON: unexpected EOF"},
		"syntax":                {`{"customer_id" "a"}`, "", "not valid JSON: invalid character '\"' after object key"},
		"array":                 {`[{}]`, "", "must be a JSON object"},
		"string":                {`"a"`, "", "must be a JSON object"},
		"null":                  {`null`, "", "must be a JSON object"},
		"second object":         {`{}{}`, "", "data after the JSON object"},
		"garbage after":         {`{} garbage`, "", "data after the JSON object"},
		"NUL after":             {"{}\x00", "", "data after the JSON object"},
		"byte order mark":       {"\ufeff{}", "", "not valid JSON: invalid character 'ï' looking for beginning of value"},
		"unknown key":           {`{"customer":"a"}`, "customer", "unknown key"},
		"empty key":             {`{"":"a"}`, "", "unknown key"},
		"hidden field":          {`{"Secret":"a"}`, "Secret", "unknown key"},
		"case variant":          {`{"Customer_ID":"a"}`, "Customer_ID", `unknown key; the field is spelled "customer_id"`},
		"case variant below":    {`{"child":{"MATRIX":[]}}`, "child.MATRIX", `unknown key; the field is spelled "matrix"`},
		"duplicate":             {`{"paid":true,"customer_id":"a","customer_id":"a"}`, "customer_id", "key appears twice"},
		"duplicate in disguise": {`{"paid":true,"p\u0061id":true}`, "paid", "key appears twice"},
		"duplicate below":       {`{"items":[{},{"amount":"1","amount":"2"}]}`, "items[1].amount", "key appears twice"},
		"number for string":     {`{"customer_id":7}`, "customer_id", "must be a string"},
		"object for string":     {`{"customer_id":{"a":1}}`, "customer_id", "must be a string"},
		"number below":          {`{"items":[{},{},{"amount":1e3}]}`, "items[2].amount", "must be a string"},
		"string for bool":       {`{"paid":"true"}`, "paid", "must be true or false"},
		"string for float":      {`{"size":"1"}`, "size", "must be a number in range"},
		"float too large":       {`{"size":1e99}`, "size", "must be a number in range"},
		"fraction for int":      {`{"items":[{"count":1.5}]}`, "items[0].count", "must be a whole number in range"},
		"int too large":         {`{"items":[{"count":128}]}`, "items[0].count", "must be a whole number in range"},
		"object for array":      {`{"items":{}}`, "items", "must be an array"},
		"array for object":      {`{"child":[]}`, "child", "must be an object"},
		"array element":         {`{"matrix":[[1],[2,"3"]]}`, "matrix[1][1]", "must be a whole number in range"},
		"not a time":            {`{"at":"yesterday"}`, "at", "is not valid"},
		"not a decimal":         {`{"price":"1,5"}`, "price", "is not valid"},
		"object for decimal":    {`{"price":{}}`, "price", "is not valid"},
		"null string":           {`{"customer_id":null}`, "customer_id", "must not be null"},
		"null pointer":          {`{"note":null}`, "note", "must not be null"},
		"null element":          {`{"items":[null]}`, "items[0]", "must not be null"},
		"invalid UTF-8":         {"{\"customer_id\":\"a\xff\"}", "", "invalid UTF-8"},
		"invalid UTF-8 in key":  {"{\"\xc3(\":\"a\"}", "", "invalid UTF-8"},
		"lone surrogate":        {`{"customer_id":"a\ud800"}`, "customer_id", "has an escape that is no character"},
		"lone surrogate in key": {`{"\udfff":"a"}`, "", "has an escape that is no character"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decode(c.body)
			refusal, ok := errors.AsType[*strictjson.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, c.field, refusal.Field)
			require.Equal(t, c.reason, refusal.Reason)
		})
	}
}

func TestDecodeAccepts(t *testing.T) {
	t.Parallel()
	d, err := decode(` {"customer_id":"é\"\\\/\u00e9😀\ud83d\ude00�" , "note":"","paid":true,"size":-1.5e1,
		"items":[{"amount":"1","count":-128},{}],"matrix":[[],[1,2]],"at":"2025-11-07T14:54:16Z",
		"price":"10.50","child":{"child":{"Plain":"x"}}}` + "\r\n")
	require.NoError(t, err)
	require.Equal(t, document{
		CustomerID: `é"\/é😀😀�`, Note: new(""), Paid: true, Size: -15,
		Items:  []item{{Amount: "1", Count: -128}, {}},
		Matrix: [][]int{{}, {1, 2}},
		At:     time.Date(2025, 11, 7, 14, 54, 16, 0, time.UTC), Price: decimal.RequireFromString("10.50"),
		Child: &document{Child: &document{Plain: "x"}},
	}, d)
}

func TestPointerTellsAbsentFromEmpty(t *testing.T) {
	t.Parallel()
	absent, err := decode(`{}`)
	require.NoError(t, err)
	require.Nil(t, absent.Note)
	empty, err := decode(`{"note":""}`)
	require.NoError(t, err)
	require.Equal(t, new(""), empty.Note)
}

func TestDepthIsBounded(t *testing.T) {
	t.Parallel()
	nested := func(levels int) string {
		return strings.Repeat(`{"child":`, levels-1) + "{}" + strings.Repeat("}", levels-1)
	}
	_, err := decode(nested(strictjson.MaxDepth))
	require.NoError(t, err)
	_, err = decode(nested(strictjson.MaxDepth + 1))
	require.ErrorContains(t, err, "child.child: more than 32 levels deep")
	deepest, err := decode(strings.Replace(nested(strictjson.MaxDepth), "{}", `{"customer_id":"a"}`, 1))
	require.NoError(t, err, "what nests no deeper is taken")
	d := &deepest
	for d.Child != nil {
		d = d.Child
	}
	require.Equal(t, "a", d.CustomerID)
	_, err = decode(`{"items":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}")
	require.ErrorContains(t, err, "exceeded max depth")
}

func TestLimit(t *testing.T) {
	t.Parallel()
	const body = `{"customer_id":"GIG00001"}`
	var d document
	require.NoError(t, strictjson.Decode(strings.NewReader(body), int64(len(body)), &d))
	endless := io.MultiReader(strings.NewReader(body), neverEnds{})
	err := strictjson.Decode(endless, int64(len(body)), &d)
	require.ErrorIs(t, err, strictjson.ErrTooLarge)
	require.EqualError(t, err, "body is larger than 26 bytes")
	_, err = decode(`{"` + strings.Repeat("é", 30_000) + `":1}`)
	require.Less(t, len(err.Error()), 100, "the client's key is not echoed whole")
	_, err = decode(`{"a` + strings.Repeat("é", 40) + `":1}`)
	require.True(t, utf8.ValidString(err.Error()), "nor is half a character of it")
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) { return copy(p, " "), nil }

// A field that is none of JSON's is not to be set by a client, whatever the key.
func TestAFieldThatIsHiddenIsNotSet(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"-", "Secret", "hidden"} {
		var d struct {
			Secret string `json:"-"`
			hidden string
		}
		err := strictjson.Decode(strings.NewReader(`{"`+key+`":"x"}`), limit, &d)
		require.ErrorContains(t, err, "unknown key", key)
		require.Empty(t, d.Secret+d.hidden)
	}
}

// Which keys have been there is kept in 64 bits.
func TestAsManyFieldsAsCanBeToldApart(t *testing.T) {
	t.Parallel()
	decode := func(fields int) error {
		all := make([]reflect.StructField, fields)
		for i := range all {
			all[i] = reflect.StructField{Name: fmt.Sprint("F", i), Type: reflect.TypeFor[string]()}
		}
		last := all[fields-1].Name
		body := fmt.Sprintf(`{%q:"x",%q:"y"}`, last, last)
		return strictjson.Decode(strings.NewReader(body), limit, reflect.New(reflect.StructOf(all)).Interface())
	}
	require.ErrorContains(t, decode(64), "key appears twice")
	require.ErrorContains(t, decode(65), "more than 64 fields are not supported")
}

func TestFaultsThatAreNotTheClients(t *testing.T) {
	t.Parallel()
	var text string
	for name, dst := range map[string]any{
		"nil": nil, "value": document{}, "nil pointer": (*document)(nil), "no struct": &text,
		"map":      &struct{ A map[string]int }{},
		"any":      &struct{ A any }{},
		"embedded": &struct{ document }{},
		"quoted": &struct {
			A int `json:",string"`
		}{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := strictjson.Decode(strings.NewReader(`{"A":{}}`), limit, dst)
			_, refusal := errors.AsType[*strictjson.Error](err)
			require.Error(t, err)
			require.False(t, refusal, "%v", err)
		})
	}
	broken := errors.New("broken")
	require.ErrorIs(t, strictjson.Decode(iotest.ErrReader(broken), limit, new(document)), broken)
}

// TestNothingOfTheBufferIsKept closes the trap of a pooled buffer: a string that
// points into it would change with the next request.
func TestNothingOfTheBufferIsKept(t *testing.T) {
	first, err := decode(`{"customer_id":"aaaa","items":[{"amount":"bbbb"}],"at":"2025-11-07T14:54:16Z"}`)
	require.NoError(t, err)
	for range 10 {
		_, err = decode(`{"customer_id":"zzzz","items":[{"amount":"zzzz"}],"at":"2026-11-07T14:54:16Z"}`)
		require.NoError(t, err)
	}
	require.Equal(t, "aaaa", first.CustomerID)
	require.Equal(t, "bbbb", first.Items[0].Amount)
}

// FuzzDecode holds the promise of the package: what it accepts, encoding/json
// accepts with an equal result, and no key of it appears twice.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "{}{}", "null", `{"customer_id":"a","customer_id":"b"}`, `{"Customer_id":"a"}`,
		`{"customer_id":"\ud83d\ude00\ufffd\u0000","note":"","paid":true,"size":1e3}`,
		`{"items":[{"amount":"1","count":-128},{}],"matrix":[[],[1,2]],"at":"2025-11-07T14:54:16Z","price":"10.50"}`,
		`{"child":{"child":{"Plain":"x","p\u0061id":false}}}`, `{"price":1e5}`, "{\"note\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got, want document
		if err := strictjson.Decode(bytes.NewReader(body), limit, &got); err != nil {
			return
		}
		lenient := json.NewDecoder(bytes.NewReader(body))
		lenient.DisallowUnknownFields()
		require.NoError(t, lenient.Decode(&want))
		require.Equal(t, want, got)
		require.LessOrEqual(t, len(body), limit)
		tokens := json.NewDecoder(bytes.NewReader(body))
		tokens.UseNumber()
		requireDistinctKeys(t, tokens, 1)
		_, err := tokens.Token()
		require.Equal(t, io.EOF, err)
	})
}

// requireDistinctKeys reads one value, with a reader that shares nothing with the one under test.
func requireDistinctKeys(t *testing.T, tokens *json.Decoder, depth int) {
	require.LessOrEqual(t, depth, strictjson.MaxDepth+1)
	token, err := tokens.Token()
	require.NoError(t, err)
	delim, ok := token.(json.Delim)
	if !ok {
		return
	}
	keys := map[string]bool{}
	for tokens.More() {
		if delim == '{' {
			token, err = tokens.Token()
			require.NoError(t, err)
			require.False(t, keys[token.(string)], "key %q twice", token)
			keys[token.(string)] = true
		}
		requireDistinctKeys(t, tokens, depth+1)
	}
	_, err = tokens.Token()
	require.NoError(t, err)
}

type payment struct {
	CustomerID *string `json:"customer_id"`
	Status     *string `json:"payment_status"`
	Amount     *string `json:"transaction_amount"`
	Date       *string `json:"transaction_date"`
	Reference  *string `json:"transaction_reference"`
}

const paymentBody = `{"customer_id":"GIG00001","payment_status":"COMPLETE","transaction_amount":"10000",` +
	`"transaction_date":"2025-11-07 14:54:16","transaction_reference":"VPAY25110713542114478761522000"}`

func TestPaymentAllocates(t *testing.T) {
	r := strings.NewReader(paymentBody)
	var p payment
	allocs := testing.AllocsPerRun(1000, func() {
		r.Reset(paymentBody)
		require.NoError(t, strictjson.Decode(r, limit, &p))
	})
	// Ten for five fields (a pointer and its text), one for the reader's limit.
	require.LessOrEqual(t, allocs, 12.0)
}

func BenchmarkPayment(b *testing.B) {
	r := strings.NewReader(paymentBody)
	var p payment
	b.Run("strictjson", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Reset(paymentBody)
			if err := strictjson.Decode(r, limit, &p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Reset(paymentBody)
			p = payment{}
			d := json.NewDecoder(io.LimitReader(r, limit))
			d.DisallowUnknownFields()
			if err := d.Decode(&p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestEncode(t *testing.T) {
	t.Parallel()
	require.JSONEq(t, `{"a":"1.50"}`, string(strictjson.Encode(map[string]string{"a": "1.50"})))
	require.Panics(t, func() { strictjson.Encode(make(chan int)) })
}
