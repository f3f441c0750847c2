package ratelimit

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Told is what the fields of an answer tell its client of one limit. It is a hint and no promise; Retry-After is to be obeyed before it.
type Told struct {
	Name      string
	Rate      int64         // q: units in a Window; -1 if RateLimit-Policy does not name the limit
	Window    time.Duration // w; 0 if it is not told
	Remaining int64         // r: units that are left; -1 if RateLimit does not name the limit
	Reset     time.Duration // t: no more than Remaining may be used within this time; -1 if it is not told
}

// ParseFields reads the fields RateLimit-Policy and RateLimit of an answer, as [Draft11] writes them: it is for clients. Limits are in the order in which they
// are first named. Parameters that it does not know are left out. If anything is malformed, or over 64 members are there, nothing is told: the draft wants such
// fields ignored.
func ParseFields(h http.Header) ([]Told, error) {
	var all []Told
	of := func(name string) *Told {
		i := slices.IndexFunc(all, func(t Told) bool { return t.Name == name })
		if i < 0 {
			i = len(all)
			all = append(all, Told{Name: name, Rate: -1, Remaining: -1, Reset: -1})
		}
		return &all[i]
	}
	for _, m := range parseList(h[policyField]) {
		q, w := m.parameters["q"], m.parameters["w"]
		if m.fault != "" || !q.is() || w.there && (!w.is() || w.n == 0) {
			return nil, invalid("RateLimit-Policy", "is malformed"+m.fault)
		}
		t := of(m.name)
		t.Rate, t.Window = q.n, seconds(w.n)
	}
	for _, m := range parseList(h[limitField]) {
		r, reset := m.parameters[draft11.available], m.parameters[draft11.window]
		if m.fault != "" || !r.is() || reset.there && !reset.is() {
			return nil, invalid("RateLimit", "is malformed"+m.fault)
		}
		t := of(m.name)
		t.Remaining, t.Reset = r.n, -1
		if reset.there {
			t.Reset = seconds(reset.n)
		}
	}
	return all, nil
}

func seconds(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Second))) * time.Second
}

// member is one of a List of RFC 9651 whose members are Strings.
type member struct {
	name       string
	parameters map[string]parameter
	fault      string // the last one has it, if there is one
}

type parameter struct {
	there, integer bool
	n              int64
}

// is tells whether the parameter is an Integer that is not negative.
func (p parameter) is() bool { return p.there && p.integer && p.n >= 0 }

const maxMembers = 64

// parseList parses the lines of a field (RFC 9651, section 4.2.1).
func parseList(lines []string) (members []member) {
	p := parser{rest: strings.Join(lines, ",")}
	p.skip(" ")
	for first := true; p.rest != "" && p.fault == ""; first = false {
		if !first {
			p.need(",")
			p.skip(" \t")
			if p.rest == "" {
				p.fail("a comma at the end")
			}
		}
		if len(members) == maxMembers {
			p.fail("too many members")
		}
		members = append(members, p.member())
		p.skip(" \t")
	}
	if p.fault != "" {
		members[len(members)-1].fault = p.fault
	}
	return members
}

// parser reads from the front. After a fault it reads nothing more.
type parser struct{ rest, fault string }

func (p *parser) fail(what string) {
	if p.fault == "" {
		p.fault = fmt.Sprintf(": %s, %d bytes before the end", what, len(p.rest))
	}
	p.rest = ""
}

func (p *parser) skip(chars string) { p.rest = strings.TrimLeft(p.rest, chars) }

func (p *parser) at(c string) bool { return strings.HasPrefix(p.rest, c) }

func (p *parser) need(c string) {
	if !p.at(c) {
		p.fail("no " + c)
		return
	}
	p.rest = p.rest[len(c):]
}

// span cuts off what is made of the characters.
func (p *parser) span(in func(c byte) bool) (text string) {
	n := 0
	for n < len(p.rest) && in(p.rest[n]) {
		n++
	}
	text, p.rest = p.rest[:n], p.rest[n:]
	return text
}

func (p *parser) member() member {
	m := member{name: p.str(), parameters: map[string]parameter{}}
	for p.at(";") {
		p.need(";")
		p.skip(" ")
		if !p.at("*") && (p.rest == "" || !lower(p.rest[0])) {
			p.fail("no key")
		}
		key := p.span(func(c byte) bool { return lower(c) || digit(c) || strings.IndexByte("_-.*", c) >= 0 })
		value := parameter{there: true}
		if p.at("=") {
			p.need("=")
			value.integer, value.n = p.bareItem()
		}
		m.parameters[key] = value
	}
	return m
}

func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func digit(c byte) bool { return c >= '0' && c <= '9' }

// str parses a String.
func (p *parser) str() string {
	p.need(`"`)
	var text []byte
	for p.rest != "" {
		c := p.rest[0]
		p.rest = p.rest[1:]
		switch {
		case c == '"':
			return string(text)
		case c == '\\' && p.rest != "" && (p.rest[0] == '"' || p.rest[0] == '\\'):
			c, p.rest = p.rest[0], p.rest[1:]
		case c == '\\' || c < ' ' || c > '~':
			p.fail("a character that no string has")
		}
		text = append(text, c)
	}
	p.fail("no closing quote")
	return ""
}

// bareItem parses a value; of integers it tells which.
func (p *parser) bareItem() (integer bool, n int64) {
	if p.rest == "" {
		p.fail("no value")
		return false, 0
	}
	switch c := p.rest[0]; {
	case c == '-' || digit(c):
		return p.number()
	case c == '"':
		p.str()
	case c == '*' || lower(c|0x20):
		p.span(func(c byte) bool { return c == ':' || c == '/' || c == '*' || !notInToken(rune(c)) })
	case c == ':':
		p.need(":")
		p.span(func(c byte) bool { return lower(c|0x20) || digit(c) || c == '+' || c == '/' || c == '=' })
		p.need(":")
	case c == '?':
		p.need("?")
		if !p.at("0") && !p.at("1") {
			p.fail("no boolean")
			return false, 0
		}
		p.rest = p.rest[1:]
	case c == '@':
		p.need("@")
		if whole, _ := p.number(); !whole {
			p.fail("no date")
		}
	case c == '%':
		p.need("%")
		p.str()
	default:
		p.fail("no value")
	}
	return false, 0
}

// number parses an Integer or a Decimal.
func (p *parser) number() (integer bool, n int64) {
	sign := int64(1)
	if p.at("-") {
		p.need("-")
		sign = -1
	}
	whole, fraction := p.span(digit), ""
	point := p.at(".")
	if point {
		p.need(".")
		fraction = p.span(digit)
	}
	switch {
	case whole == "" || len(whole) > 15, point && (len(whole) > 12 || fraction == "" || len(fraction) > 3):
		p.fail("no number")
		return false, 0
	}
	for _, c := range []byte(whole) {
		n = n*10 + int64(c-'0')
	}
	return !point, sign * n
}
