package redisqueue

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/safetill/safetill/internal/queue"
)

// A claim is named "id:attempts". A late acknowledgement names a claim that is over, so it finds nothing to remove.

func claims(msgs []queue.Message) []string {
	out := make([]string, len(msgs))
	for i, m := range msgs {
		out[i] = m.ID + ":" + strconv.Itoa(m.Attempts)
	}
	return out
}

// parse reads one pair of the claim script's reply.
func parse(pair []any) (queue.Message, error) {
	if len(pair) != 2 {
		return queue.Message{}, fmt.Errorf("odd reply")
	}
	claim, ok1 := pair[0].(string)
	body, ok2 := pair[1].(string)
	id, count, ok3 := strings.Cut(claim, ":")
	attempts, err := strconv.Atoi(count)
	if !ok1 || !ok2 || !ok3 || err != nil {
		return queue.Message{}, fmt.Errorf("unexpected reply of types %T and %T", pair[0], pair[1])
	}
	return queue.Message{ID: id, Body: []byte(body), Attempts: attempts}, nil
}
