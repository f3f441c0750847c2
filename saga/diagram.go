package saga

import (
	"cmp"
	"fmt"
	"strings"
)

// Diagram returns a definition as a flowchart in Mermaid's language, which GitHub and
// others draw where they find it in Markdown. Solid arrows lead forward, dotted
// ones back; the step behind which there is no way back is a hexagon.
func Diagram(def Registered) string {
	p := def.registered()
	return mermaid(fmt.Sprintf("%s %d", p.name, p.version), p.plan, nil)
}

// DiagramOf is [Diagram] for one saga: each step has the colour of what is known of
// it, and says so.
func DiagramOf(rec *Record) string {
	return mermaid(fmt.Sprintf("%s: %s", rec.ID, rec.Status), rec.Plan, rec.Steps)
}

// stages groups the indices of steps that run at the same time.
func (p Plan) stages() (stages [][]int) {
	for i, s := range p {
		if last := len(stages) - 1; last >= 0 && s.Group > 0 && p[stages[last][0]].Group == s.Group {
			stages[last] = append(stages[last], i)
			continue
		}
		stages = append(stages, []int{i})
	}
	return stages
}

// shapes are what a kind is drawn as.
var shapes = map[Kind][2]string{
	KindStep: {"[", "]"}, KindPure: {"(", ")"}, KindPivot: {"{{", "}}"}, KindRetriable: {"([", "])"},
	KindSleep: {"[/", "/]"}, KindAwait: {"[/", "/]"}, KindChild: {"[[", "]]"},
}

func mermaid(title string, plan Plan, steps Progress) string {
	var b strings.Builder
	fmt.Fprintf(&b, "flowchart TD\n    started([%s])\n", quoted(title))
	for i, s := range plan {
		shape, label, class := shapes[s.Kind], s.Name, ""
		if i < len(steps) {
			label += "<br/>" + steps[i].label()
			class = ":::" + steps[i].Mark.class()
		}
		fmt.Fprintf(&b, "    s%d%s%s%s%s\n", i, shape[0], quoted(label), shape[1], class)
	}
	b.WriteString("    completed([completed])\n")
	arrows(&b, plan)
	back := "compensated"
	for i, s := range plan {
		if s.Undo {
			fmt.Fprintf(&b, "    s%d -. undo .-> %s\n", i, back)
			back = fmt.Sprintf("s%d", i)
		}
	}
	if back != "compensated" {
		b.WriteString("    compensated([compensated])\n")
	}
	if steps != nil {
		b.WriteString(mermaidColours)
	}
	return b.String()
}

// arrows draws the way forward, from each step of a stage to each of the next.
func arrows(b *strings.Builder, plan Plan) {
	from, kind := []string{"started"}, "-->"
	pivot := plan.pivot()
	for _, stage := range plan.stages() {
		var to []string
		for _, i := range stage {
			to = append(to, fmt.Sprintf("s%d", i))
		}
		fmt.Fprintf(b, "    %s %s %s\n", strings.Join(from, " & "), kind, strings.Join(to, " & "))
		from, kind = to, "-->"
		if stage[0] <= pivot && pivot <= stage[len(stage)-1] {
			kind = "-->|no way back|"
		}
	}
	fmt.Fprintf(b, "    %s %s completed\n", strings.Join(from, " & "), kind)
}

// label says in a few words what is known of a step.
func (s StepState) label() string {
	switch {
	case s.Mark == Waiting:
		return "waiting until +" + short(s.At)
	case s.Attempts > 1:
		return fmt.Sprintf("%s, %d attempts", s.Mark, s.Attempts)
	case s.At > 0:
		return fmt.Sprintf("%s +%s", s.Mark, short(s.At))
	}
	return cmp.Or(s.Mark.String(), "unknown")
}

// classes are the colours of marks.
var classes = map[Mark]string{
	Open: "open", Waiting: "waiting", Failed: "doubt", Maybe: "doubt", Done: "done", NotApplied: "past", Undone: "past", UndoFailed: "bad", Skipped: "past",
}

// class is the mark's colour, also of one that nobody has set.
func (m Mark) class() string { return cmp.Or(classes[m], "open") }

const mermaidColours = `    classDef open fill:#ffffff,stroke:#8a94a3,color:#1b2430
    classDef waiting fill:#dcebff,stroke:#0b62c4,color:#0b2a52
    classDef doubt fill:#fff0c9,stroke:#a86a00,color:#4a2f00
    classDef done fill:#d8f3e0,stroke:#1a7f43,color:#0d3a1f
    classDef past fill:#e9ecf0,stroke:#5b6675,color:#39424e
    classDef bad fill:#ffdcd8,stroke:#c4261b,color:#5c0f0a
`

// quoted is a label. Names of a stored plan may be anything.
func quoted(s string) string {
	s = strings.NewReplacer(`"`, "#quot;", "#", "#35;", "&", "#amp;", "<br/>", "<br/>", "<", "#lt;", ">", "#gt;").Replace(plain(s))
	return `"` + s + `"`
}
