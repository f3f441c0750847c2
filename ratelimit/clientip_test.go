package ratelimit_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ratelimit"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}

func from(peer string, header string, lines ...string) *http.Request {
	return &http.Request{RemoteAddr: peer, Header: http.Header{http.CanonicalHeaderKey(header): lines}}
}

func TestClientIP(t *testing.T) {
	t.Parallel()
	const xff = "X-Forwarded-For"
	for name, c := range map[string]struct {
		peer  string
		lines []string
		want  string // "" for no key
	}{
		"a direct client":                         {"192.0.2.1:1234", nil, "192.0.2.1"},
		"whose field is not looked at":            {"192.0.2.1:1234", []string{"198.51.100.7"}, "192.0.2.1"},
		"nor if it says that it is a proxy":       {"192.0.2.1:1234", []string{"198.51.100.7, 10.0.0.1"}, "192.0.2.1"},
		"behind a proxy":                          {"10.0.0.1:1", []string{"192.0.2.1"}, "192.0.2.1"},
		"what is left of the client is hearsay":   {"10.0.0.1:1", []string{"198.51.100.7, 192.0.2.1"}, "192.0.2.1"},
		"behind two":                              {"10.0.0.1:1", []string{"198.51.100.7, 192.0.2.1, 10.9.9.9"}, "192.0.2.1"},
		"each in a line of its own":               {"10.0.0.1:1", []string{"198.51.100.7", "192.0.2.1", "10.9.9.9"}, "192.0.2.1"},
		"a client that writes many proxies":       {"10.0.0.1:1", []string{"10.1.1.1, 10.2.2.2, 192.0.2.1"}, "192.0.2.1"},
		"nothing but proxies: the first of them":  {"10.0.0.1:1", []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3"},
		"a proxy that tells nothing":              {"10.0.0.1:1", nil, "10.0.0.1"},
		"a port":                                  {"10.0.0.1:1", []string{"192.0.2.1:80"}, "192.0.2.1"},
		"tabs and blanks":                         {"10.0.0.1:1", []string{"x,\t 192.0.2.1 \t"}, "192.0.2.1"},
		"IPv6 is a /64":                           {"[2001:db8:1:2:3:4:5:6]:443", nil, "2001:db8:1:2::/64"},
		"IPv6 behind a proxy":                     {"[fd00::1]:443", []string{"2001:db8::1"}, "2001:db8::/64"},
		"in brackets":                             {"[fd00::1]:443", []string{"[2001:db8::1]"}, "2001:db8::/64"},
		"in brackets with a port":                 {"[fd00::1]:443", []string{"[2001:db8::1]:80"}, "2001:db8::/64"},
		"a zone":                                  {"[fe80::1%eth0]:443", nil, "fe80::/64"},
		"a trusted zone":                          {"[fd00::1%eth0]:443", []string{"fe80::9%eth1"}, "fe80::/64"},
		"IPv4 in IPv6 is IPv4":                    {"[::ffff:192.0.2.1]:443", nil, "192.0.2.1"},
		"and trusted as such":                     {"[::ffff:10.0.0.1]:443", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		"a connection without a port":             {"192.0.2.1", nil, "192.0.2.1"},
		"a Unix socket":                           {"@", []string{"192.0.2.1"}, ""},
		"no connection":                           {"", []string{"192.0.2.1"}, ""},
		"a name":                                  {"localhost:80", nil, ""},
		"garbage: the last that could be trusted": {"10.0.0.1:1", []string{"192.0.2.1, unknown"}, "10.0.0.1"},
		"garbage further left":                    {"10.0.0.1:1", []string{"192.0.2.1, unknown, 10.7.7.7"}, "10.7.7.7"},
		"an empty element":                        {"10.0.0.1:1", []string{"192.0.2.1,"}, "10.0.0.1"},
		"an empty line":                           {"10.0.0.1:1", []string{"192.0.2.1", ""}, "10.0.0.1"},
		"octal":                                   {"10.0.0.1:1", []string{"192.0.2.010"}, "10.0.0.1"},
		"a port that is none":                     {"10.0.0.1:1", []string{"192.0.2.1:99999"}, "10.0.0.1"},
		"IPv4 in brackets":                        {"10.0.0.1:1", []string{"[192.0.2.1]"}, "10.0.0.1"},
		"quotes":                                  {"10.0.0.1:1", []string{`"192.0.2.1"`}, "10.0.0.1"},
		"a line break":                            {"10.0.0.1:1", []string{"192.0.2.1\r\nx"}, "10.0.0.1"},
		"an oversized element":                    {"10.0.0.1:1", []string{"192.0.2.1" + strings.Repeat("0", 1<<16)}, "10.0.0.1"},
		"an oversized zone":                       {"10.0.0.1:1", []string{"fe80::1%" + strings.Repeat("z", 100)}, "10.0.0.1"},
		"10,000 hostile elements":                 {"10.0.0.1:1", []string{strings.Repeat("10.6.6.6,", 9999) + "192.0.2.1"}, "192.0.2.1"},
		"10,000 hostile lines":                    {"10.0.0.1:1", append(slices.Repeat([]string{"198.51.100.7"}, 9999), "192.0.2.1"), "192.0.2.1"},
		"a bracket that was not opened":           {"10.0.0.1:1", []string{"x192.0.2.1]"}, "10.0.0.1"},
		"nobody before a proxy":                   {"10.0.0.1:1", []string{"192.0.2.1", ",10.6.6.6"}, "10.6.6.6"},
		"more proxies than are believed":          {"10.0.0.1:1", []string{"192.0.2.1" + strings.Repeat(", 10.6.6.6", 32)}, "10.6.6.6"},
		"as many as are":                          {"10.0.0.1:1", []string{"192.0.2.1" + strings.Repeat(", 10.6.6.6", 31)}, "192.0.2.1"},
	} {
		key, ok := ratelimit.ClientIP(proxies...)(from(c.peer, xff, c.lines...))
		require.Equal(t, c.want, key, name)
		require.Equal(t, c.want != "", ok, name)
	}
	require.Equal(t, "192.0.2.1", key(t, &ratelimit.ClientAddress{}, from("192.0.2.1:1", xff, "198.51.100.7")), "nobody is trusted by default")
}

func key(t *testing.T, c *ratelimit.ClientAddress, r *http.Request) string {
	t.Helper()
	k, ok := c.Key(r)
	require.True(t, ok)
	return k
}

func TestClientAddressOptions(t *testing.T) {
	t.Parallel()
	six := from("[2001:db8:1:2:3:4:5:6]:443", "X-Forwarded-For")
	for bits, want := range map[int]string{
		0: "2001:db8:1:2::/64", -1: "2001:db8:1:2::/64", 129: "2001:db8:1:2::/64", 48: "2001:db8:1::/48", 56: "2001:db8:1::/56",
		128: "2001:db8:1:2:3:4:5:6/128", 1: "::/1",
	} {
		require.Equal(t, want, key(t, &ratelimit.ClientAddress{IPv6Bits: bits}, six), bits)
	}
	own := &ratelimit.ClientAddress{Trusted: proxies, Header: "x-real-ip"}
	require.Equal(t, "192.0.2.1", key(t, own, from("10.0.0.1:1", "X-Real-Ip", "192.0.2.1")))
	require.Equal(t, "10.0.0.1", key(t, own, from("10.0.0.1:1", "X-Forwarded-For", "192.0.2.1")), "the other field is the client's to write")
	mapped := &ratelimit.ClientAddress{Trusted: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104"), {}}}
	require.Equal(t, "192.0.2.1", key(t, mapped, from("10.0.0.1:1", "X-Forwarded-For", "192.0.2.1")))
	require.Equal(t, "11.0.0.1", key(t, mapped, from("11.0.0.1:1", "X-Forwarded-For", "192.0.2.1")))
}

func TestForwarded(t *testing.T) {
	t.Parallel()
	c := &ratelimit.ClientAddress{Trusted: proxies, Header: "Forwarded"}
	for line, want := range map[string]string{
		`for=192.0.2.60;proto=http;by=203.0.113.43`:         "192.0.2.60",
		`For="[2001:db8:cafe::17]:4711"`:                    "2001:db8:cafe::/64",
		`for=198.51.100.7, for=192.0.2.43`:                  "192.0.2.43",
		`for=192.0.2.43,for="10.1.1.1:9"`:                   "192.0.2.43",
		`for=192.0.2.43:8080`:                               "192.0.2.43",
		`for=192.0.2.43; proto=https ;host="a;b \"c\""`:     "192.0.2.43",
		`;;for=192.0.2.43;`:                                 "192.0.2.43",
		`proto=https;host=example.com:8080;FOR=192.0.2.43`:  "192.0.2.43",
		`for="evil, for=192.0.2.43`:                         "192.0.2.43", // a quote that the client did not close
		`for=192.0.2.43;host="x, for=198.51.100.7"`:         "10.0.0.1",   // a host that the client chose
		`for=192.0.2.43;host="x, for=198.51.100.7;y=\"z\""`: "10.0.0.1",
		`for=192.0.2.43;host="x, for=198.51.100.7;y=\""`:    "10.0.0.1",
		`host="x, for=198.51.100.7;y";for=192.0.2.43`:       "10.0.0.1",
		`host="x, for=198.51.100.7;y=z";for=192.0.2.43`:     "10.0.0.1",
		`for=192.0.2.43;for=198.51.100.7`:                   "10.0.0.1",
		`=x;for=192.0.2.43`:                                 "10.0.0.1",
		`host=;for=192.0.2.43`:                              "10.0.0.1",
		`for="192.0.2.43"x=y`:                               "10.0.0.1",
		`host="a" ;for=192.0.2.43`:                          "192.0.2.43",
		"for=192.0.2.43;x=\"\x7f\"":                         "10.0.0.1",
		`for=unknown`:                                       "10.0.0.1",
		`for=_hidden`:                                       "10.0.0.1",
		`for="_gazonk"`:                                     "10.0.0.1",
		`for=`:                                              "10.0.0.1",
		`for`:                                               "10.0.0.1",
		`=192.0.2.43`:                                       "10.0.0.1",
		`for="192.0.2.43`:                                   "10.0.0.1",
		`for="192.0.2.43"x`:                                 "10.0.0.1",
		`for="192.0.2.43\"`:                                 "10.0.0.1",
		`for=192.0.2.43;x`:                                  "10.0.0.1",
		`for=192.0.2.43 x=y`:                                "10.0.0.1",
		"for=192.0.2.43;x=\"\x00\"":                         "10.0.0.1",
		`proto=https`:                                       "10.0.0.1",
		``:                                                  "10.0.0.1",
		`192.0.2.43`:                                        "10.0.0.1",
	} {
		require.Equal(t, want, key(t, c, from("10.0.0.1:1", "Forwarded", line)), line)
	}
	require.Equal(t, "10.0.0.1", key(t, c, from("10.0.0.1:1", "X-Forwarded-For", "192.0.2.1")))
	require.Equal(t, "192.0.2.7", key(t, c, from("192.0.2.7:1", "Forwarded", "for=192.0.2.1")))
}

// Whatever the field says: from a peer that is not trusted it changes nothing, and from one that is, the client is an address that is in it, or the peer.
func FuzzClientIP(f *testing.F) {
	for _, line := range []string{
		"192.0.2.1", "[2001:db8::1]:80, 10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", `for="[2001:db8::1]:80";proto=https`, `for=10.1.1.1, for=unknown`,
		`for=1.2.3.4;host="a, for=6.6.6.6;x=\""`, ",,,", "1.2.3.4:5:6",
	} {
		f.Add(line, line, "192.0.2.9:80")
	}
	f.Fuzz(func(t *testing.T, first, second, peer string) {
		for header, proxys := range map[string]string{"X-Forwarded-For": "198.51.100.7", "Forwarded": `for="198.51.100.7:1"`} {
			c := &ratelimit.ClientAddress{Trusted: proxies, Header: header}
			with, without := from(peer, header, first, second), from(peer, header)
			direct, ok := c.Of(without)
			got, also := c.Of(with)
			require.Equal(t, ok, also)
			if !ok {
				continue
			}
			require.True(t, got.IsValid() && got.Zone() == "" && !got.Is4In6())
			key, _ := c.Key(with)
			require.LessOrEqual(t, len(key), 64)
			if !slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(direct) }) {
				require.Equal(t, direct, got)
			}
			// What a proxy adds at the right, in a line of its own or not, counts for more than anything that stands before it.
			told, _ := c.Of(from("10.0.0.1:1", header, first, second, proxys))
			require.Equal(t, "198.51.100.7", told.String())
			told, _ = c.Of(from("10.0.0.1:1", header, first+second+", "+proxys))
			require.Equal(t, "198.51.100.7", told.String())
		}
	})
}

func TestHeaderKey(t *testing.T) {
	t.Parallel()
	of := ratelimit.HeaderKey("x-consumer")
	for _, c := range []struct {
		lines []string
		want  string
		ok    bool
	}{{nil, "", false}, {[]string{""}, "", false}, {[]string{"a"}, "a", true}, {[]string{"a", "b"}, "", false}} {
		key, ok := of(from("192.0.2.1:1", "X-Consumer", c.lines...))
		require.Equal(t, c.want, key)
		require.Equal(t, c.ok, ok)
	}
}
