package main

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
)

// TestStories runs testdata/stories; its README says what they may say.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("../../testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { tell(t, file, strings.Split(strings.TrimRight(string(text), "\n"), "\n")) })
		})
	}
}

// tell runs the lines of one story.
func tell(t *testing.T, file string, lines []string) {
	var r *relay
	restart := func(flags ...string) {
		r = unstarted(t, append([]string{"--journal=off"}, flags...)...)
		if err := r.start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	for i := 0; i < len(lines); {
		at := fmt.Sprintf("%s:%d", filepath.Base(file), i+1)
		line := strings.TrimSpace(lines[i])
		i++
		var in []string // indented lines
		for i < len(lines) && strings.HasPrefix(lines[i], "  ") {
			in = append(in, strings.TrimSpace(lines[i]))
			i++
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "", "#":
		case "relay":
			restart(strings.Fields(rest)...)
		case "advance":
			time.Sleep(duration(t, at, rest))
		case "sweep":
			r.store.Sweep(time.Now())
		case "push":
			want := []string{"204"}
			if i < len(lines) && strings.HasPrefix(lines[i], "= ") {
				want = strings.Fields(lines[i][2:])
				i++
			}
			storyPush(t, at, r, strings.Fields(rest), in, want)
		case "scrape":
			want := "200"
			if i < len(lines) && strings.HasPrefix(lines[i], "= ") {
				want = strings.TrimSpace(lines[i][2:])
				i++
			}
			storyScrape(t, at, r, rest, in, want)
		default:
			t.Fatalf("%s: what is %q?", at, line)
		}
	}
}

func duration(t *testing.T, at, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	return d
}

func storyPush(t *testing.T, at string, r *relay, options, samples, want []string) {
	t.Helper()
	req := &prompb.WriteRequest{}
	p := parser.NewParser(parser.Options{})
	for _, line := range samples {
		ts := time.Now()
		if s, ago, ok := strings.Cut(line, " @"); ok {
			line, ts = s, ts.Add(duration(t, at, ago))
		}
		name, number, ok := cutLast(line, " ")
		v := math.Float64frombits(value.StaleNaN)
		var err error
		if number != "stale" {
			v, err = strconv.ParseFloat(number, 64)
		}
		l, _, perr := p.ParseSeriesDesc(name)
		if !ok || err != nil || perr != nil {
			t.Fatalf("%s: %q: %v %v", at, line, err, perr)
		}
		one := prompb.TimeSeries{Samples: []prompb.Sample{{Value: v, Timestamp: ts.UnixMilli()}}}
		l.Range(func(l labels.Label) { one.Labels = append(one.Labels, prompb.Label{Name: l.Name, Value: l.Value}) })
		req.Timeseries = append(req.Timeseries, one)
	}
	raw, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(snappy.Encode(nil, raw)))
	for _, o := range options {
		key, v, _ := strings.Cut(o, "=")
		switch key {
		case "edge":
			h.Header.Set("X-Relay-Edge", v)
		case "ttl":
			h.Header.Set("X-Relay-TTL", v)
		case "query":
			h.URL.RawQuery = v
		default:
			t.Fatalf("%s: what is %q?", at, o)
		}
	}
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, h)
	answer := fmt.Sprint(w.Code, " ", w.Body)
	for _, word := range want {
		if !strings.Contains(answer, word) {
			t.Errorf("%s: answered %q, want %q in it", at, answer, word)
		}
	}
	if !strings.HasPrefix(answer, want[0]) {
		t.Errorf("%s: answered %q, want %s", at, answer, want[0])
	}
}

func storyScrape(t *testing.T, at string, r *relay, query string, want []string, code string) {
	t.Helper()
	h := httptest.NewRequest(http.MethodGet, "/metrics?"+query, nil)
	h.Header.Set("Accept", "text/plain;version=1.0.0;escaping=allow-utf-8")
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, h)
	if got := fmt.Sprint(w.Code); got != code {
		t.Errorf("%s: answered %s, want %s", at, got, code)
	}
	if w.Code != 200 {
		return
	}
	var got []string
	for line := range strings.Lines(w.Body.String()) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		for _, cut := range []string{`,instance=""`, `instance="",`, `instance=""`} {
			line = strings.Replace(line, cut, "", 1)
		}
		name, rest, _ := strings.Cut(strings.Replace(line, "{}", "", 1), " ")
		number, ts, stamped := strings.Cut(rest, " ")
		line = name + " " + number
		if ms, err := strconv.ParseInt(ts, 10, 64); stamped && err == nil {
			d := time.Until(time.UnixMilli(ms))
			sign := ""
			if d > 0 {
				sign = "+"
			}
			line += " @" + sign + d.String()
		}
		got = append(got, line)
	}
	for i, line := range want {
		if s, ago, ok := strings.Cut(line, " @"); ok { // in one spelling
			d := duration(t, at, ago)
			sign := ""
			if d > 0 {
				sign = "+"
			}
			want[i] = s + " @" + sign + d.String()
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: the page shows\n  %s\nwant\n  %s", at, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
