package queuetest

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/safetill/safetill/internal/queue"
)

// testModel does the same random operations to the queue and to the simplest thing that could be right: a sorted slice of
// numbers and a slice per worker.
func testModel(t *testing.T, open Open) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	h := start(t, open, long)
	m := model{held: map[string][]queue.Message{}}
	workers := []string{"a", "b", "c"}
	for range 400 {
		w := workers[rnd.IntN(len(workers))]
		switch rnd.IntN(5) {
		case 0:
			from := m.pushed + 1
			m.push(rnd.IntN(6))
			h.push(numbers(from, m.pushed)...)
		case 1, 2:
			n := rnd.IntN(5)
			m.held[w] = append(m.held[w], h.expect(w, n, m.claim(n))...)
		case 3:
			h.ack(w, m.release(rnd, w)...)
		case 4:
			msgs := m.release(rnd, w)
			h.giveBack(w, msgs...)
			m.giveBack(msgs)
		}
		claimed := 0
		for _, msgs := range m.held {
			claimed += len(msgs)
		}
		h.stats(len(m.ready), claimed)
	}
}

type model struct {
	pushed int
	ready  []string // in the order of their numbers
	held   map[string][]queue.Message
}

func (m *model) push(n int) {
	m.ready = append(m.ready, numbers(m.pushed+1, m.pushed+n)...)
	m.pushed += n
}

func (m *model) claim(n int) string {
	n = min(n, len(m.ready))
	out := strings.Join(m.ready[:n], " ")
	m.ready = m.ready[n:]
	return out
}

// release takes a random part of what w holds out of its hands.
func (m *model) release(rnd *rand.Rand, w string) []queue.Message {
	all := m.held[w]
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	cut := rnd.IntN(len(all) + 1)
	m.held[w] = slices.Clone(all[cut:])
	return all[:cut]
}

func (m *model) giveBack(msgs []queue.Message) {
	for _, msg := range msgs {
		m.ready = append(m.ready, string(msg.Body))
	}
	slices.SortFunc(m.ready, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
}
