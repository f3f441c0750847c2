package idempotency

import (
	"container/heap"
	"encoding/binary"
	"math/bits"
	"slices"
	"time"
)

// archive holds the completed records of a shard as bytes without pointers, so that ten million of them cost the garbage
// collector nothing and each of them no more than it says.
//
// Records lie one after the other in blocks. All records of a block expire within one slot of time, about an eighth of
// their TTL wide, and the block goes as a whole when the slot is over: there is no order to keep among records, and no
// hole to fill.
//
// They are found by a hash table of chains (linear hashing: W. Litwin, "Linear hashing: a new tool for file and table
// addressing", 1980), which grows and shrinks by one chain at a time, so that no call ever pays for moving all.
type archive struct {
	heads  []reference     // of chains
	mask   uint32          // the least 2^n-1 that no chain's number is above
	count  int             // records in chains
	blocks []block         // the first is never used
	vacant []uint32        // numbers of blocks that may be used again
	open   map[slot]uint32 // the block to which records of a slot are added
	due    dueHeap
}

// reference is where a record lies: its block's number, and its place there in units of eight bytes. 0 is nowhere.
type reference uint32

const (
	offsetBits = 12
	blockSize  = 8 << offsetBits // 32 KiB
	firstBlock = 1 << 10         // of a slot; the next is twice as large
	longest    = blockSize / 8   // a longer record has a block to itself, or much of each block would stay empty
)

// block is records one after the other.
type block struct {
	data  []byte
	swept int // the records before it are no longer in chains
}

// slot is a span of time: from at<<width to (at+1)<<width.
type slot struct {
	width uint8
	at    int64
}

func (s slot) end() time.Duration { return time.Duration((s.at + 1) << s.width) }

// dueBlock is a block that goes at the end of its slot.
type dueBlock struct {
	slot  slot
	block uint32
}

// entry is one record:
//
//	 0  reference of the next in the chain
//	 4  hash of the key
//	 8  until, in ns since the store's start; buried when it is in no chain any more
//	16  token
//	24  status
//	28  length of the response
//	32  fingerprint
//	64  lengths of scope, op and value, a byte each
//	67  scope, op, value, response
type entry []byte

const entryHead = 67

// buried is no time: also a clock that was set back, as in a test, does not come to it.
const buried = 1 << 63

func (e entry) next() reference          { return reference(binary.LittleEndian.Uint32(e)) }
func (e entry) hash() uint32             { return binary.LittleEndian.Uint32(e[4:]) }
func (e entry) until() time.Duration     { return time.Duration(binary.LittleEndian.Uint64(e[8:])) }
func (e entry) token() Token             { return Token(binary.LittleEndian.Uint64(e[16:])) }
func (e entry) status() int32            { return int32(binary.LittleEndian.Uint32(e[24:])) }
func (e entry) fingerprint() Fingerprint { return Fingerprint(e[32:64]) }
func (e entry) keyLen() int              { return int(e[64]) + int(e[65]) + int(e[66]) }
func (e entry) setNext(r reference)      { binary.LittleEndian.PutUint32(e, uint32(r)) }
func (e entry) bury()                    { binary.LittleEndian.PutUint64(e[8:], buried) }
func (e entry) isBuried() bool           { return binary.LittleEndian.Uint64(e[8:]) == buried }

// response returns the response with no room behind it, for it is handed out.
func (e entry) response() []byte {
	from := entryHead + e.keyLen()
	to := from + int(binary.LittleEndian.Uint32(e[28:]))
	return e[from:to:to]
}

// size is that of the whole record, with which the next one begins.
func (e entry) size() int {
	return roundUp(entryHead + e.keyLen() + int(binary.LittleEndian.Uint32(e[28:])))
}

func roundUp(n int) int { return (n + 7) &^ 7 }

// is tells whether the record is of the key.
func (e entry) is(k Key) bool {
	s, o := int(e[64]), int(e[65])
	n := e.keyLen()
	if s != len(k.Scope) || o != len(k.Op) || n != s+o+len(k.Value) {
		return false
	}
	text := e[entryHead : entryHead+n]
	return string(text[:s]) == k.Scope && string(text[s:s+o]) == k.Op && string(text[s+o:]) == k.Value
}

func (a *archive) entry(r reference) entry {
	return entry(a.blocks[r>>offsetBits].data[r&(1<<offsetBits-1)*8:])
}

// find returns where the record of a key is, or 0.
func (a *archive) find(k Key, hash uint32) reference {
	if a.count == 0 {
		return 0
	}
	for r := a.heads[a.chain(hash)]; r != 0; {
		e := a.entry(r)
		if e.hash() == hash && e.is(k) {
			return r
		}
		r = e.next()
	}
	return 0
}

// add writes down the completion of a key that it does not have.
func (a *archive) add(c *Completion, hash uint32, f Fingerprint, now time.Duration) {
	until := now + c.TTL
	size := roundUp(entryHead + len(c.Key.Scope) + len(c.Key.Op) + len(c.Key.Value) + len(c.Response))
	number := a.room(slotOf(now, until), size)
	b := &a.blocks[number]
	r := reference(number<<offsetBits | uint32(len(b.data)/8))
	chain := a.grow(hash)

	d := b.data
	d = binary.LittleEndian.AppendUint32(d, uint32(a.heads[chain]))
	d = binary.LittleEndian.AppendUint32(d, hash)
	d = binary.LittleEndian.AppendUint64(d, uint64(until))
	d = binary.LittleEndian.AppendUint64(d, uint64(c.Token))
	d = binary.LittleEndian.AppendUint32(d, uint32(c.Status))
	d = binary.LittleEndian.AppendUint32(d, uint32(len(c.Response)))
	d = append(d, f[:]...)
	d = append(d, byte(len(c.Key.Scope)), byte(len(c.Key.Op)), byte(len(c.Key.Value)))
	d = append(append(append(append(d, c.Key.Scope...), c.Key.Op...), c.Key.Value...), c.Response...)
	b.data = d[:roundUp(len(d))]
	a.heads[chain] = r
}

// slotOf returns the slot of what ends at until.
func slotOf(now, until time.Duration) slot {
	width := max(bits.Len64(uint64(until-now))-4, 20) // at least a millisecond
	return slot{width: uint8(width), at: int64(until) >> width}
}

// room returns a block of the slot that has room for size bytes.
func (a *archive) room(s slot, size int) uint32 {
	capacity := size
	if size <= longest {
		capacity = firstBlock
		if number, ok := a.open[s]; ok {
			d := a.blocks[number].data
			if cap(d)-len(d) >= size {
				return number
			}
			capacity = min(2*cap(d), blockSize)
		}
	}
	number := a.newBlock(max(capacity, size))
	if size <= longest {
		if a.open == nil {
			a.open = make(map[slot]uint32)
		}
		a.open[s] = number
	}
	a.due = append(a.due, dueBlock{s, number})
	heap.Fix(&a.due, len(a.due)-1)
	return number
}

func (a *archive) newBlock(size int) uint32 {
	b := block{data: make([]byte, 0, size)}
	if n := len(a.vacant); n > 0 {
		number := a.vacant[n-1]
		a.vacant = a.vacant[:n-1]
		a.blocks[number] = b
		return number
	}
	if len(a.blocks) == 0 {
		a.blocks = make([]block, 1)
	}
	a.blocks = append(a.blocks, b)
	return uint32(len(a.blocks) - 1)
}

// remove takes a record out of its chain. Its bytes go with its block.
func (a *archive) remove(r reference) {
	e := a.entry(r)
	chain := a.chain(e.hash())
	if a.heads[chain] == r {
		a.heads[chain] = e.next()
	} else {
		before := a.entry(a.heads[chain])
		for before.next() != r {
			before = a.entry(before.next())
		}
		before.setNext(e.next())
	}
	e.bury()
	a.shrink()
}

// sweep removes up to limit records of blocks whose slot is over and returns how many. Those that are in no chain any
// more count too, since they cost time too.
func (a *archive) sweep(now time.Duration, limit int) int {
	removed := 0
	for removed < limit && len(a.due) > 0 && a.due[0].slot.end() <= now {
		due := a.due[0]
		b := &a.blocks[due.block]
		for ; removed < limit && b.swept < len(b.data); removed++ {
			r := reference(due.block<<offsetBits | uint32(b.swept/8))
			e := a.entry(r)
			b.swept += e.size()
			if !e.isBuried() {
				a.remove(r)
			}
		}
		if b.swept < len(b.data) {
			break
		}
		*b = block{}
		a.vacant = append(a.vacant, due.block)
		delete(a.open, due.slot) // nothing that is completed from now on ends in it
		heap.Pop(&a.due)
	}
	return removed
}

// chain returns the number of a hash's chain.
func (a *archive) chain(hash uint32) uint32 {
	if n := hash & a.mask; n < uint32(len(a.heads)) {
		return n
	}
	return hash & (a.mask >> 1)
}

const fewestChains = 8

// grow makes room for one more record and returns the chain for it. There is a chain for each record: one more takes
// over those records of another whose hashes say so.
func (a *archive) grow(hash uint32) uint32 {
	if a.heads == nil {
		a.heads, a.mask = make([]reference, fewestChains), fewestChains-1
	}
	a.count++
	if a.count > len(a.heads) {
		n := uint32(len(a.heads))
		if n > a.mask {
			a.mask = 2*a.mask + 1
		}
		a.heads = append(a.heads, 0)
		a.split(n&(a.mask>>1), n)
	}
	return a.chain(hash)
}

func (a *archive) split(from, to uint32) {
	r := a.heads[from]
	a.heads[from] = 0
	for r != 0 {
		e := a.entry(r)
		next, chain := e.next(), from
		if e.hash()&a.mask == to {
			chain = to
		}
		e.setNext(a.heads[chain])
		a.heads[chain] = r
		r = next
	}
}

// shrink counts one record less and keeps the chains from being more than twice the records.
func (a *archive) shrink() {
	a.count--
	for range 2 { // of one chain at a time records could go faster than chains
		if len(a.heads) > fewestChains && a.count < len(a.heads)/2 {
			a.join()
		}
	}
	if cap(a.heads) > 4*len(a.heads) {
		a.heads = slices.Clip(slices.Clone(a.heads))
	}
}

// join adds the last chain to the one that it was split from.
func (a *archive) join() {
	n := uint32(len(a.heads) - 1)
	into := n & (a.mask >> 1)
	for r := a.heads[n]; r != 0; {
		e := a.entry(r)
		next := e.next()
		e.setNext(a.heads[into])
		a.heads[into] = r
		r = next
	}
	a.heads = a.heads[:n]
	if n == a.mask/2+1 {
		a.mask /= 2
	}
}

// dueHeap has the block that goes first at its root. What goes through Push and Pop is allocated, and with the shard locked an allocation may be the
// one that has a collection of the whole heap to begin with: so Pop returns nothing, and Push is not used.
type dueHeap []dueBlock

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].slot.end() < h[j].slot.end() }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(any)          {}

func (h *dueHeap) Pop() any {
	*h = (*h)[:len(*h)-1]
	return nil
}
