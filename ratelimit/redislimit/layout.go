package redislimit

import (
	"hash/maphash"

	"github.com/redis/go-redis/v9"
)

// layout is how a client spreads its keys.
type layout byte

const (
	// oneServer has all keys, Sentinel or not.
	oneServer layout = iota
	// bySlot is a Cluster.
	bySlot
	// byTag is a Ring, or a client that we do not know: what has one hash tag is on one server, nothing else is certain.
	byTag
)

func layoutOf(rdb redis.UniversalClient) layout {
	switch rdb.(type) {
	case *redis.Client:
		return oneServer
	case *redis.ClusterClient:
		return bySlot
	default:
		return byTag
	}
}

// place is where keys are together, so that one script may have them.
type place struct {
	slot int
	tag  string
}

func (l layout) place(key string) place {
	switch l {
	case oneServer:
		return place{}
	case bySlot:
		return place{slot: slot(hashTag(key))}
	default:
		return place{tag: hashTag(key)}
	}
}

// parts is how many lanes there are where keys are spread. Slots that are neighbours mostly are on one node, so a node that hangs holds up the
// flights to its own part of the slots and few others.
const parts = 16

func (l layout) lanes() int {
	if l == oneServer {
		return 1
	}
	return parts
}

var seed = maphash.MakeSeed()

// lane is that of a place.
func (l layout) lane(p place) int {
	switch l {
	case oneServer:
		return 0
	case bySlot:
		return p.slot * parts / slots
	default:
		return int(maphash.String(seed, p.tag) % parts)
	}
}
