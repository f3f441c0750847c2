package ratelimit

import (
	"slices"
	"sync/atomic"
)

// Members are the names of the processes among which keys are divided, the same for all of them. It is safe for concurrent use; change it with
// [Members.Set] whenever the service registry, or what else knows, tells. Make one with
// [NewMembers]; the zero value is not usable.
type Members struct{ list atomic.Pointer[roster] }

// NewMembers returns a list.
func NewMembers(nodes ...string) *Members {
	m := &Members{}
	m.Set(nodes...)
	return m
}

// Set replaces the list. The order is of no importance; names that come twice count once, empty ones not at all.
func (m *Members) Set(nodes ...string) {
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == "" })
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	r := &roster{names: nodes, hashes: make([]uint64, len(nodes))}
	for i, n := range nodes {
		r.hashes[i] = mix(fnv(n))
	}
	m.list.Store(r)
}

// List returns the names in order.
func (m *Members) List() []string { return slices.Clone(m.list.Load().names) }

// Owner returns who owns a key; "" if there are no members. Cost: one hash for each member.
func (m *Members) Owner(key string) string { return m.list.Load().owner(key) }

// roster is a list that does not change.
type roster struct {
	names  []string // in order, so that a tie is decided everywhere alike
	hashes []uint64
}

func (r *roster) has(node string) bool {
	_, ok := slices.BinarySearch(r.names, node)
	return ok
}

func (r *roster) owner(key string) string {
	if len(r.names) == 0 {
		return ""
	}
	k := mix(fnv(key))
	best, most := 0, uint64(0)
	for i, h := range r.hashes {
		if w := mix(h ^ k); w > most {
			best, most = i, w
		}
	}
	return r.names[best]
}

// fnv is FNV-1a in 64 bits: the same in all processes, which hash/maphash is not.
func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the end of SplitMix64 (Steele, Lea and Flood 2014): every bit of it depends on every bit of x.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
