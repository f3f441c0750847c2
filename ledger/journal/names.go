package journal

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/safetill/safetill/ledger"
)

// parts splits an id at its colons. One with an empty part is a single one.
func parts(id string) []string {
	p := strings.Split(id, ":")
	if slices.Contains(p, "") {
		return []string{id}
	}
	return p
}

// escape appends s to b with each byte of a rune that keep refuses as mark and
// two hexadecimal digits.
func escape(b *strings.Builder, s string, mark byte, keep func(rune) bool) {
	for i, c := range s {
		n := utf8.RuneLen(c)
		if c == utf8.RuneError { // also a byte that is not UTF-8, which no id has
			_, n = utf8.DecodeRuneInString(s[i:])
		} else if keep(c) {
			b.WriteRune(c)
			continue
		}
		for _, x := range []byte(s[i : i+n]) {
			fmt.Fprintf(b, "%c%02X", mark, x)
		}
	}
}

// hledgerKeeps: what means nothing to hledger anywhere in a name.
func hledgerKeeps(c rune) bool {
	return unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("-_./@+", c)
}

func hledgerName(root Root, id ledger.AccountID) string {
	var b strings.Builder
	b.WriteString(string(root))
	for _, part := range parts(string(id)) {
		b.WriteByte(':')
		escape(&b, part, '%', hledgerKeeps)
	}
	return b.String()
}

// hledgerCode is a transaction's id as its code, which ends at a parenthesis.
func hledgerCode(id ledger.TransactionID) string {
	var b strings.Builder
	escape(&b, string(id), '%', func(c rune) bool { return c == ':' || hledgerKeeps(c) })
	return b.String()
}

// hledgerCurrency: a symbol with digits stands in quotes.
func hledgerCurrency(code string) string {
	if strings.ContainsAny(code, "0123456789") {
		return `"` + code + `"`
	}
	return code
}

// verbatim marks a part of a Beancount name whose first character is its own. No
// other part has it: a '-' is always followed by two digits there.
const verbatim = "0--"

func beancountName(root Root, id ledger.AccountID) string {
	var b strings.Builder
	b.WriteString(string(root))
	for _, part := range parts(string(id)) {
		b.WriteByte(':')
		switch first := part[0]; {
		case first >= 'a' && first <= 'z':
			b.WriteByte(first - 'a' + 'A')
			part = part[1:]
		case first < '0' || first > '9':
			b.WriteString(verbatim)
		}
		escape(&b, part, '-', func(c rune) bool {
			return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		})
	}
	return b.String()
}

// beancountCurrency: two characters or more, the first a letter. No code of a
// ledger has a point.
func beancountCurrency(code string) string {
	if len(code) < 2 || code[0] >= '0' && code[0] <= '9' {
		return "X." + code
	}
	return code
}

// beancountText is s as a string of a Beancount file.
func beancountText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
