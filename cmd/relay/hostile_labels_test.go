package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
)

// hostileLabels is about names and labels: who says what under whose name.
func hostileLabels(t *testing.T) {
	s := besiege(t)
	s.run("17 a label twice", func(a *attack) {
		a.wants(a.push(one(1, "__name__", "h17", "a", "1", "a", "2"), one(2, "__name__", "h17ok")), 400, "duplicate_label", `"a"`, "1 of 2 refused")
		a.refusedSamples("duplicate_label", 1)
		a.shows(2, "__name__", "h17ok")
	})
	s.run("18 labels in no order are the same series", func(a *attack) {
		a.wants(a.push(one(1, "__name__", "h18", "a", "1", "b", "2")), 204)
		time.Sleep(2 * time.Millisecond)
		a.wants(a.push(one(2, "b", "2", "__name__", "h18", "a", "1")), 204)
		a.shows(2, "__name__", "h18", "a", "1", "b", "2")
	})
	s.run("19 empty names and values", func(a *attack) {
		a.wants(a.push(one(1, "", "x", "__name__", "h19")), 400, "label_invalid")
		a.refusedSamples("label_invalid", 1)
		a.wants(a.push(one(2, "__name__", "h19", "a", "")), 204)
		time.Sleep(2 * time.Millisecond)
		a.wants(a.push(one(3, "__name__", "h19")), 204)
		a.shows(3, "__name__", "h19")
	})
	s.run("20 no name", func(a *attack) {
		a.wants(a.push(one(1, "a", "h20"), one(2, "__name__", "h20ok"), one(1, "__name__", "", "a", "x")), 400, "missing_metric_name", "2 of 3")
		a.refusedSamples("missing_metric_name", 2)
		a.shows(2, "__name__", "h20ok")
	})
	s.run("21 names that are none, and names that are odd", func(a *attack) {
		for _, bad := range []string{"h21\x00", "h21\xff", "h21\xc0\xaf", strings.Repeat("x", 1<<20)} {
			if got := a.push(one(1, "__name__", bad)); got.code != 400 {
				a.Errorf("%.20q as a metric: %d", bad, got.code)
			}
			if got := a.push(one(1, "__name__", "h21", bad, "v")); got.code != 400 {
				a.Errorf("%.20q as a label: %d", bad, got.code)
			}
		}
		a.mayRefuse("metric_name_invalid", "label_invalid", "label_name_bytes", "label_value_bytes", "series_bytes")
		for i, odd := range []string{"h21\nx 1", `h21"`, `h21\`, "h21 x", "h21{}", "h21 é 🎉 \u2028", "{", "# HELP", "__h21", strings.Repeat("n", 1024)} {
			a.wants(a.push(one(float64(i), "__name__", odd)), 204)
			a.shows(float64(i), "__name__", odd)
			if strings.HasPrefix(odd, "__") || strings.HasPrefix(odd, "{") || strings.HasPrefix(odd, "#") {
				continue // as labels these are shown with two underscores
			}
			a.wants(a.push(one(float64(i), "__name__", "h21", odd, "v")), 204)
			a.shows(float64(i), "__name__", "h21", odd, "v")
		}
	})
	s.run("22 values that look like lines", func(a *attack) {
		for i, v := range oddValues {
			a.wants(a.push(one(float64(i), "__name__", "h22", "v", v)), 204)
			a.shows(float64(i), "__name__", "h22", "v", v)
		}
		// Every format says the same.
		for _, format := range everyFormat {
			page := s.page(format)
			for i, v := range oddValues {
				found := false
				for l, got := range page {
					found = found || strings.Contains(l, `__name__="h22"`) && strings.Contains(l, "v="+strconv.Quote(v)) && got == fmt.Sprint(i)
				}
				if !found {
					a.Errorf("%s lacks %q", format, v)
				}
			}
		}
		bad := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "h22"}, {Name: "v", Value: "\xff\xfe"}}, Samples: []prompb.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}}}
		a.wants(a.push(bad), 400, "label_invalid")
		a.refusedSamples("label_invalid", 1)
	})
	s.run("23 HTML in names and values", func(a *attack) {
		const html = `<img src=x onerror=h23()>`
		a.wants(a.push(one(23, "__name__", html), one(23, "__name__", "h23", "v", html, html, "x")), 204)
		a.shows(23, "__name__", html)
		a.shows(23, "__name__", "h23", "v", html, html, "x")
		for _, path := range []string{"/", "/metrics", "/api/v1/edges", "/api/v1/sd", "/api/v1/status", "/api/v1/metrics", "/api/v1/series?match[]=h23", "/api/v1/series?match[]=" + html, "/" + html} {
			body, media, nosniff := s.fetch(a, path)
			if strings.Contains(media, "html") && strings.Contains(body, "<img") {
				a.Errorf("%s shows it as it is:\n%.300s", path, body)
			}
			if !strings.Contains(media, "html") && strings.Contains(body, "onerror") && !nosniff {
				a.Errorf("%s, %s, may be taken for HTML", path, media)
			}
		}
	})
	s.run("24 another's label", func(a *attack) {
		a.token = "token-of-victim"
		a.wants(a.push(one(1, "__name__", "h24")), 204)
		a.token = attackToken
		a.showsExactly(1, "__name__", "h24", "edge", "victim")
		time.Sleep(2 * time.Millisecond)
		a.wants(a.push(one(2, "__name__", "h24", "edge", "victim")), 204)
		a.shows(2, "__name__", "h24")
		a.moved["relay_overridden_labels_total"] = 1
	})
	s.run("25 labels that are reserved", func(a *attack) {
		names := []string{"__edge__", "__address__", "__replica__", "__param_target", "__", "..x", "__\n"}
		for _, name := range names {
			a.wants(a.push(one(1, "__name__", "h25", name, "h0stile")), 400, "label_invalid")
		}
		a.refusedSamples("label_invalid", len(names))
	})
	s.run("26 the relay's own metrics", func(a *attack) {
		before := s.metrics()
		a.wants(a.push(one(-1, "__name__", "relay_series_live"), one(-1, "__name__", "up", "job", "relay", "instance", "relay:10091"), one(-1, "__name__", "process_resident_memory_bytes")), 204)
		a.shows(-1, "__name__", "relay_series_live")
		a.shows(-1, "__name__", "up", "job", "relay", "instance", "relay:10091")
		a.shows(-1, "__name__", "process_resident_memory_bytes")
		after := s.metrics()
		if after["relay_series_live"] < 0 || after["process_resident_memory_bytes"] < 0 || len(after) < len(before) {
			a.Error("the relay's own metrics are not its own")
		}
	})
	s.run("27 help of a megabyte, with newlines", func(a *attack) {
		raw, err := (&prompb.WriteRequest{
			Timeseries: []prompb.TimeSeries{one(27, "__name__", "h27"), one(28, "__name__", "h28")},
			Metadata: []prompb.MetricMetadata{
				{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "h27", Help: strings.Repeat("help\n", 200_000)},
				{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "h28", Help: "a\n# TYPE h28 counter\nh28 5\\\xff\"", Unit: "x\ny"},
				{Type: 99, MetricFamilyName: "h28\n", Help: "a"},
			},
		}).Marshal()
		if err != nil {
			a.Fatal(err)
		}
		a.wants(a.write(raw), 204)
		a.shows(27, "__name__", "h27")
		a.shows(28, "__name__", "h28")
		for _, format := range everyFormat {
			if page := s.page(format); page == nil {
				a.Errorf("%s", format)
			}
		}
		if page := getPage(t, s.web+"/metrics"); len(page) > 64<<10 {
			a.Errorf("the page has %d bytes", len(page))
		}
	})
	s.run("62 labels that are shown as the forced ones", func(a *attack) {
		a.wants(a.push(one(62, "__name__", "h62", "site.id", "victim", "site-id", "victim", "sité_id", "victim")), 204)
		a.moved["relay_overridden_labels_total"] = 1
		for _, format := range everyFormat {
			for l := range s.page(format) {
				if strings.Contains(l, `__name__="h62"`) && (strings.Count(l, "site") != 1 || !strings.Contains(l, `site_id="a"`)) {
					a.Errorf("%s shows %s", format, l)
				}
			}
		}
		a.any = true
	})
	s.run("63 another's gauge called a histogram", func(a *attack) {
		raw, err := (&prompb.WriteRequest{
			Timeseries: []prompb.TimeSeries{one(1, "__name__", "sentinel_value_bucket", "le", "+Inf"), one(1, "__name__", "sentinel_value_sum"), one(1, "__name__", "sentinel_value_count"), one(1, "__name__", "sentinel_up_total")},
			Metadata: []prompb.MetricMetadata{
				{Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "sentinel_value", Help: "h0stile"},
				{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "sentinel_up", Help: "h0stile"},
			},
		}).Marshal()
		if err != nil {
			a.Fatal(err)
		}
		a.wants(a.write(raw), 204)
		a.may["relay_metadata_conflicts_total"] = true
		a.any = true
		for _, format := range everyFormat {
			body, media := s.raw(a, format)
			page, err := parsePage(body, media)
			if err != nil {
				a.Errorf("%s: %v", format, err)
			}
			n := 0
			for l := range page {
				if strings.Contains(l, `edge="sentinel"`) && (strings.Contains(l, `__name__="sentinel_value"`) || strings.Contains(l, `__name__="sentinel_up"`)) {
					n++
				}
			}
			if n != 2 {
				a.Errorf("%s has %d of the sentinel's two series", format, n)
			}
		}
	})

	// Not in the table.
	s.run("70 the forced label in other cases and clothes", func(a *attack) {
		// Those that no page shows as edge are the edge's own business.
		a.wants(a.push(one(70, "__name__", "h70", "Edge", "victim", "EDGE", "victim", "exported_edge", "victim", "edge_", "victim", "еdge", "victim" /* a Cyrillic e */)), 204)
		a.wants(a.push(one(71, "__name__", "h70", "edge", "")), 204)
		a.any = true
		a.may["relay_overridden_labels_total"] = true
		for _, format := range everyFormat {
			for l := range s.page(format) {
				if strings.Contains(l, "h70") && !strings.Contains(l, `, edge="attacker"`) && !strings.Contains(l, `{edge="attacker"`) {
					a.Errorf("%s shows %s", format, l)
				}
			}
		}
	})
	s.run("71 families that escaping makes one", func(a *attack) {
		a.wants(a.push(one(1, "__name__", "sentinel.value"), one(1, "__name__", "sentinel value"), one(2, "__name__", "U__sentinel_2e_value"), one(3, "__name__", "sentinel__value")), 204)
		a.any = true
		for _, format := range everyFormat {
			body, media := s.raw(a, format)
			page, err := parsePage(body, media)
			if err != nil {
				a.Errorf("%s: %v", format, err)
			}
			n := 0
			for l := range page {
				if strings.Contains(l, `__name__="sentinel_value"`) && strings.Contains(l, `edge="sentinel"`) {
					n++
				}
			}
			if n != 1 {
				a.Errorf("%s has the sentinel's series %d times", format, n)
			}
		}
	})
	s.run("72 lengths around their limits", func(a *attack) {
		for n, code := range map[int]int{4095: 204, 4096: 204, 4097: 400} {
			a.wants(a.push(one(float64(n), "__name__", "h72", "v", strings.Repeat("v", n))), code)
			if code == 204 {
				a.shows(float64(n), "__name__", "h72", "v", strings.Repeat("v", n))
			}
		}
		a.refusedSamples("label_value_bytes", 1)
		for n, code := range map[int]int{1023: 204, 1024: 204, 1025: 400} {
			a.wants(a.push(one(float64(n), "__name__", "h72n", strings.Repeat("n", n), "v")), code)
			if code == 204 {
				a.shows(float64(n), "__name__", "h72n", strings.Repeat("n", n), "v")
			}
		}
		a.refusedSamples("label_name_bytes", 1)
		// 64 labels with the two that are forced, then one more.
		for n, code := range map[int]int{61: 204, 62: 400} {
			series := one(float64(n), "__name__", "h72l")
			for i := range n {
				series.Labels = append(series.Labels, prompb.Label{Name: fmt.Sprintf("l%03d", i), Value: "v"})
			}
			got := a.push(series)
			a.wants(got, code)
			if code == 204 {
				pairs := []string{"__name__", "h72l"}
				for i := range n {
					pairs = append(pairs, fmt.Sprintf("l%03d", i), "v")
				}
				a.shows(float64(n), pairs...)
			}
		}
		a.refusedSamples("labels_per_series", 1)
	})
	s.run("96 units that are lines of others, or no units", func(a *attack) {
		req := &prompb.WriteRequest{}
		lines := "x 1\nsentinel_value{edge=\"sentinel\",instance=\"\"} 666\nh96_y"
		for i, unit := range []string{lines, `x"y`, `x\y`, "x y", "x\n", "µs", "{x}"} {
			name := "h96_" + unit
			req.Timeseries = append(req.Timeseries, one(float64(i), "__name__", name))
			req.Metadata = append(req.Metadata, prompb.MetricMetadata{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: name, Unit: unit})
			a.shows(float64(i), "__name__", name)
		}
		raw, err := req.Marshal()
		if err != nil {
			a.Fatal(err)
		}
		a.wants(a.write(raw), 204)
		for _, format := range everyFormat {
			body, media := s.raw(a, format)
			page, err := parsePage(body, media)
			if err != nil {
				a.Errorf("%s: %v", format, err)
			}
			for l, v := range page {
				if strings.Contains(l, `__name__="sentinel_value"`) && v == "666" {
					a.Errorf("%s: the attacker speaks for %s", format, l)
				}
			}
		}
	})
	// The last one: the attacker has no room for other metadata afterwards.
	s.run("73 metadata of a hundred thousand families", func(a *attack) {
		req := &prompb.WriteRequest{}
		for i := range 100_000 {
			req.Metadata = append(req.Metadata, prompb.MetricMetadata{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: fmt.Sprint("h73_", i), Help: "h0stile"})
		}
		raw, err := req.Marshal()
		if err != nil {
			a.Fatal(err)
		}
		a.wants(a.write(raw), 204)
		if n := s.metrics()["relay_metadata_families"]; n > 20_000 {
			a.Errorf("%v families are remembered, of an edge that has none of them", n)
		}
		body, _ := s.raw(a, text004)
		if !bytes.Contains(body, []byte("# TYPE sentinel_typed gauge")) {
			a.Error("the sentinel's metadata is forgotten")
		}
	})
}

// oddValues are values that a careless page breaks on.
var oddValues = []string{"\n# TYPE x counter\nx 1", `\`, `\n`, `\\"`, "\r\n", "\u2028", "🎉", `"} 1`, "\t", "\x00", "\x7f", "# EOF", strings.Repeat(`"`, 2000)}

// raw is the page as it is.
func (s *siege) raw(a *attack, accept string) (body []byte, media string) {
	a.Helper()
	req, err := http.NewRequest(http.MethodGet, s.web+"/metrics", nil)
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	res, err := s.sentinel.scraper.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	if err != nil {
		a.Fatal(err)
	}
	return body, res.Header.Get("Content-Type")
}

// fetch is a page of the web listener.
func (s *siege) fetch(a *attack, path string) (body, media string, nosniff bool) {
	a.Helper()
	res, err := s.sentinel.scraper.Get(s.web + strings.NewReplacer(" ", "%20", `"`, "%22").Replace(path))
	if err != nil {
		a.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		a.Fatal(err)
	}
	return string(text), res.Header.Get("Content-Type"), res.Header.Get("X-Content-Type-Options") == "nosniff"
}

// hostileTime is about times and values.
func hostileTime(t *testing.T) {
	s := besiege(t)
	stale := math.Float64frombits(value.StaleNaN)
	now := func() int64 { return time.Now().UnixMilli() }
	s.run("28 a year ahead", func(a *attack) {
		a.wants(a.push(at(now()+365*86400_000, 1, "__name__", "h28")), 400, "too_far_in_future", "--series.future-tolerance")
		a.wants(a.push(at(now(), 2, "__name__", "h28")), 204)
		a.refusedSamples("too_far_in_future", 1)
		a.shows(2, "__name__", "h28")
	})
	s.run("29, 34 an older one, and the newest first", func(a *attack) {
		t0 := now()
		a.wants(a.push(at(t0, 1, "__name__", "h29")), 204)
		a.wants(a.push(at(t0-1000, 2, "__name__", "h29")), 204)
		a.outcome("superseded", 1)
		a.shows(1, "__name__", "h29")
	})
	s.run("30 older than TTL and lag tolerance", func(a *attack) {
		a.wants(a.push(at(now()-7*60_000, 1, "__name__", "h30")), 204)
		a.outcome("expired_on_arrival", 1)
	})
	s.run("31 an end, then something older, then something newer", func(a *attack) {
		t0 := now()
		shown := func() bool { _, ok := s.page(textUTF8)[`{__name__="h31", edge="attacker", site_id="a"}`]; return ok }
		a.wants(a.push(at(t0-5000, 1, "__name__", "h31")), 204)
		if !shown() {
			a.Error("not shown")
		}
		a.wants(a.push(at(t0-3000, stale, "__name__", "h31")), 204)
		if shown() {
			a.Error("shown after its end")
		}
		a.wants(a.push(at(t0-4000, 2, "__name__", "h31")), 204)
		if shown() {
			a.Error("what was older has revived it (I2)")
		}
		a.wants(a.push(at(t0-2000, 3, "__name__", "h31")), 204)
		a.outcome("ended", 1)
		a.outcome("superseded", 1)
		a.shows(3, "__name__", "h31")
	})
	s.run("32 values that are hard to write", func(a *attack) {
		odd := []float64{math.NaN(), math.Float64frombits(0x7ff8dead0000beef), math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64, math.MaxFloat64, 0.1, 1e21, -1e-7}
		for i, v := range odd {
			name := fmt.Sprint("h32_", i)
			a.wants(a.push(one(v, "__name__", name)), 204)
			a.shows(v, "__name__", name)
		}
		// Go's own code takes -0 for the default, which is left out.
		minus0 := one(1, "__name__", "h32_0minus")
		raw := bytes.Replace(v1Of(a, minus0), binary.LittleEndian.AppendUint64(nil, math.Float64bits(1)), binary.LittleEndian.AppendUint64(nil, math.Float64bits(math.Copysign(0, -1))), 1)
		a.wants(a.write(raw), 204)
		a.shows(math.Copysign(0, -1), "__name__", "h32_0minus")
		// protobuf has all their bits.
		body, media := s.raw(a, protoPage)
		bits := protoBits(a, body, media)
		for i, v := range odd {
			if got, want := bits[fmt.Sprint("h32_", i)], math.Float64bits(v); got != want {
				a.Errorf("%x is shown as %x", want, got)
			}
		}
	})
	s.run("33 an old request again", func(a *attack) {
		body := v1Of(a, at(now(), 33, "__name__", "h33"))
		newer := v1Of(a, at(now()+1, 34, "__name__", "h33"))
		a.wants(a.write(body), 204)
		a.wants(a.write(newer), 204)
		for range 10 {
			a.wants(a.write(body), 204)
			a.wants(a.write(newer), 204)
		}
		a.outcome("superseded", 20)
		a.shows(34, "__name__", "h33")
	})

	// Not in the table.
	s.run("74 times at the ends of their type", func(a *attack) {
		for _, ms := range []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1} {
			a.wants(a.push(at(ms, 1, "__name__", "h74")), 204)
		}
		a.outcome("expired_on_arrival", 5)
		for _, ms := range []int64{math.MaxInt64, math.MaxInt64 - 1, 1 << 62} {
			a.wants(a.push(at(ms, 1, "__name__", "h74")), 400, "too_far_in_future")
		}
		a.refusedSamples("too_far_in_future", 3)
		a.wants(a.push(at(math.MinInt64, stale, "__name__", "h74b")), 204)
		a.mayBe("ended", "superseded", "expired_on_arrival")
		a.wants(a.push(one(74, "__name__", "h74")), 204)
		a.shows(74, "__name__", "h74")
	})
	s.run("75 TTLs of all kinds", func(a *attack) {
		for _, ttl := range []string{"0", "-1", "NaN", "-inf", "1e400", "0x", "h0stile", strings.Repeat("9", 400), "1h;drop", "1ns", "9223372036854775808ns", "--1"} {
			got := a.write(v1Of(a, one(1, "__name__", "h75")), "X-Relay-TTL", ttl)
			if got.code != 400 || !strings.Contains(got.body, "X-Relay-TTL") {
				a.Errorf("%.20q: %d %s", ttl, got.code, got.body)
				continue
			}
			a.refused("ttl", 1)
			a.wants(a.push(one(1, "__name__", "h75", "__ttl__", ttl)), 400, "ttl_invalid")
			a.refusedSamples("ttl_invalid", 1)
		}
		for _, ttl := range []string{"inf", "null", "1e18", "2562047h47m16.854775807s", "9e15"} {
			got := a.write(v1Of(a, one(75, "__name__", "h75", "ttl", ttl)), "X-Relay-TTL", ttl)
			a.wants(got, 204)
			a.shows(75, "__name__", "h75", "ttl", ttl)
		}
		a.wants(a.write(v1Of(a, one(76, "__name__", "h75", "ttl", "1ms")), "X-Relay-TTL", "1ms"), 204)
		a.any = true // for the second that is the least
	})
	s.run("76 ten thousand times the same sample in one request", func(a *attack) {
		var same []prompb.TimeSeries
		t0 := now()
		for range 10_000 {
			same = append(same, at(t0, 76, "__name__", "h76"))
		}
		a.wants(a.push(same...), 204)
		a.outcome("superseded", 9_999)
		a.shows(76, "__name__", "h76")
	})
	s.run("77 a clock that was ten minutes fast", func(a *attack) {
		a.wants(a.push(at(now()+9*60_000, 1, "__name__", "h77")), 204)
		a.wants(a.push(at(now(), 2, "__name__", "h77")), 204)
		a.outcome("superseded", 1)
		a.shows(1, "__name__", "h77")
	})
}

// protoBits are the bits of all single values on a page of protobuf, by name.
func protoBits(t testing.TB, body []byte, media string) map[string]uint64 {
	t.Helper()
	d := expfmt.NewDecoder(bytes.NewReader(body), expfmt.NewFormat(expfmt.TypeProtoDelim))
	out := map[string]uint64{}
	for {
		var mf dto.MetricFamily
		if err := d.Decode(&mf); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", media, err)
		}
		for _, m := range mf.Metric {
			switch {
			case m.Untyped != nil:
				out[mf.GetName()] = math.Float64bits(m.Untyped.GetValue())
			case m.Gauge != nil:
				out[mf.GetName()] = math.Float64bits(m.Gauge.GetValue())
			}
		}
	}
}
