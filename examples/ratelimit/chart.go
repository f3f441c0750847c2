package main

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// The drawing: one panel for each way, all to one scale, each with the number admitted during the last Per at every moment, and the limit across. One
// file with no references, whose colours follow the reader's light or dark.
const (
	chartWidth  = 760
	panelHeight = 118
	left, right = 62, 168
	top, gap    = 74, 26
)

// Colours are written out for light and again for dark, since many viewers know no variables.
const chartStyle = `<style>
text{font:12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",Helvetica,Arial,sans-serif;fill:#59636e}
.paper{fill:#ffffff} .title{font-size:17px;font-weight:600;fill:#1f2328} .name{font-size:13px;font-weight:600;fill:#1f2328} .figure{font-size:12px}
.grid{stroke:#d1d9e0;stroke-width:1} .limit{stroke:#1f2328;stroke-width:1.2;stroke-dasharray:5 4}
.ok{fill:#1a7f64} .bad{fill:#c4432b} .area{fill:#1a7f64;fill-opacity:.2} .over{fill:#c4432b;fill-opacity:.5}
.stroke{fill:none;stroke:#1a7f64;stroke-width:1.6;stroke-linejoin:round} .stall{fill:#59636e;fill-opacity:.14} .end{text-anchor:end} .mid{text-anchor:middle}
@media (prefers-color-scheme:dark){
text{fill:#9aa4af} .paper{fill:#0d1117} .title,.name{fill:#e6edf3} .grid{stroke:#30363d} .limit{stroke:#e6edf3}
.ok{fill:#3fb68f} .bad{fill:#ff7b62} .area{fill:#3fb68f} .over{fill:#ff7b62} .stroke{stroke:#3fb68f} .stall{fill:#9aa4af}
}
</style>
`

// chart knows where things are.
type chart struct {
	strings.Builder
	s    *setting
	most float64 // the top of the scale
}

func draw(s setting, traces []trace) string {
	c := &chart{s: &s, most: 1.15 * float64(s.limit.Rate)}
	for _, t := range traces {
		c.most = max(c.most, 1.08*float64(t.peak))
	}
	height := top + len(traces)*(panelHeight+gap) + 14
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", chartWidth, height, chartWidth, height)
	fmt.Fprintf(c, "<title>Units admitted in the last %v by %d processes that share a limit of %d</title>\n", s.limit.Per, s.nodes, s.limit.Rate)
	c.WriteString(chartStyle)
	fmt.Fprintf(c, `<rect class="paper" width="%d" height="%d" rx="8"/>`+"\n", chartWidth, height)
	c.text(left, 30, "title", fmt.Sprintf("Admitted in the last %v, by %d processes together", s.limit.Per, s.nodes))
	c.text(left, 50, "", fmt.Sprintf("limit %d per %v (%v), asked for %g times that; reports every %v", s.limit.Rate, s.limit.Per, s.limit.Algorithm, s.demand, s.period))
	for i, t := range traces {
		c.panel(float64(top+i*(panelHeight+gap)), t)
	}
	c.axis(float64(height - 14 - gap))
	c.WriteString("</svg>\n")
	return c.String()
}

func (c *chart) text(x, y float64, class, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" class="%s">%s</text>`+"\n", x, y, class, strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s))
}

func (c *chart) x(at time.Duration) float64 {
	return left + at.Seconds()/c.s.span.Seconds()*(chartWidth-left-right)
}

func (c *chart) y(base, n float64) float64 { return base + panelHeight*(1-n/c.most) }

func (c *chart) panel(base float64, t trace) {
	bottom, limit := c.y(base, 0), c.y(base, float64(c.s.limit.Rate))
	end := float64(chartWidth - right)
	if c.s.stall > 0 {
		from := c.x(c.s.span / 2)
		fmt.Fprintf(c, `<rect class="stall" x="%.1f" y="%.1f" width="%.1f" height="%d"/>`+"\n", from, base, c.x(min(c.s.span, c.s.span/2+c.s.stall))-from, panelHeight)
		if base == top {
			c.text(from, base-5, "", "store hangs")
		}
	}
	fmt.Fprintf(c, `<line class="grid" x1="%d" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", left, end, bottom, bottom)
	line := c.line(base, t)
	area := fmt.Sprintf("M%d %.1fL%sL%.1f %.1fZ", left, bottom, line, end, bottom)
	id := fmt.Sprintf("c%.0f", base)
	fmt.Fprintf(c, `<clipPath id="%s"><rect x="0" y="%.1f" width="%d" height="%.1f"/></clipPath>`+"\n", id, base-6, chartWidth, limit-base+6)
	fmt.Fprintf(c, `<path class="area" d="%s"/><path class="over" clip-path="url(#%s)" d="%s"/><path class="stroke" d="M%s"/>`+"\n", area, id, area, line)
	fmt.Fprintf(c, `<line class="limit" x1="%d" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", left, end, limit, limit)
	c.text(left-8, limit+4, "end", fmt.Sprint(c.s.limit.Rate))
	c.text(left-8, bottom+4, "end", "0")
	c.figures(end+14, base, t)
}

// figures stand beside a panel.
func (c *chart) figures(x, base float64, t trace) {
	class := "ok"
	if t.over > c.s.over {
		class = "bad"
	}
	c.text(x, base+24, "name", t.name)
	c.text(x, base+46, "figure "+class, fmt.Sprintf("%+.1f %% over the limit", 100*t.over))
	c.text(x, base+64, "figure", fmt.Sprintf("fullest %v: %d", c.s.limit.Per, t.peak))
	c.text(x, base+82, "figure", fmt.Sprintf("%.1f checks a question", float64(t.checks)/float64(max(1, t.questions))))
}

// line is the number admitted in the last Per, at each step of the width.
func (c *chart) line(base float64, t trace) string {
	var b strings.Builder
	const steps = chartWidth - left - right
	from, to := 0, 0
	for i := range steps + 1 {
		at := c.s.span * time.Duration(i) / steps
		for to < len(t.admitted) && t.admitted[to] <= at {
			to++
		}
		for from < to && t.admitted[from] <= at-c.s.limit.Per {
			from++
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%.1f %.1f", c.x(at), c.y(base, float64(to-from)))
	}
	return b.String()
}

func (c *chart) axis(y float64) {
	step := math.Max(0.5, math.Ceil(c.s.span.Seconds()/8))
	for at := 0.0; at <= c.s.span.Seconds()+1e-9; at += step {
		c.text(c.x(time.Duration(at*float64(time.Second))), y+18, "mid", fmt.Sprintf("%g s", at))
	}
}
