package ratelimit

import (
	"net/http"
	"net/netip"
	"strings"
)

// ClientIP returns a key function of the client's address: that of the connection, or, where that is one of the trusted proxies, what they tell. It is
// [ClientAddress.Key] with its defaults.
func ClientIP(trusted ...netip.Prefix) func(*http.Request) (string, bool) {
	c := ClientAddress{Trusted: trusted}
	return c.Key
}

// ClientAddress finds out the address of a request's client.
//
// Each proxy adds at the right of a header field whom it has the request from; what is further left is hearsay. So the field is read from the right: as
// long as an address is a trusted proxy's, what it has added is believed, and the first that is not is the client. A field that comes from anyone else
// is not looked at. What is no address, such as "unknown", ends the way: the client is then the last proxy that could be believed, so that all who
// hide behind it share a limit. The same holds after 32 proxies.
//
// The proxies must be told to add to the field. If they leave it as the client wrote it, the client chooses its address.
type ClientAddress struct {
	// Trusted are the addresses of your own proxies, as their connections come from.
	// Default: none; the field is not looked at.
	Trusted []netip.Prefix
	// Header is the field that your proxies write. "Forwarded" is read as RFC 7239 says, any other as a list of addresses. It is the only one that is read:
	// a proxy that writes one passes on the others as the client wrote them.
	// Default: "X-Forwarded-For".
	Header string
	// IPv6Bits is how much of an IPv6 address makes the key. A client has a /64 at least, and with it more addresses than there are
	// counters; a customer of a hosting provider may have a /56 or /48.
	// Default, and what is not 1 to 128: 64.
	IPv6Bits int
}

const (
	maxHops    = 32
	maxAddress = 64 // bytes of an address with brackets, zone and port
)

// Key is the address as a key, such as "192.0.2.1" or "2001:db8:0:1::/64". It is false if the connection has no address, as one by a Unix socket.
func (c *ClientAddress) Key(r *http.Request) (string, bool) {
	a, ok := c.Of(r)
	if !ok {
		return "", false
	}
	var room [64]byte
	if a.Is4() {
		return string(a.AppendTo(room[:0])), true
	}
	bits := c.IPv6Bits
	if bits < 1 || bits > 128 {
		bits = 64
	}
	net, err := a.Prefix(bits)
	if err != nil {
		return "", false // cannot be: the bits are in bounds
	}
	return string(net.AppendTo(room[:0])), true
}

// Of is the client's address: without zone, and an IPv4 address always as such.
func (c *ClientAddress) Of(r *http.Request) (netip.Addr, bool) {
	hop, ok := parseAddress(r.RemoteAddr)
	if !ok || !c.trusts(hop) {
		return hop, ok
	}
	name, read := "X-Forwarded-For", parseAddress
	if c.Header != "" {
		name = http.CanonicalHeaderKey(c.Header)
	}
	if name == "Forwarded" {
		read = parseForwarded
	}
	told := field{lines: r.Header[name]}
	for range maxHops {
		element, ok := told.last()
		if !ok {
			break
		}
		before, ok := read(element)
		if !ok {
			break
		}
		if hop = before; !c.trusts(hop) {
			break
		}
	}
	return hop, true
}

// trusts tells whether an address is a proxy's.
func (c *ClientAddress) trusts(a netip.Addr) bool {
	for _, p := range c.Trusted {
		if p.Contains(a) || p.Addr().Is4In6() && p.Bits() >= 96 && netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Contains(a) {
			return true
		}
	}
	return false
}

// field is what is left to read of a header field: whole lines, and of the one behind them a part that has been read up to a comma.
type field struct {
	lines []string
	part  string
	open  bool // there is a part
}

// last returns the last element and forgets it. An element in quotes that has a comma comes in pieces, of which none is well formed.
func (f *field) last() (element string, ok bool) {
	if !f.open {
		if len(f.lines) == 0 {
			return "", false
		}
		f.part, f.lines = f.lines[len(f.lines)-1], f.lines[:len(f.lines)-1]
	}
	comma := strings.LastIndexByte(f.part, ',')
	element = f.part[comma+1:]
	f.part, f.open = f.part[:max(comma, 0)], comma >= 0
	return element, true
}

// parseAddress reads an address with or without a port: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80.
func parseAddress(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	if s == "" || len(s) > maxAddress {
		return netip.Addr{}, false
	}
	var a netip.Addr
	var err error
	bracket, colon := s[0] == '[', strings.IndexByte(s, ':')
	switch {
	case bracket && s[len(s)-1] == ']':
		if a, err = netip.ParseAddr(s[1 : len(s)-1]); a.Is4() {
			return a, false
		}
	case bracket || colon >= 0 && colon == strings.LastIndexByte(s, ':'):
		var p netip.AddrPort
		p, err = netip.ParseAddrPort(s)
		a = p.Addr()
	default:
		a, err = netip.ParseAddr(s)
	}
	return a.Unmap().WithZone(""), err == nil
}
