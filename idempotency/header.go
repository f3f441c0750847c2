package idempotency

import (
	"fmt"
	"strconv"
	"strings"
)

// headerName is the header field that carries the client's key.
const headerName = "Idempotency-Key"

// ParseKey returns the key that the lines of a request's Idempotency-Key header hold; give it
// r.Header["Idempotency-Key"]. Of a key in quotes the quotes and escapes are removed, so that "abc" and abc are the
// same key. Its length is 1 to 255 bytes, each of them printable ASCII.
//
// The grammar (RFC 5234) is that of draft-ietf-httpapi-idempotency-key-header, a String of RFC 9651 section 3.3.3, and
// beside it the raw form that many clients send:
//
//	key     = quoted / raw
//	quoted  = DQUOTE *( %x20-21 / %x23-5B / %x5D-7E / "\" DQUOTE / "\\" ) DQUOTE
//	raw     = 1*( %x21 / %x23-2B / %x2D-3A / %x3C-5B / %x5D-7E )
//
// A raw key has no space, quote, comma, semicolon or backslash. A comma is how a proxy joins two header lines, a
// semicolon begins the parameters of a structured field; a client that wants them in its key puts it in quotes.
// Parameters after a quoted key are refused rather than ignored: they might be meant to tell two keys apart.
//
// The error is an [*InvalidError] whose Field is "Idempotency-Key". It does not hold the key.
func ParseKey(lines []string) (string, error) {
	key, fault := parseKey(lines)
	if fault != "" {
		return "", &InvalidError{Field: headerName, Reason: fault}
	}
	if key == "" || len(key) > maxPart {
		return "", invalidLength(headerName, key)
	}
	return key, nil
}

// parseKey returns a key of any length, or what is wrong, to follow the field's name.
func parseKey(lines []string) (key, fault string) {
	switch len(lines) {
	case 0:
		return "", "is missing"
	case 1:
	default:
		return "", "is there " + strconv.Itoa(len(lines)) + " times instead of once"
	}
	s := strings.Trim(lines[0], " ")
	if strings.HasPrefix(s, `"`) {
		return parseQuoted(s)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~':
			return "", unprintable(c)
		case c == ' ' || c == '"' || c == ',' || c == ';' || c == '\\':
			return "", "has " + strconv.QuoteRune(rune(c)) + ", which a key without quotes must not have"
		}
	}
	return s, ""
}

// parseQuoted parses s, which begins with a quote. Without an escape the key is a part of s and costs nothing.
func parseQuoted(s string) (key, fault string) {
	var unescaped []byte
	from := 1 // the bytes before it are the opening quote, or in unescaped
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c < ' ' || c > '~':
			return "", unprintable(c)
		case c == '"' && i+1 < len(s):
			return "", "goes on after its closing quote"
		case c == '"' && unescaped == nil:
			return s[from:i], ""
		case c == '"':
			return string(append(unescaped, s[from:i]...)), ""
		case c == '\\':
			unescaped = append(unescaped, s[from:i]...)
			i++
			if i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", "has a backslash that is before neither a quote nor a backslash"
			}
			from = i // the escaped byte goes with those that follow
		}
	}
	return "", "has no closing quote"
}

func unprintable(c byte) string {
	return fmt.Sprintf("has the byte 0x%02x, which is not printable ASCII", c)
}
