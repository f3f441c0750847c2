package join

// Rounds parts a batch so that a key comes once in each round, for what cannot
// take two items with one key at once: INSERT … ON CONFLICT is refused, a SET in
// one statement is done once. Rounds are to be handled one after the other: the
// n-th item of a key is in the n-th round.
//
// An item need not wait for its round if an earlier one of its key absorbs it:
// that tells whether first has taken next along. It costs no round then, however
// often it comes.
func Rounds[T any, K comparable](batch []T, key func(T) K, absorb func(first, next T) bool) (rounds [][]T) {
	kept := make(map[K][]T, len(batch))
next:
	for _, item := range batch {
		k := key(item)
		for _, first := range kept[k] {
			if absorb(first, item) {
				continue next
			}
		}
		n := len(kept[k])
		if n == len(rounds) {
			rounds = append(rounds, nil)
		}
		rounds[n] = append(rounds[n], item)
		kept[k] = append(kept[k], item)
	}
	return rounds
}
