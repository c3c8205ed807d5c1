package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
)

// A panel is one quantity of the reports against the number of series.
type panel struct {
	title, unit string
	lines       []line
}

// A line is how one quantity is read from a report; false: the report has none.
type line struct {
	name string
	of   func(*report) (float64, bool)
}

func scrapeCPU(format string) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		for _, s := range r.Scrapes {
			if s.Format == format && s.CPUSeconds > 0 {
				return s.CPUSeconds * 1e9 / float64(r.Series), true
			}
		}
		return 0, false
	}
}

var panels = []panel{
	{"ingest, CPU a sample", "ns", []line{
		{"known series", func(r *report) (float64, bool) { return r.Median.CPUNanos, r.Median.CPUNanos > 0 }},
		{"new series", func(r *report) (float64, bool) { return r.First.CPUNanos, r.First.CPUNanos > 0 }},
	}},
	{"resident, a series", "B", []line{
		{"whole process", func(r *report) (float64, bool) { return r.ResidentBytesPerSeries, r.ResidentBytesPerSeries > 0 }},
	}},
	{"scrape, CPU a series", "ns", []line{
		{"text", scrapeCPU("text")}, {"text, gzip", scrapeCPU("text+gzip")}, {"protobuf", scrapeCPU("protobuf")},
	}},
}

// Of a panel, in the units of SVG.
const (
	panelWidth, panelHeight = 300, 240
	marginLeft, marginRight = 56, 14
	marginTop, marginBottom = 34, 60
	plotWidth               = panelWidth - marginLeft - marginRight
	plotHeight              = panelHeight - marginTop - marginBottom
	legendTop               = panelHeight - 14
	colours                 = "#1f77b4 #d95f02 #2ca02c"
)

// draw writes the picture of reports, both axes logarithmic.
func draw(w io.Writer, files []string) error {
	var reports []*report
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		r := &report{}
		if err := json.Unmarshal(data, r); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if r.Series < 1 {
			return fmt.Errorf("%s: not a report of load --json", file)
		}
		reports = append(reports, r)
	}
	slices.SortFunc(reports, func(a, b *report) int { return cmp.Compare(a.Series, b.Series) })
	if reports[0].Series == reports[len(reports)-1].Series {
		return errors.New("reports of different numbers of series make a picture")
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="11">`+"\n", panelWidth*len(panels), panelHeight)
	fmt.Fprintf(&b, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n")
	for i, p := range panels {
		fmt.Fprintf(&b, "<g transform=\"translate(%d 0)\">\n", i*panelWidth)
		p.draw(&b, reports)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *panel) draw(b *strings.Builder, reports []*report) {
	lowX, highX := math.Log10(float64(reports[0].Series)), math.Log10(float64(reports[len(reports)-1].Series))
	least, most := math.Inf(1), math.Inf(-1)
	for _, l := range p.lines {
		for _, r := range reports {
			if v, ok := l.of(r); ok {
				least, most = min(least, v), max(most, v)
			}
		}
	}
	if math.IsInf(least, 0) {
		least, most = 1, 10
	}
	lowY, highY := math.Floor(math.Log10(least)), math.Ceil(math.Log10(most*1.001))
	x := func(n int) float64 { return marginLeft + plotWidth*(math.Log10(float64(n))-lowX)/(highX-lowX) }
	y := func(v float64) float64 { return marginTop + plotHeight*(highY-math.Log10(v))/(highY-lowY) }

	fmt.Fprintf(b, "<text x=\"%d\" y=\"18\" font-weight=\"600\">%s</text>\n", marginLeft, p.title)
	for e := lowY; e <= highY; e++ {
		for _, m := range []float64{1, 2, 5} {
			v := m * math.Pow(10, e)
			if e == highY && m > 1 {
				break
			}
			fmt.Fprintf(b, "<path d=\"M%d %.1fh%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" fill=\"#555\">%s %s</text>\n",
				marginLeft, y(v), plotWidth, marginLeft-5, y(v)+4, short(v), p.unit)
		}
	}
	for _, r := range reports {
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#555\">%s</text>\n", x(r.Series), marginTop+plotHeight+15, short(float64(r.Series)))
	}
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" fill=\"#555\">series</text>\n", marginLeft+plotWidth/2, marginTop+plotHeight+29)
	at := marginLeft
	for i, l := range p.lines {
		colour := strings.Fields(colours)[i]
		var points []string
		for _, r := range reports {
			if v, ok := l.of(r); ok {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(r.Series), y(v)))
				fmt.Fprintf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x(r.Series), y(v), colour)
			}
		}
		fmt.Fprintf(b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"/>\n", strings.Join(points, " "), colour)
		fmt.Fprintf(b, "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n", at+4, legendTop-4, colour, at+12, legendTop, l.name)
		at += 24 + 6*len(l.name)
	}
}

// short writes 1500000 as 1.5M.
func short(v float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1e6, "M"}, {1e3, "k"}} {
		if v >= u.of {
			return fmt.Sprintf("%g%s", v/u.of, u.name)
		}
	}
	return fmt.Sprintf("%g", v)
}
