package redislimit

import "strings"

// class is how a counter is kept. One counter may be of several: the limits of its name can change their algorithm.
type class byte

const (
	bucketClass  class = 'b'
	windowClass  class = 'w'
	logClass     class = 'l'
	holdersClass class = 'c'
	// decisionClass is that of the decisions on reservations.
	decisionClass class = 'd'
)

// keyName is the name of a counter's key on Redis: {key}b:name. A key that brings its own hash tag keeps it: a{tenant}b{b:name, which lets
// a call for several keys of a tenant be one script on a Cluster.
//
// No two counters have one name: what follows the last brace is never empty of a class and a colon, and a limit's name has no braces; by which
// brace it is one sees whether the key was put in braces.
func (s *Store) keyName(c class, key, name string) string {
	if hashTag(key) != key {
		return s.prefix + key + "{" + string(rune(c)) + ":" + name
	}
	return s.prefix + "{" + key + "}" + string(rune(c)) + ":" + name
}

// hashTag returns the part of a key that Redis Cluster hashes: what is between the first "{" and the next "}", unless that is empty, else
// the whole key (Redis Cluster specification, "Hash tags").
func hashTag(key string) string {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			return tag
		}
	}
	return key
}

const slots = 16384

// slot is where a Cluster keeps what has a hash tag: CRC16 of the XMODEM kind, by the specification.
func slot(tag string) int {
	var crc uint16
	for i := range len(tag) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^tag[i]]
	}
	return int(crc % slots)
}

var crcTable = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		table[i] = crc
	}
	return table
}()
