package saga

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
)

// The measures of a picture, in pixels.
const (
	svgMargin = 16
	svgLane   = 76 // left of the boxes, for the way back
	svgBoxW   = 224
	svgBoxH   = 46
	svgGap    = 26 // below a box
	svgAside  = 14 // between boxes side by side
	svgWide   = 4  // boxes side by side at most
	svgFrame  = 8  // around them
	svgTop    = 44
)

// WriteSVG draws a plan as an SVG picture: the steps from top to bottom, those that
// run at the same time side by side, the way back dashed on the left, and a line behind
// which there is no way back. With steps, of the same length, each box has the colour
// of what is known of it, and says so; nil draws the plan alone. The picture follows
// the light or dark scheme of its reader, and has no scripts. Cost: one write.
func WriteSVG(w io.Writer, plan Plan, steps Progress) error {
	d := newDrawing(plan, steps)
	d.steps()
	d.back()
	if _, err := io.WriteString(w, d.head()+d.b.String()+"</svg>\n"); err != nil {
		return fmt.Errorf("saga: write picture: %w", err)
	}
	return nil
}

// drawing is a picture in the making.
type drawing struct {
	plan     Plan
	progress Progress
	stages   []drawn
	pivot    int
	mid      int // of the boxes
	width    int
	height   int
	b        bytes.Buffer
}

// drawn is a stage and where it is.
type drawn struct {
	steps     []int
	x, y      int // its left upper corner
	w, h      int
	last      bool // there is no way back behind it
	undo      bool
	undone    bool // all of it that was to be undone
	following int  // pixels to the next stage
}

func newDrawing(plan Plan, steps Progress) *drawing {
	d := &drawing{plan: plan, progress: steps, pivot: plan.pivot()}
	widest := svgBoxW
	y := svgTop
	for _, stage := range plan.stages() {
		s := drawn{steps: stage, y: y, w: svgBoxW, h: svgBoxH, following: svgGap}
		if n := len(stage); n > 1 {
			columns, rows := min(n, svgWide), (n+svgWide-1)/svgWide
			s.w = columns*(svgBoxW+svgAside) - svgAside + 2*svgFrame
			s.h = rows*(svgBoxH+svgAside) - svgAside + 2*svgFrame
		}
		for _, i := range stage {
			s.last = s.last || i == d.pivot
			if plan[i].Undo {
				s.undone = (s.undone || !s.undo) && i < len(steps) && steps[i].Mark == Undone
				s.undo = true
			}
		}
		if s.last {
			s.following = svgGap + 14
		}
		y += s.h + s.following
		widest = max(widest, s.w)
		d.stages = append(d.stages, s)
	}
	d.mid = svgMargin + svgLane + widest/2
	d.width, d.height = 2*svgMargin+svgLane+widest, y+22
	for i := range d.stages {
		d.stages[i].x = d.mid - d.stages[i].w/2
	}
	return d
}

// printf adds elements. Its texts are to be escaped.
func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(&d.b, format, args...) }

func (d *drawing) steps() {
	d.printf("<circle class=\"dot\" cx=\"%d\" cy=\"16\" r=\"6\"/>\n", d.mid)
	from := 22
	for _, s := range d.stages {
		d.arrow(from, s.y)
		if len(s.steps) > 1 {
			d.printf("<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"10\"/>\n", s.x, s.y, s.w, s.h)
		}
		for n, i := range s.steps {
			x, y := s.x, s.y
			if len(s.steps) > 1 {
				x += svgFrame + n%svgWide*(svgBoxW+svgAside)
				y += svgFrame + n/svgWide*(svgBoxH+svgAside)
			}
			d.box(i, x, y)
		}
		from = s.y + s.h
		if s.last {
			at := from + s.following/2
			d.printf("<path class=\"pivot\" d=\"M%d %dH%d\"/>\n", svgMargin, at, d.width-svgMargin)
			d.printf("<text class=\"soft\" x=\"%d\" y=\"%d\">no way back</text>\n", svgMargin, at-5)
		}
	}
	d.arrow(from, d.height-28)
	d.printf("<circle class=\"ring\" cx=\"%d\" cy=\"%d\" r=\"7\"/><circle class=\"dot\" cx=\"%d\" cy=\"%d\" r=\"3.5\"/>\n", d.mid, d.height-20, d.mid, d.height-20)
	d.printf("<text class=\"soft\" x=\"%d\" y=\"%d\">completed</text>\n", d.mid+14, d.height-16)
}

// arrow leads down to a height.
func (d *drawing) arrow(from, to int) {
	d.printf("<path class=\"way\" d=\"M%d %dV%d\"/><path class=\"head\" d=\"M%d %dl-4 -7h8z\"/>\n", d.mid, from, to-6, d.mid, to)
}

func (d *drawing) box(i, x, y int) {
	s, class, label := d.plan[i], "open", d.plan[i].label()
	if i < len(d.progress) {
		class = d.progress[i].Mark.class()
		if d.progress[i].Mark != Open {
			label = d.progress[i].label()
		}
	}
	if i == d.pivot {
		class += " strong"
	}
	rx := 6
	if s.Kind == KindPure || s.Kind == KindSleep || s.Kind == KindAwait {
		rx = svgBoxH / 2
	}
	d.printf("<g class=\"%s\"><title>%s: %s</title>", class, escaped(s.Name), escaped(label))
	d.printf("<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"%d\"/>", x, y, svgBoxW, svgBoxH, rx)
	d.printf("<text class=\"name\" x=\"%d\" y=\"%d\">%s</text>", x+svgBoxW/2, y+20, escaped(clipped(s.Name, 25)))
	d.printf("<text class=\"what\" x=\"%d\" y=\"%d\">%s</text></g>\n", x+svgBoxW/2, y+37, escaped(clipped(label, 34)))
}

// label says what a step is.
func (p Planned) label() string {
	if p.Tx {
		return p.Kind.String() + ", in the transaction"
	}
	return p.Kind.String()
}

// back draws the way back: from each stage to the one before it that can be undone.
func (d *drawing) back() {
	const x, y = svgMargin + 18, 16 // where it ends
	to := -1
	for i, s := range d.stages {
		if !s.undo {
			continue
		}
		class, from := "undo", s.y+s.h/2-7
		if s.undone {
			class = "undo taken"
		}
		if to < 0 {
			d.printf("<path class=\"%s\" d=\"M%d %dC%d %d %d %d %d %d\"/>", class, s.x, from, x, from, x, from, x, y+13)
			d.printf("<path class=\"%s-head\" d=\"M%d %dl-4 7h8z\"/>\n", class[:4], x, y+7)
			d.printf("<circle class=\"ring\" cx=\"%d\" cy=\"%d\" r=\"6\"/><text class=\"soft\" x=\"%d\" y=\"%d\">compensated</text>\n", x, y, x+12, y+4)
		} else {
			end := d.stages[to].y + d.stages[to].h/2 + 7
			left := min(s.x, d.stages[to].x) - 46
			d.printf("<path class=\"%s\" d=\"M%d %dC%d %d %d %d %d %d\"/>", class, s.x, from, left, from, left, end, d.stages[to].x-7, end)
			d.printf("<path class=\"undo-head\" d=\"M%d %dl-7 -4v8z\"/>", d.stages[to].x, end)
			d.printf("<text class=\"soft\" text-anchor=\"end\" x=\"%d\" y=\"%d\">undo</text>\n", left+4, (from+end)/2+4)
		}
		to = i
	}
}

func (d *drawing) head() string {
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n%s<rect class=\"paper\" width=\"%d\" height=\"%d\" rx=\"8\"/>\n",
		d.width, d.height, d.width, d.height, svgStyle, d.width, d.height)
}

// svgStyle has each colour twice, as not every program that draws knows variables.
const svgStyle = `<title>A saga</title>
<style>
svg { color-scheme: light dark; font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.paper { fill: #fff; }
text { fill: #1b2430; }
.name { font-size: 14px; font-weight: 600; text-anchor: middle; }
.what { font-size: 12px; text-anchor: middle; }
.soft { font-size: 12px; fill: #5b6675; }
.dot, .head { fill: #5b6675; }
.ring { fill: none; stroke: #5b6675; stroke-width: 1.5; }
.way { fill: none; stroke: #5b6675; stroke-width: 1.5; }
.frame { fill: none; stroke: #8a94a3; stroke-dasharray: 2 3; }
.pivot { stroke: #8a94a3; stroke-dasharray: 6 4; }
.undo { fill: none; stroke: #a86a00; stroke-width: 1.5; stroke-dasharray: 4 3; }
.taken { stroke-width: 2.5; stroke-dasharray: none; }
.undo-head { fill: #a86a00; }
.open rect { fill: #f6f8fa; stroke: #8a94a3; }
.waiting rect { fill: #dcebff; stroke: #0b62c4; }
.doubt rect { fill: #fff0c9; stroke: #a86a00; }
.done rect { fill: #d8f3e0; stroke: #1a7f43; }
.past rect { fill: #e4e8ed; stroke: #5b6675; }
.bad rect { fill: #ffdcd8; stroke: #c4261b; }
.strong rect { stroke-width: 3; }
@media (prefers-color-scheme: dark) {
.paper { fill: #12171e; }
text { fill: #e4e9f0; }
.soft { fill: #9aa6b5; }
.dot, .head { fill: #9aa6b5; }
.ring, .way { stroke: #9aa6b5; }
.frame, .pivot { stroke: #6d7988; }
.undo { stroke: #e0a33c; }
.undo-head { fill: #e0a33c; }
.open rect { fill: #19202a; stroke: #6d7988; }
.waiting rect { fill: #12304f; stroke: #6cb0ff; }
.doubt rect { fill: #45340c; stroke: #e0a33c; }
.done rect { fill: #123a23; stroke: #4cc27a; }
.past rect { fill: #262e39; stroke: #9aa6b5; }
.bad rect { fill: #4d1815; stroke: #ff7a70; }
}
</style>
`

// clipped is as much of s as most small letters have room for.
func clipped(s string, most int) string {
	room, cut := 10*most, 0
	for i, c := range s {
		if room >= 10 { // for the mark that something is missing
			cut = i
		}
		room -= wide(c)
	}
	if room >= 0 {
		return s
	}
	return s[:cut] + "…"
}

// wide is about how wide a letter is, in tenths of a small one.
func wide(c rune) int {
	switch {
	case c == 'm' || c == 'w' || c == 'M' || c == 'W':
		return 17
	case c >= 'A' && c <= 'Z':
		return 14
	}
	return 10
}

func escaped(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}
