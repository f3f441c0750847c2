package queuetest

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
)

func testOrder(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push(numbers(1, 10)...)
	h.push("11")
	h.push(numbers(12, 25)...)
	for from := 1; from <= 25; from += 7 {
		to := min(from+6, 25)
		h.ack("w", h.expect("w", 7, span(from, to))...)
	}
	h.expect("w", 7, "")
	h.stats(0, 0)
}

func testClaimAtMostN(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push(numbers(1, 5)...)
	h.expect("w", 1, "1")
	h.expect("w", 3, "2 3 4")
	h.expect("w", 1000, "5")
	h.stats(0, 5)
}

func testNothingToDo(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push()
	h.expect("w", 10, "")
	h.push("1")
	h.expect("w", 0, "")
	h.expect("w", -1, "")
	h.ack("w")
	h.giveBack("w")
	h.reap(0, nil)
	h.stats(1, 0)
}

func testTwoWorkers(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push(numbers(1, 6)...)
	a := h.expect("a", 2, "1 2")
	b := h.expect("b", 2, "3 4")
	h.expect("a", 2, "5 6")
	h.ack("b", b...)
	h.ack("a", a...)
	h.stats(0, 2)
	ids := map[string]bool{}
	for _, m := range slices.Concat(a, b) {
		if m.ID == "" || ids[m.ID] {
			t.Fatalf("ID %q is empty or not unique", m.ID)
		}
		ids[m.ID] = true
	}
}

func testAttempts(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push("1", "2")
	var id string
	for want := 1; want <= 4; want++ {
		m := h.expect("w", 1, "1")[0]
		if m.Attempts != want || (want > 1 && m.ID != id) {
			t.Fatalf("claim %d: got %+v, ID before %q", want, m, id)
		}
		id = m.ID
		h.giveBack("w", m)
	}
}

func testReturn(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push(numbers(1, 8)...)
	msgs := h.expect("w", 5, "1 2 3 4 5")
	h.ack("w", msgs[1])
	// The arguments are out of order; the queue is not.
	h.giveBack("w", msgs[4], msgs[0], msgs[2])
	h.stats(6, 1)
	h.expect("x", 2, "1 3")
	h.expect("x", 3, "5 6 7")
	h.giveBack("w", msgs[3])
	h.expect("x", 9, "4 8")
}

// A gave back 1–3 before B gave back 4–6: B's must not overtake A's.
func testReturnTwoWorkers(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push(numbers(1, 12)...)
	for range 3 {
		a := h.expect("a", 3, "1 2 3")
		b := h.expect("b", 3, "4 5 6")
		h.giveBack("a", a...)
		h.giveBack("b", b...)
	}
	h.expect("c", 8, span(1, 8))
	h.expect("c", 8, span(9, 12))
}

func testForeignAck(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push("1", "2")
	a := h.expect("a", 1, "1")
	h.ack("b", a...)
	h.giveBack("b", a...)
	h.ack("nobody", a...)
	stranger := a[0]
	stranger.ID = "not from this queue"
	h.ack("a", stranger)
	h.giveBack("a", stranger)
	h.stats(1, 1)
	h.ack("a", a...)
	h.ack("a", a...)
	h.giveBack("a", a...)
	h.stats(1, 0)
}

// A slow handler of the first claim must not acknowledge the second claim, though both are the same worker's.
func testEarlierClaim(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push("1")
	first := h.expect("w", 1, "1")
	h.giveBack("w", first...)
	second := h.expect("w", 1, "1")
	h.ack("w", first...)
	h.giveBack("w", first...)
	h.stats(0, 1)
	h.ack("w", second...)
	h.stats(0, 0)
}

func testOddBodies(t *testing.T, open Open) {
	h := start(t, open, long)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	bodies := [][]byte{
		{},
		nil, []byte("\x00"), []byte("1:2:3"), []byte("\r\n$-1\r\n"), []byte("\\x00"), []byte("{a}"),
		[]byte("\xff\xfe\xc3"), []byte("häßlich ✓"), all, bytes.Repeat(all, 4096),
	}
	h.must(h.q.Push(h.ctx, bodies...))
	for round := range 2 { // the second round has gone through Return
		msgs := h.claim("w", len(bodies)+1)
		if len(msgs) != len(bodies) {
			t.Fatalf("round %d: got %d messages, want %d", round, len(msgs), len(bodies))
		}
		for i, m := range msgs {
			if !bytes.Equal(m.Body, bodies[i]) {
				t.Fatalf("round %d: body %d of %d bytes came back with %d other bytes", round, i, len(bodies[i]), len(m.Body))
			}
		}
		h.giveBack("w", msgs...)
	}
}

func testOddWorkers(t *testing.T, open Open) {
	h := start(t, open, long)
	names := []string{"a b", "a:b", "{a}", "}{", "ä/✓", `"'\`, strings.Repeat("long", 60)}
	h.push(numbers(1, len(names))...)
	for i, name := range names {
		h.expect(name, 1, span(i+1, i+1))
	}
	h.stats(0, len(names))
}

func testBodiesAreCopied(t *testing.T, open Open) {
	h := start(t, open, long)
	body := []byte("one")
	h.must(h.q.Push(h.ctx, body))
	copy(body, "BAD")
	msgs := h.expect("w", 1, "one")
	copy(msgs[0].Body, "BAD")
	h.giveBack("w", msgs...)
	h.expect("w", 1, "one")
}

func testBigBatch(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push(numbers(1, 10_000)...)
	h.stats(10_000, 0)
	all := h.expect("w", 10_000, span(1, 10_000))
	h.stats(0, 10_000)
	h.giveBack("w", all...)
	h.stats(10_000, 0)
	for from := 1; from < 10_000; from += 2500 {
		h.ack("w", h.expect("w", 2500, span(from, from+2499))...)
	}
	h.stats(0, 0)
}

func testStats(t *testing.T, open Open) {
	h := start(t, open, long)
	h.stats(0, 0)
	h.push(numbers(1, 5)...)
	h.stats(5, 0)
	a := h.claim("a", 2)
	h.claim("b", 1)
	h.stats(2, 3)
	h.giveBack("a", a[0])
	h.stats(3, 2)
	h.ack("a", a[1])
	h.stats(3, 1)
}

func testCancelled(t *testing.T, open Open) {
	h := start(t, open, long)
	h.push("1")
	ctx, cancel := context.WithCancel(h.ctx)
	cancel()
	if err := h.q.Push(ctx, []byte("2")); err == nil {
		t.Error("push with a cancelled context succeeded")
	}
	if _, err := h.q.Claim(ctx, "w", 1); err == nil {
		t.Error("claim with a cancelled context succeeded")
	}
	h.stats(1, 0)
}
