package queuetest

import "testing"

func testReap(t *testing.T, open Open) {
	h := start(t, open, short)
	h.push(numbers(1, 9)...)
	h.expect("b", 1, "1")
	h.expect("a", 2, "2 3")
	h.expect("b", 2, "4 5")
	h.expect("c", 1, "6")
	h.reap(6, nil)
	h.stats(9, 0)
	msgs := h.expect("d", 8, span(1, 8))
	for i, m := range msgs {
		if want := map[bool]int{true: 2, false: 1}[i < 6]; m.Attempts != want {
			t.Errorf("message %s: attempt %d, want %d", m.Body, m.Attempts, want)
		}
	}
}

// One worker renews with empty claims, one by claiming more, one has died: only the dead one is reaped.
func testReapSparesTheLiving(t *testing.T, open Open) {
	h := start(t, open, 10*short) // a stall of the machine below 3 s must not look like a death
	h.push(numbers(1, 4)...)
	dead := h.expect("dead", 1, "1")
	renews := h.expect("renews", 1, "2")
	claims := h.expect("claims", 1, "3")
	h.reap(1, func() {
		h.expect("renews", 0, "")
		h.giveBack("claims", h.claim("claims", 1)...)
	})
	h.stats(2, 2)
	h.ack("dead", dead...)
	h.ack("renews", renews...)
	h.ack("claims", claims...)
	h.expect("next", 9, "1 4")
	h.stats(0, 2)
}

// A stalls, its lease runs out, B gets its messages, A wakes up and acknowledges: B's claim must stand, for if B dies now
// the message would be lost although nobody has finished it.
func testStaleAck(t *testing.T, open Open) {
	h := start(t, open, short)
	h.push("1", "2")
	a := h.expect("a", 2, "1 2")
	h.reap(2, nil)
	h.ack("a", a[0])
	h.stats(2, 0)
	b := h.expect("b", 2, "1 2")
	h.ack("a", a...)
	h.giveBack("a", a...)
	h.stats(0, 2)
	h.ack("b", b...)
	h.stats(0, 0)

	h.push("3")
	same := h.expect("a", 1, "3")
	h.reap(1, nil)
	h.expect("a", 1, "3")
	h.ack("a", same...)
	h.stats(0, 1)
}

// A stalls, its lease runs out, B gets its message and finishes it. A wakes up and gives the message back, or goes on under its name until its next lease
// runs out: what is finished does not come again.
func testStaleReturn(t *testing.T, open Open) {
	h := start(t, open, short)
	h.push("1")
	a := h.expect("a", 1, "1")
	h.reap(1, nil)
	h.ack("b", h.expect("b", 1, "1")...)
	h.giveBack("a", a...)
	h.stats(0, 0)
	h.push("2")
	h.expect("a", 1, "2")
	h.reap(1, nil)
	h.expect("b", 2, "2")
}
