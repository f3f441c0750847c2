package idempotency_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	full := strings.Repeat("x", 255)
	for _, c := range []struct {
		name   string
		lines  []string
		key    string
		reason string // of the refusal
	}{
		{"raw", []string{`abc`}, `abc`, ""},
		{"quoted", []string{`"abc"`}, `abc`, ""},
		{"uuid raw", []string{`8e03978e-40d5-43e8-bc93-6894a57f9324`}, `8e03978e-40d5-43e8-bc93-6894a57f9324`, ""},
		{"uuid quoted", []string{`"8e03978e-40d5-43e8-bc93-6894a57f9324"`}, `8e03978e-40d5-43e8-bc93-6894a57f9324`, ""},
		{"one byte", []string{`x`}, `x`, ""},
		{"one byte quoted", []string{`"x"`}, `x`, ""},
		{"spaces around", []string{`  abc `}, `abc`, ""},
		{"spaces around quoted", []string{` "abc"  `}, `abc`, ""},
		{"spaces are part of a quoted key", []string{`" a b "`}, ` a b `, ""},
		{"a list of one in quotes", []string{`"a, b;c=d"`}, `a, b;c=d`, ""},
		{"escaped quote", []string{`"a\"b"`}, `a"b`, ""},
		{"escaped backslash", []string{`"a\\b"`}, `a\b`, ""},
		{"only escapes", []string{`"\\\""`}, `\"`, ""},
		{"escape at both ends", []string{`"\"abc\""`}, `"abc"`, ""},
		{"an escaped backslash before the closing quote", []string{`"abc\\"`}, `abc\`, ""},
		{"base64", []string{`aGVsbG8+d29ybGQ/IQ==`}, `aGVsbG8+d29ybGQ/IQ==`, ""},
		{"byte sequence", []string{`:aGVsbG8=:`}, `:aGVsbG8=:`, ""},
		{"all printable ASCII", []string{`" !#$%&'()*+,-./0123456789:;<=>?@AZ[]^_` + "`" + `az{|}~"`}, ` !#$%&'()*+,-./0123456789:;<=>?@AZ[]^_` + "`" + `az{|}~`, ""},
		{"255 bytes", []string{full}, full, ""},
		{"255 bytes quoted", []string{`"` + full + `"`}, full, ""},
		{"255 bytes after escapes", []string{`"` + strings.Repeat(`\\`, 255) + `"`}, strings.Repeat(`\`, 255), ""},

		{"no line", nil, "", "is missing"},
		{"two lines", []string{`abc`, `def`}, "", "is there 2 times instead of once"},
		{"two equal lines", []string{`abc`, `abc`}, "", "is there 2 times instead of once"},
		{"an empty line more", []string{`abc`, ``}, "", "is there 2 times instead of once"},
		{"empty", []string{``}, "", "is empty"},
		{"blank", []string{`   `}, "", "is empty"},
		{"empty quoted", []string{`""`}, "", "is empty"},
		{"256 bytes", []string{full + "x"}, "", "is 256 bytes long, more than 255"},
		{"256 bytes quoted", []string{`"x` + full + `"`}, "", "is 256 bytes long, more than 255"},
		{"256 bytes after escapes", []string{`"` + strings.Repeat(`\"`, 256) + `"`}, "", "is 256 bytes long, more than 255"},
		{"list", []string{`abc,def`}, "", "has ',', which a key without quotes must not have"},
		{"list with a space", []string{`abc, def`}, "", "has ',', which"},
		{"list of quoted", []string{`"abc", "def"`}, "", "goes on after its closing quote"},
		{"a byte after the quotes", []string{`"abc"d`}, "", "goes on after its closing quote"},
		{"parameter", []string{`"abc";v=1`}, "", "goes on after its closing quote"},
		{"parameter of a raw key", []string{`abc;v=1`}, "", "has ';', which"},
		{"inner list", []string{`("abc")`}, "", `has '"', which`},
		{"space inside", []string{`abc def`}, "", "has ' ', which"},
		{"quote inside", []string{`abc"def`}, "", `has '"', which`},
		{"closing quote only", []string{`abc"`}, "", `has '"', which`},
		{"backslash", []string{`abc\`}, "", `has '\\', which`},
		{"opening quote only", []string{`"abc`}, "", "has no closing quote"},
		{"a quote and nothing", []string{`"`}, "", "has no closing quote"},
		{"closing quote escaped", []string{`"abc\"`}, "", "has no closing quote"},
		{"escape of a letter", []string{`"a\bc"`}, "", "has a backslash that is before neither"},
		{"escape of nothing", []string{`"abc\`}, "", "has a backslash that is before neither"},
		{"tab before", []string{"\tabc"}, "", "has the byte 0x09, which is not printable ASCII"},
		{"tab in quotes", []string{"\"a\tbc\""}, "", "has the byte 0x09"},
		{"nul", []string{"a\x00"}, "", "has the byte 0x00"},
		{"newline", []string{"\"a\nb\""}, "", "has the byte 0x0a"},
		{"delete", []string{"a\x7f"}, "", "has the byte 0x7f"},
		{"delete in quotes", []string{"\"\x7f\""}, "", "has the byte 0x7f"},
		{"utf-8", []string{"schlüssel"}, "", "has the byte 0xc3"},
		{"utf-8 in quotes", []string{"\"ключ\""}, "", "has the byte 0xd0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			key, err := idempotency.ParseKey(c.lines)
			if c.reason == "" {
				require.NoError(t, err)
				require.Equal(t, c.key, key)
				return
			}
			require.Empty(t, key)
			require.ErrorIs(t, err, idempotency.ErrInvalid)
			invalid, ok := errors.AsType[*idempotency.InvalidError](err)
			require.True(t, ok)
			require.Equal(t, "Idempotency-Key", invalid.Field)
			require.Contains(t, invalid.Reason, c.reason)
		})
	}
}

// The grammar a second time, as its ABNF has it.
var (
	quotedKey = regexp.MustCompile(`^ *"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)" *$`)
	rawKey    = regexp.MustCompile(`^ *([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+) *$`)
	escape    = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	unescape  = strings.NewReplacer(`\\`, `\`, `\"`, `"`)
)

// parseByRegexp is what ParseKey must agree with.
func parseByRegexp(line string) (string, bool) {
	var key string
	if m := quotedKey.FindStringSubmatch(line); m != nil {
		key = unescape.Replace(m[1])
	} else if m := rawKey.FindStringSubmatch(line); m != nil {
		key = m[1]
	}
	return key, key != "" && len(key) <= 255
}

func FuzzParseKey(f *testing.F) {
	for _, line := range []string{
		`abc`, `"abc"`, ` "a\"b\\" `, `"a\b"`, `"a`, `"a" b`, `"a";v=1`, `a,b`, "", `""`, `"\`, "a\tb", "\"\x7f\"", "ключ",
		strings.Repeat("x", 256), `"` + strings.Repeat(`\\`, 255) + `"`, `"a\" `,
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, err := idempotency.ParseKey([]string{line})
		want, ok := parseByRegexp(line)
		if !ok {
			require.ErrorIs(t, err, idempotency.ErrInvalid)
			require.Empty(t, key)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, key)
		// Put in quotes, a key is the same key; so is a raw one between mere quotes.
		again, err := idempotency.ParseKey([]string{`"` + escape.Replace(key) + `"`})
		require.NoError(t, err)
		require.Equal(t, key, again)
		if trimmed := strings.Trim(line, " "); trimmed[0] != '"' {
			quoted, err := idempotency.ParseKey([]string{`"` + trimmed + `"`})
			require.NoError(t, err)
			require.Equal(t, key, quoted)
		}
	})
}

// A key without escapes is a part of its header line.
func TestParseKeyAllocatesNothing(t *testing.T) {
	for _, line := range []string{`8e03978e-40d5-43e8-bc93-6894a57f9324`, `"8e03978e-40d5-43e8-bc93-6894a57f9324"`} {
		lines := []string{line}
		require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = idempotency.ParseKey(lines) }))
	}
}
