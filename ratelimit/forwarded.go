package ratelimit

import (
	"net/netip"
	"strings"
)

// parseForwarded reads the address that an element of a Forwarded field (RFC 7239, section 4) has in its parameter "for". The element has to be well
// formed as a whole: a client may have a say in its other parameters, such as "host", and must not be able to write a "for" of its own into them.
// An element that names nobody, or hides whom, has no address.
func parseForwarded(element string) (a netip.Addr, ok bool) {
	rest, found := element, false
	for {
		rest = strings.Trim(rest, " \t")
		switch {
		case rest == "":
			return a, ok
		case rest[0] == ';':
			rest = rest[1:]
			continue
		}
		name, value, after, wellFormed := cutPair(rest)
		isFor := strings.EqualFold(name, "for")
		if !wellFormed || isFor && found {
			return netip.Addr{}, false
		}
		if isFor {
			found = true
			a, ok = parseAddress(value)
		}
		rest = after
	}
}

// cutPair cuts a forwarded-pair off, up to the semicolon behind it. A value without quotes may be an address with a port, too, which RFC 7239 wants in quotes.
func cutPair(s string) (name, value, after string, ok bool) {
	name, s, _ = strings.Cut(s, "=")
	if name == "" || strings.ContainsFunc(name, notInToken) || s == "" {
		return "", "", "", false
	}
	if s[0] != '"' {
		end := strings.IndexByte(s, ';')
		if end < 0 {
			end = len(s)
		}
		value = strings.TrimRight(s[:end], " \t")
		ok = value != "" && !strings.ContainsFunc(value, func(c rune) bool { return notInToken(c) && c != ':' && c != '[' && c != ']' })
		return name, value, s[end:], ok
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			after = strings.TrimLeft(s[i+1:], " \t")
			return name, s[1:i], after, after == "" || after[0] == ';'
		case c == '\\':
			i++ // no address has an escape: the value is not one, then
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", "", "", false
		}
	}
	return "", "", "", false
}

// notInToken tells whether a character must not be in a token (RFC 9110, section 5.6.2).
func notInToken(c rune) bool {
	return c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
}
