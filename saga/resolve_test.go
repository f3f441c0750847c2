package saga

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stuck is a saga by the text of its plan and of its progress.
func stuck(t *testing.T, plan, steps, failed string, undoing bool) *Record {
	t.Helper()
	r := &Record{ID: "s", Status: Stuck, Undoing: undoing, Failed: failed, Error: "why", Crashes: 3, Revision: 7}
	require.NoError(t, r.Plan.UnmarshalText([]byte(plan)))
	require.NoError(t, r.Steps.UnmarshalText([]byte(steps)))
	require.Len(t, r.Steps, len(r.Plan))
	r.Created = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r.Updated = r.Created.Add(5 * time.Millisecond)
	return r
}

const orderPlan = "validate:p reserve:su charge:su confirm:v notify:r"

// TestResolve goes through the actions in each situation. What comes of one is the
// status, the step that failed and the marks, or a part of why it is refused.
func TestResolve(t *testing.T) {
	t.Parallel()
	const groupPlan = "a:su b:su1 c:su1 d:v"
	for name, c := range map[string]struct {
		plan, steps, failed string
		undoing             bool
		status              Status // default: Stuck
		step                string
		want                map[Action]string
	}{
		"in doubt before the pivot, after three crashes": {
			plan: orderPlan, steps: "D1 D2 M*3 O O", failed: "charge",
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 D2 M O O",
				ActionSkip:            "RUNNING  D1 D2 S5000 O O",
				ActionForceApplied:    "RUNNING  D1 D2 D5000 O O",
				ActionForceNotApplied: "COMPENSATING charge D1 D2 N5000 O O",
				ActionCancel:          "COMPENSATING charge D1 D2 M O O",
			},
		},
		"in doubt at the pivot": {
			plan: orderPlan, steps: "D1 D2 D3 M4*5 O", failed: "confirm",
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 D2 D3 M4 O",
				ActionSkip:            "RUNNING  D1 D2 D3 S5000 O",
				ActionForceApplied:    "RUNNING  D1 D2 D3 D5000 O",
				ActionForceNotApplied: "COMPENSATING confirm D1 D2 D3 N5000 O",
				ActionCancel:          "force-not-applied says",
			},
		},
		"failed behind the pivot": {
			plan: orderPlan, steps: "D1 D2 D3 D4 F*20", failed: "notify",
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 D2 D3 D4 F",
				ActionSkip:            "RUNNING  D1 D2 D3 D4 S5000",
				ActionForceApplied:    "RUNNING  D1 D2 D3 D4 D5000",
				ActionForceNotApplied: "RUNNING  D1 D2 D3 D4 O",
				ActionCancel:          "cannot go back any more",
			},
		},
		"refused behind the pivot": {
			plan: "a:v b:r c:r", steps: "D1 N2*1 O", failed: "b",
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 O O",
				ActionSkip:            "RUNNING  D1 S5000 O",
				ActionForceApplied:    "RUNNING  D1 D5000 O",
				ActionForceNotApplied: "RUNNING  D1 O O",
			},
		},
		"in doubt behind a pure step whose end was not written": {
			plan: orderPlan, steps: "O M*3 O O O", failed: "validate",
			want: map[Action]string{
				ActionRetry:           "RUNNING  O M O O O",
				ActionForceApplied:    "RUNNING  O D5000 O O O",
				ActionForceNotApplied: "COMPENSATING reserve O N5000 O O O",
				ActionCancel:          "COMPENSATING validate O M O O O",
			},
		},
		"data that could not be kept": {
			plan: orderPlan, steps: "D1 D2 D3*1 O O", failed: "charge",
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 D2 M3 O O",
				ActionForceApplied:    "RUNNING  D1 D2 D5000 O O",
				ActionForceNotApplied: "known to have taken effect",
				ActionCancel:          "COMPENSATING charge D1 D2 D3 O O",
			},
		},
		"data of a child that could not be kept": {
			plan: "a:cu b:v", steps: "D1*1 O", failed: "a",
			want: map[Action]string{ActionRetry: "RUNNING  W1 O", ActionCancel: "COMPENSATING a D1 O"},
		},
		"data that do not unmarshal": {
			plan: orderPlan, steps: "O O O O O",
			want: map[Action]string{ActionRetry: "RUNNING  O O O O O", ActionCancel: "COMPENSATING  O O O O O"},
		},
		"compensations given up": {
			plan: "a:su b:stu c:su d:su", steps: "X1*20 X2*20 U3 N4", failed: "d", undoing: true,
			want: map[Action]string{
				ActionRetry:           "COMPENSATING d M1 D2 U3 N4",
				ActionSkip:            "STUCK d X1*20 S5000 U3 N4", // a is still there
				ActionForceApplied:    "STUCK d X1*20 U5000 U3 N4",
				ActionForceNotApplied: "retry the compensation or skip it",
				ActionCancel:          "it goes back already",
			},
		},
		"one of the compensations given up": {
			plan: "a:su b:su c:su", steps: "X1*20 X2*20 U3", failed: "c", undoing: true, step: "a",
			want: map[Action]string{
				ActionRetry:        "COMPENSATING c M1 X2*20 U3",
				ActionForceApplied: "STUCK c U5000 X2*20 U3",
			},
		},
		"the only compensation given up": {
			plan: "a:su b:su", steps: "X1*20 F2", failed: "b", undoing: true, step: "a",
			want: map[Action]string{ActionForceApplied: "COMPENSATING b U5000 F2", ActionSkip: "COMPENSATING b S5000 F2"},
		},
		"a compensation that kills its owners": {
			plan: "a:su b:su", steps: "D1 D2*3", failed: "b", undoing: true,
			want: map[Action]string{
				ActionRetry:        "COMPENSATING b D1 D2",
				ActionSkip:         "COMPENSATING b D1 S5000",
				ActionForceApplied: "COMPENSATING b D1 U5000",
				ActionCancel:       "it goes back already",
			},
		},
		"a group in doubt": {
			plan: groupPlan, steps: "D1 M2*3 M3*3 O", failed: "b",
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 M2 M3 O",
				ActionSkip:            "STUCK c D1 S5000 M3*3 O",
				ActionForceApplied:    "STUCK c D1 D5000 M3*3 O",
				ActionForceNotApplied: "COMPENSATING b D1 N5000 M3 O",
				ActionCancel:          "COMPENSATING b D1 M2 M3 O",
			},
		},
		"the other of a group in doubt": {
			plan: groupPlan, steps: "D1 M2*3 M3*3 O", failed: "b", step: "c",
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 M2*3 M3 O",
				ActionForceApplied:    "STUCK b D1 M2*3 D5000 O",
				ActionForceNotApplied: "COMPENSATING c D1 M2 N5000 O",
			},
		},
		"the last of a group in doubt": {
			plan: groupPlan, steps: "D1 D2 M3*3 O", failed: "c",
			want: map[Action]string{ActionForceApplied: "RUNNING  D1 D2 D5000 O"},
		},
		"a group behind the pivot": {
			plan: "a:v b:r1 c:r1", steps: "D1 N2*1 F3*20", failed: "c",
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 O F3",
				ActionSkip:            "STUCK b D1 N2*1 S5000",
				ActionForceNotApplied: "STUCK b D1 N2*1 O",
			},
		},
		"one of a group behind the pivot, beside another that was refused": {
			plan: "a:v b:r1 c:r1", steps: "D1 N2*1 F3*20", failed: "b", step: "c",
			want: map[Action]string{ActionRetry: "STUCK b D1 N2*1 F3"}, // else it would be completed without b
		},
		"one of a group behind the pivot, beside another that failed": {
			plan: "a:v b:r1 c:r1", steps: "D1 F2*20 N3*1", failed: "b", step: "c",
			want: map[Action]string{ActionRetry: "RUNNING  D1 F2*20 O"},
		},
		"a group that has begun to decide": {
			plan: "a:su1 b:r1", steps: "M*3 D2", failed: "a",
			want: map[Action]string{ActionForceNotApplied: "cannot go back any more", ActionCancel: "cannot go back any more"},
		},
		"the first of a group that decides": {
			plan: "a:su b:r1 c:r1", steps: "D1 M*3 D2", failed: "b",
			want: map[Action]string{ActionForceNotApplied: "RUNNING  D1 O D2"},
		},
		"a group of which the others are open": {
			plan: groupPlan, steps: "D1 M2*3 O O", failed: "b",
			want: map[Action]string{ActionForceApplied: "RUNNING  D1 D5000 O O", ActionSkip: "RUNNING  D1 S5000 O O"},
		},
		"a pure step that failed": {
			plan: orderPlan, steps: "O*3 O O O O", failed: "validate",
			want: map[Action]string{ActionRetry: "RUNNING  O O O O O", ActionForceApplied: "RUNNING  D5000 O O O O"},
		},
		"pure steps only": {
			plan: "a:p b:p", steps: "O*3 O", failed: "a",
			want: map[Action]string{ActionSkip: "RUNNING  S5000 O"},
		},
		"data of a pure step that could not be kept": {
			plan: "a:p b:v", steps: "D1*1 O", failed: "a",
			want: map[Action]string{ActionRetry: "RUNNING  O O"},
		},
		"data that could not be kept behind a sleep": {
			plan: "a:z b:v", steps: "D1 O", failed: "a",
			want: map[Action]string{ActionRetry: "RUNNING  W1 O"},
		},
		"data that could not be kept of a signal": {
			plan: "a:a b:v", steps: "D1 O", failed: "a",
			want: map[Action]string{ActionRetry: "RUNNING  W1 O"},
		},
		"a sleep that did not begin": {
			plan: "a:z b:v", steps: "O O", failed: "a",
			want: map[Action]string{ActionRetry: "RUNNING  O O"},
		},
		"the first of two, by its name": {
			plan: groupPlan, steps: "D1 M2*3 M3*3 O", failed: "b", step: "b",
			want: map[Action]string{ActionForceApplied: "STUCK c D1 D5000 M3*3 O"},
		},
		"no such step": {
			plan: orderPlan, steps: "D1 D2 M*3 O O", failed: "charge", step: "reserve",
			want: map[Action]string{ActionSkip: `step "reserve" is not in its way`},
		},
		"nothing in the way": {
			plan: "a:p", steps: "U1", undoing: true,
			want: map[Action]string{ActionRetry: "COMPENSATING  U1", ActionSkip: "no step is in its way"},
		},
		"waits for a signal": {
			plan: "a:su b:a c:v", steps: "D1 W900 O", status: Suspended,
			want: map[Action]string{
				ActionRetry:           "RUNNING  D1 W900 O",
				ActionSkip:            "RUNNING  D1 S5000 O",
				ActionCancel:          "COMPENSATING  D1 W900 O",
				ActionForceApplied:    "no step is in doubt",
				ActionForceNotApplied: "no step is in doubt",
			},
		},
		"waits for a child, which is to be cancelled first": {
			plan: "a:cu c:v", steps: "W900*1 O", status: Suspended,
			want: map[Action]string{ActionCancel: "RUNNING  W900*1 O", ActionSkip: "RUNNING  S5000 O"},
		},
		"waits for a process that knows it": {
			plan: "a:su b:v", steps: "D1 O", status: Suspended,
			want: map[Action]string{ActionRetry: "RUNNING  D1 O", ActionSkip: "a process that knows", ActionCancel: "COMPENSATING  D1 O"},
		},
		"waits for a process that knows it, on the way back": {
			plan: "a:su b:v", steps: "D1 O", status: Suspended, undoing: true,
			want: map[Action]string{ActionRetry: "COMPENSATING  D1 O"},
		},
		"runs":     {plan: "a:su", steps: "O", status: Running, want: all("needs nobody")},
		"is done":  {plan: "a:su", steps: "D1", status: Completed, want: all("needs nobody")},
		"has gone": {plan: "a:su", steps: "U1", status: Compensated, undoing: true, want: all("needs nobody")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for do, want := range c.want {
				rec := stuck(t, c.plan, c.steps, c.failed, c.undoing)
				if c.status != 0 {
					rec.Status = c.status
				}
				before := *rec
				before.Steps = slices.Clone(rec.Steps)
				meant := c.step
				if names := rec.Blocked(); meant == "" && len(names) > 0 {
					meant = names[0]
				}
				next, ev, err := resolved(rec, do, Audit{Actor: "ada", Reason: "because", Step: c.step})
				require.Equal(t, before, *rec)
				if err != nil {
					refused, ok := err.(*ActionError) //nolint:errorlint // it is not wrapped
					require.True(t, ok)
					require.Contains(t, refused.Reason, want, do)
					if !slices.Contains(rec.Blocked(), meant) {
						require.Empty(t, refused.Step)
					}
					continue
				}
				text, err := next.Steps.AppendText(nil)
				require.NoError(t, err)
				require.Equal(t, want, strings.Join([]string{next.Status.String(), next.Failed, string(text)}, " "), do)
				require.Equal(t, int64(8), next.Revision)
				require.Zero(t, next.Crashes)
				require.Equal(t, EventResolved, ev.Kind)
				require.Equal(t, "ada", ev.Actor)
				require.Equal(t, meant, ev.Step, do)
				require.Equal(t, string(do)+": because", ev.Text)
			}
		})
	}
}

func all(want string) map[Action]string {
	m := map[Action]string{}
	for _, a := range actions {
		m[a] = want
	}
	return m
}

func TestBlocked(t *testing.T) {
	t.Parallel()
	rec := stuck(t, "a:su b:su1 c:su1 d:su1 e:v", "D1 O F2*3 D4 O", "c", false)
	require.Equal(t, []string{"c", "b"}, rec.Blocked())
	rec.Status = Running
	require.Nil(t, rec.Blocked())
	require.Equal(t, []string{"b"}, stuck(t, "a:v b:r c:r d:r", "D1 F*20 O O", "b", false).Blocked(), "those behind it are not in the way")
	require.Equal(t, []string{"b", "c"}, stuck(t, "a:v b:r1 c:r1 d:r2 e:r2", "D1 F*20 O O O", "b", false).Blocked(), "nor is the next group")
	rec = stuck(t, "a:su b:su c:su", "D1 X2 X3", "c", true)
	require.Equal(t, []string{"a", "c", "b"}, rec.Blocked())
	require.Nil(t, stuck(t, "a:su", "D1", "", false).Blocked())
	require.Equal(t, []string{"c"}, stuck(t, "a:p b:su c:su d:v", "O D2 M O", "a", false).Blocked(), "behind a step that is over")
	require.Equal(t, []string{"a"}, stuck(t, "a:p b:su c:su d:v", "O D2 O M", "a", false).Blocked())
}

// The store's clock was set back by a failover: what is written can be read.
func TestAResolutionOfASagaThatEndsBeforeItBegins(t *testing.T) {
	t.Parallel()
	rec := stuck(t, orderPlan, "D1 D2 M*3 O O", "charge", false)
	rec.Updated = rec.Created.Add(-time.Minute)
	for _, do := range []Action{ActionSkip, ActionForceApplied, ActionForceNotApplied} {
		next, _, err := resolved(rec, do, Audit{Actor: "ada", Reason: "why", ExpectRevision: 7})
		require.NoError(t, err)
		text, err := next.Steps.AppendText(nil)
		require.NoError(t, err)
		var steps Progress
		require.NoError(t, steps.UnmarshalText(text), "%s", text)
		require.Zero(t, steps[2].At)
	}
	rec.Updated = rec.Created.Add(1<<63 - 1) // nor is one that was set far ahead
	next, _, err := resolved(rec, ActionSkip, Audit{Actor: "ada", Reason: "why", ExpectRevision: 7})
	require.NoError(t, err)
	require.Equal(t, maxAt, next.Steps[2].At)
}

// The owner of a saga that waits is at it: the refusal is about no step.
func TestARefusalNamesNoStepOfASagaThatIsAtWork(t *testing.T) {
	t.Parallel()
	rec := stuck(t, "a:su b:a c:v", "D1 W900 O", "", false)
	rec.Status, rec.Owner = Suspended, "somebody"
	_, _, err := resolved(rec, ActionRetry, Audit{Actor: "ada", Reason: "why", ExpectRevision: 7})
	require.ErrorContains(t, err, "a process is at work on it")
	require.Empty(t, err.(*ActionError).Step) //nolint:errorlint // it is not wrapped
}
