package join

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// note is an item whose key is its first letter.
type note struct {
	text   string
	copies int
}

func notes(texts string) (batch []*note) {
	for text := range strings.FieldsSeq(texts) {
		batch = append(batch, &note{text: text})
	}
	return batch
}

func letter(n *note) byte { return n.text[0] }

func copies(first, next *note) bool {
	if first.text != next.text {
		return false
	}
	first.copies++
	return true
}

func TestRounds(t *testing.T) {
	t.Parallel()
	for batch, want := range map[string][]string{
		"":                         nil,
		"a1 b1 c1":                 {"a1 b1 c1"},
		"a1 b1 a1 a1":              {"a1 b1"},
		"a1 b1 a2 c1 a3 b2":        {"a1 b1 c1", "a2 b2", "a3"},
		"a1 a2 a1 a2 b1 a2 a3 a1":  {"a1 b1", "a2", "a3"},
		"b1 b2 a1 a2 b1 a1 c1 d1 ": {"b1 a1 c1 d1", "b2 a2"},
	} {
		var got []string
		for _, round := range Rounds(notes(batch), letter, copies) {
			var texts []string
			for _, n := range round {
				texts = append(texts, n.text)
			}
			got = append(got, strings.Join(texts, " "))
		}
		require.Equal(t, want, got, batch)
	}
}

func TestRoundsLoseNothing(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, seed))
	for range 1000 {
		batch := make([]*note, random.IntN(100))
		for i := range batch {
			batch[i] = &note{text: string([]byte{byte('a' + random.IntN(8)), byte('0' + random.IntN(4))})}
		}
		n := 0
		order := map[byte][]string{} // by letter
		for _, round := range Rounds(batch, letter, copies) {
			require.NotEmpty(t, round)
			seen := map[byte]bool{}
			for _, item := range round {
				require.False(t, seen[letter(item)], "seed %d", seed)
				seen[letter(item)] = true
				require.NotContains(t, order[letter(item)], item.text, "seed %d", seed)
				order[letter(item)] = append(order[letter(item)], item.text)
				n += 1 + item.copies
			}
		}
		require.Len(t, batch, n, "seed %d", seed)
		for k, texts := range order { // the order of the batch
			var want []string
			for _, item := range batch {
				if letter(item) == k && !slices.Contains(want, item.text) {
					want = append(want, item.text)
				}
			}
			require.Equal(t, want, texts, "seed %d", seed)
		}
	}
}
