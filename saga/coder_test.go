package saga_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

type (
	lower string
	even  int
	Inner struct{ Code string }
)

func (l lower) MarshalText() ([]byte, error) { return []byte(strings.ToLower(string(l))), nil }

func (e even) IsZero() bool { return e%2 == 1 }

// What Wait returns of a saga that has run here is what anybody reads, whatever JSON
// drops and changes.
func TestTheResultIsWhatIsKept(t *testing.T) {
	t.Parallel()
	type every struct {
		Name   string `json:"name,omitempty"`
		Amount int64  `json:"amount"`
		Small  [2]uint8
		Sub    Inner
		Yes    bool
	}
	kept(t, every{"a <b> \u2028 \ufffd", -1 << 63, [2]uint8{1, 255}, Inner{`\ufffd`}, true}, every{Sub: Inner{"x"}}, every{Name: "\xff"})
	kept(t, "text", "", "\xff", `\ufffd`)
	kept(t, struct{ hidden string }{"a"})
	kept(t, struct {
		A string `json:"-"`
		B string
	}{"a", "b"})
	kept(t, struct {
		A string `json:"a,string"`
	}{"a"})
	kept(t, struct {
		A string `json:"B"`
		B string
	}{"a", "b"})
	kept(t, struct {
		A string `json:"b"`
		B string
	}{"a", "b"})
	kept(t, struct {
		Inner
		Code string
	}{Inner{"a"}, "b"})
	kept(t, lower("ABC"))
	kept(t, struct{ Sub [1]lower }{[1]lower{"ABC"}})
	kept(t, struct {
		A even `json:",omitzero"`
	}{3})
}

// kept runs a saga on each value, and looks at the results from here and from elsewhere.
func kept[T comparable](t *testing.T, values ...T) {
	t.Helper()
	change := func(to T) saga.Func[T] {
		return func(_ context.Context, data *T) error {
			*data = to
			return nil
		}
	}
	for _, v := range values {
		def := saga.MustDefine("kept", 1, saga.Step("a", change(v)).Undo(change(v)), saga.Pure("b", change(v)))
		e := engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
		for id, data := range map[string]T{"as it began": v, "changed": *new(T)} {
			h, err := def.Start(within(t), e, id, data, nil)
			require.NoError(t, err)
			got, err := h.Wait(within(t))
			require.NoError(t, err)
			require.NoError(t, got.Err())
			rec, err := e.Admin().Inspect(within(t), id)
			require.NoError(t, err)
			want, err := def.Data(rec)
			require.NoError(t, err)
			require.Equal(t, want, got.Data)
		}
	}
}
