package saga

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// at is a run by the text of its plan and of its progress.
func at(t *testing.T, plan, steps string) *run {
	t.Helper()
	return &run{rec: stuck(t, plan, steps, "", false)}
}

// TestSuspect tells which steps the last owner may have been at when it died.
func TestSuspect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ plan, steps, want string }{
		{"a:su b:su c:v", "O O O", "M O O"},
		{"a:su b:su c:v", "D O O", "D M O"},
		{"a:su b:su c:v", "D F*2 O", "D M*2 O"},
		{"a:su b:v c:r", "D O O", "D M O"},
		{"a:su b:v c:r d:r", "D D O O", "D D M O"},
		{"a:su b:v", "D D", "D D"},
		// Pure steps in front of it may have been done, and not written.
		{"a:p b:p c:su d:v", "O O O O", "O O M O"},
		{"a:p b:v c:p d:r", "D D O O", "D D O M"},
		{"a:p b:p", "O O", "O O"},
		// Nor is what stands between them and is over, as by a person's word.
		{"a:p b:su c:su d:v", "O D O O", "O D M O"},
		{"a:p b:cu c:p d:cu e:v", "O S O O O", "O S O M O"},
		{"a:p b:su1 c:su1 d:su e:v", "O D N O O", "O D N M O"},
		{"a:p b:su1 c:su1 d:su e:v", "O D O O O", "O D M O O"},
		// What is rolled back with its checkpoint is in no doubt, nor what is behind it.
		{"a:stu b:su c:v", "O O O", "O O O"},
		{"a:p b:vt c:r", "O O O", "O O O"},
		// What only waits has no effect.
		{"a:z b:su", "O O", "O O"},
		{"a:a b:su", "W O", "W O"},
		// A child may have been started; one that was is known.
		{"a:cu b:su", "O O", "M O"},
		{"a:cu b:su", "W O", "W O"},
		// Steps that run at the same time, and no others.
		{"a:su1 b:su1 c:su d:v", "O O O O", "M M O O"},
		{"a:su1 b:su1 c:su d:v", "O D O O", "M D O O"},
		{"a:su1 b:p1 c:su1 d:v", "O O O O", "M O M O"},
		{"a:p b:su1 c:su1 d:su", "O O O O", "O M M O"},
		{"a:su1 b:su1 c:su2 d:su2", "O O O O", "M M O O"},
		{"a:su1 b:su1 c:su2 d:su2", "D D O O", "D D M M"},
		{"a:su b:su1 c:su1", "O O O", "M O O"},
	} {
		r := at(t, c.plan, c.steps)
		r.suspect()
		got, err := r.rec.Steps.AppendText(nil)
		require.NoError(t, err)
		require.Equal(t, c.want, string(got), "%s of %s", c.steps, c.plan)

		r = at(t, c.plan, c.steps)
		r.rec.Undoing = true
		r.suspect()
		got, err = r.rec.Steps.AppendText(nil)
		require.NoError(t, err)
		require.Equal(t, c.steps, string(got), "it goes back: %s", c.plan)
	}
}

// TestDecided tells when a saga does not turn back any more, and with which step that begins.
func TestDecided(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		plan, steps      string
		i                int
		decided, decides bool
	}{
		{"a:su b:v c:r", "O O O", 0, false, false},
		{"a:su b:v c:r", "D O O", 1, false, true},
		{"a:su b:v c:r", "D N O", 1, false, true},
		{"a:su b:v c:r", "D F O", 1, true, true},
		{"a:su b:v c:r", "D M O", 1, true, true},
		{"a:p b:v c:r", "O M O", 0, true, false}, // its owner has died behind it
		{"a:su b:v c:r", "D D O", 2, true, false},
		{"a:su b:v c:r", "D S O", 2, true, false}, // a person has passed over the pivot
		{"a:su b:su", "D O", 1, false, false},     // there is none
		{"a:r1 b:r1 c:r", "O O O", 0, false, true},
		{"a:r1 b:r1 c:r", "S O O", 1, true, true}, // or over what was beside it
		{"a:r1 b:r1 c:r", "N O O", 1, false, true},
		{"a:r1 b:r1 c:r", "D O O", 1, true, true},
		{"a:r1 b:r1 c:r", "S S O", 2, true, false},
		{"a:r1 b:r1 c:r2 d:r2", "S S O O", 2, true, false},
		{"a:su1 b:su1 c:v", "O O O", 0, false, false},
		{"a:p b:su1 c:su1", "D O O", 1, false, false},
	} {
		r := at(t, c.plan, c.steps)
		require.Equal(t, c.decided, r.decided(), "%s of %s at %d", c.steps, c.plan, c.i)
		require.Equal(t, c.decides, r.decides(c.i), "%s of %s at %d", c.steps, c.plan, c.i)
	}
}

// TestUnderWay tells which child may be under way when a saga is to turn back at a step.
func TestUnderWay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		plan, steps string
		i, want     int
	}{
		{"a:cu b:v", "M O", 0, 0},
		{"a:su b:cu c:v", "O M O", 0, 0}, // it would not have begun
		{"a:p b:p c:cu d:v", "O O M O", 0, 2},
		{"a:p b:p c:cu d:v", "O O W O", 0, 2},
		{"a:p b:p c:cu d:v", "D O W O", 1, 2},
		{"a:p b:p c:cu d:v", "O O O O", 0, 0},
		{"a:p b:cu c:p d:cu e:v", "O D D M O", 0, 3}, // b is over, and was passed over
		{"a:p b:cu c:su d:cu e:v", "O N S W O", 0, 3},
		{"a:p b:cu c:su d:cu e:v", "O D O M O", 0, 0},
		{"a:p b:cu", "O D", 0, 0},
		{"a:p b:su c:v", "O M O", 0, 0}, // which is no child
	} {
		require.Equal(t, c.want, at(t, c.plan, c.steps).underWay(c.i), "%s of %s at %d", c.steps, c.plan, c.i)
	}
}
