package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

const proto2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"

// hostileWire is about bodies that are not what they say.
func hostileWire(t *testing.T) {
	s := besiege(t)
	mib := 1 << 20
	s.run("1 five bytes that declare 4 GiB", func(a *attack) {
		before := s.metrics()["go_memstats_alloc_bytes_total"]
		const n = 200
		for range n {
			a.wants(a.post(writePath, bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})), 400, "--limits.request-bytes")
		}
		// What the sentinel and this test cause is in it.
		if each := (s.metrics()["go_memstats_alloc_bytes_total"] - before) / n; each > 64<<10+32<<10 {
			a.Errorf("%.0f bytes allocated per request", each)
		}
		a.refused("decoded_bytes", n)
	})
	s.run("1b what is declared is more than the bytes can be", func(a *attack) {
		for _, n := range []uint64{1 << 20, 31 << 20} {
			body := append(binary.AppendUvarint(nil, n), 0, 'x')
			a.wants(a.post(writePath, bytes.NewReader(body)), 400, "snappy")
		}
		a.refused("snappy", 2)
	})
	s.run("2 really 32 MiB and one byte", func(a *attack) {
		a.wants(a.write(make([]byte, 32*mib+1)), 400, "--limits.request-bytes")
		a.refused("decoded_bytes", 1)
	})
	s.run("3 a compressed body over the limit, with its length", func(a *attack) {
		a.wants(a.post(writePath, bytes.NewReader(make([]byte, 40*mib))), 413, "--limits.request-bytes")
		got := a.raw(a.head("POST", writePath, "Content-Length: 41943040", "Expect: 100-continue")+"\r\n", false)
		if !strings.HasPrefix(got, "HTTP/1.1 413") {
			a.Errorf("answered %.100q, the body was asked for", got)
		}
		a.refused("body_bytes", 2)
	})
	s.run("4 the same in chunks", func(a *attack) {
		a.wants(a.post(writePath, io.LimitReader(zeros{}, 40<<20)), 413)
		a.refused("body_bytes", 1)
	})
	s.run("5 a length of more than there is", func(a *attack) {
		got := a.raw(a.head("POST", writePath, "Content-Length: 1000")+"\r\n0123456789", true)
		if !strings.HasPrefix(got, "HTTP/1.1 400") {
			a.Errorf("answered %.100q", got)
		}
		a.refused("body_read", 1)
	})
	s.run("6 truncated and flipped snappy", func(a *attack) {
		body := snappy.Encode(nil, v1Of(a, one(1, "__name__", "h6", "a", strings.Repeat("abcabc", 100)), one(2, "__name__", "h6b")))
		for i := 1; i < len(body); i += max(1, len(body)/40) {
			if got := a.post(writePath, bytes.NewReader(body[:i])); got.code != 400 {
				a.Errorf("the first %d bytes: %d %s", i, got.code, got.body)
			}
			flipped := bytes.Clone(body)
			flipped[i] ^= 1 << (i % 8)
			if got := a.post(writePath, bytes.NewReader(flipped)); got.code != 400 && got.code != 204 {
				a.Errorf("byte %d flipped: %d %s", i, got.code, got.body)
			}
		}
		a.any = true // a flip may be in what is copied
		a.mayRefuse("snappy", "malformed", "decoded_bytes", "missing_metric_name", "label_invalid", "duplicate_label", "too_far_in_future", "ttl_invalid")
		a.mayBe("expired_on_arrival", "superseded")
	})
	s.run("7 other encodings", func(a *attack) {
		for _, enc := range []string{"gzip", "zstd", "identity", "snappy, gzip", "deflate", strings.Repeat("h0stile", 500)} {
			a.wants(a.write(v1Of(a, one(1, "__name__", "h7")), "Content-Encoding", enc), 415)
		}
		a.refused("content_encoding", 6)
	})
	s.run("8 no encoding is snappy", func(a *attack) {
		a.wants(a.write(v1Of(a, one(8, "__name__", "h8")), "Content-Encoding", "-"), 204)
		a.shows(8, "__name__", "h8")
	})
	s.run("9, 10 other media types", func(a *attack) {
		types := []string{"application/json", "image/png", "application/x-protobuf;proto=foo.Bar", "application/x-protobuf;proto=prometheus.WriteRequest;proto=io.prometheus.write.v2.Request", "h0stile", ";"}
		for _, media := range types {
			a.wants(a.write(v1Of(a, one(1, "__name__", "h9")), "Content-Type", media), 415)
		}
		a.refused("content_type", len(types))
	})
	s.run("11 a body of 1.0 that says it is of 2.0, and the other way", func(a *attack) {
		a.wants(a.write(v1Of(a, one(1, "__name__", "h11")), "Content-Type", proto2), 400, "other version")
		raw, _ := (&writev2.Request{Symbols: []string{"", "__name__", "h11"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}}}}}).Marshal()
		a.wants(a.write(raw), 400, "other version")
		a.refused("malformed", 2)
	})
	s.run("12 one series with a million empty labels", func(a *attack) {
		series := one(1, "__name__", "h12")
		series.Labels = append(series.Labels, make([]prompb.Label, 1_000_000)...)
		got := a.push(series)
		a.wants(got, 400)
		a.any = false
		if strings.Contains(got.body, "--limits.series-bytes") {
			a.refusedSamples("series_bytes", 1)
		} else {
			a.refused("malformed", 1)
		}
		named := one(1, "__name__", "h12")
		for i := range 100 {
			named.Labels = append(named.Labels, prompb.Label{Name: fmt.Sprintf("l%03d", i), Value: "v"})
		}
		a.wants(a.push(named), 400, "--limits.labels", "labels_per_series")
		a.refusedSamples("labels_per_series", 1)
	})
	s.run("13 one series with a million samples", func(a *attack) {
		series := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "h13"}}, Samples: make([]prompb.Sample, 1_000_000)}
		now := time.Now().UnixMilli()
		for i := range series.Samples {
			series.Samples[i] = prompb.Sample{Value: float64(i), Timestamp: now - 999_999 + int64(i)}
		}
		rand.Shuffle(len(series.Samples), func(i, j int) {
			series.Samples[i], series.Samples[j] = series.Samples[j], series.Samples[i]
		})
		a.wants(a.push(series), 204)
		a.shows(999_999, "__name__", "h13")
		a.mayBe("superseded", "expired_on_arrival")
	})
	s.run("14 symbols that are not there", func(a *attack) {
		sample := []writev2.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}}
		for _, req := range []writev2.Request{
			{Symbols: []string{"", "__name__", "h14"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 3}, Samples: sample}}},
			{Symbols: []string{"", "__name__", "h14"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2, 1}, Samples: sample}}},
			{Symbols: []string{"x", "__name__", "h14"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2}, Samples: sample}}},
			{Symbols: []string{"", "__name__", "h14"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, math.MaxUint32}, Samples: sample}}},
			{Symbols: []string{"", "__name__", "h14"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 1 << 31}, Samples: sample}}},
			{Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{0, 0}, Samples: sample}}},
			{Symbols: []string{"", "__name__", "h14"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2}, Samples: sample, Metadata: writev2.Metadata{Type: 1, HelpRef: 9}}}},
			{Symbols: []string{"", "__name__", "h14"}, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2}, Samples: sample, Exemplars: []writev2.Exemplar{{LabelsRefs: []uint32{7, 8}, Value: 1}}}}},
		} {
			got := a.push2(&req)
			a.wants(got, 400)
			if got.header.Get("X-Prometheus-Remote-Write-Samples-Written") != "0" {
				a.Errorf("written: %v", got.header)
			}
		}
		a.refused("malformed", 8)
	})
	s.run("15 what protobuf has no word for", func(a *attack) {
		bad := [][]byte{
			{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, // a varint of 11 bytes
			{0x0a, 0x7f, 0x00}, // a length past the end
			{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, // of 2^63
			{0x08, 0x01},                         // series as a number
			{0x0b},                               // a group that does not end
			{0x0c},                               // one that does not begin
			{0x02, 0x00},                         // field 0
			{0x0f, 0x00},                         // wire type 7
			{0x0a, 0x04, 0x0a, 0x02, 0x0a, 0x7f}, // a label that runs over its series
			bytes.Repeat([]byte{0x0b}, 100_000),  // groups in groups
		}
		for i, raw := range bad {
			if got := a.write(raw); got.code != 400 {
				a.Errorf("%d: %d %s", i, got.code, got.body)
			}
			if got := a.write(raw, "Content-Type", proto2); got.code != 400 {
				a.Errorf("%d as 2.0: %d %s", i, got.code, got.body)
			}
		}
		a.refused("malformed", 2*len(bad))
	})
	s.run("16 nothing at all", func(a *attack) {
		a.wants(a.post(writePath, nil), 204)
		a.wants(a.post(writePath, bytes.NewReader([]byte{0})), 204)
		for _, body := range [][]byte{nil, {0}} {
			got := a.post(writePath, bytes.NewReader(body), "Content-Type", proto2)
			a.wants(got, 204)
			if got.header.Get("X-Prometheus-Remote-Write-Samples-Written") != "0" {
				a.Errorf("%v", got.header)
			}
		}
	})

	// Not in the table.
	s.run("66 bombs within the limits: symbols of a megabyte, used by all series", func(a *attack) {
		req := &writev2.Request{Symbols: []string{"", "__name__", "h66", "a", strings.Repeat("h0stile", 1<<17)}}
		for range 100_000 {
			req.Timeseries = append(req.Timeseries, writev2.TimeSeries{LabelsRefs: []uint32{1, 2, 3, 4}, Samples: []writev2.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}}})
		}
		a.wants(a.push2(req), 400)
		a.mayRefuse("malformed", "series_bytes")
	})
	s.run("67 a series of empty symbols a million times", func(a *attack) {
		req := &writev2.Request{Symbols: []string{""}, Timeseries: []writev2.TimeSeries{{LabelsRefs: make([]uint32, 2_000_000), Samples: []writev2.Sample{{Value: 1, Timestamp: 1}}}}}
		got := a.push2(req)
		a.wants(got, 400)
		a.mayRefuse("malformed", "label_invalid", "missing_metric_name", "series_bytes")
	})
	s.run("68 histograms that would expand", func(a *attack) {
		now := time.Now().UnixMilli()
		h := func(name string, hist prompb.Histogram) prompb.TimeSeries {
			hist.Timestamp = now
			return prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: name}}, Histograms: []prompb.Histogram{hist}}
		}
		bad := []prompb.TimeSeries{
			h("h68a", prompb.Histogram{Schema: 0, Count: &prompb.Histogram_CountInt{CountInt: 1}, PositiveSpans: []prompb.BucketSpan{{Offset: 0, Length: math.MaxUint32}}, PositiveDeltas: []int64{1}}),
			h("h68b", prompb.Histogram{Schema: 0, Count: &prompb.Histogram_CountInt{CountInt: 1}, PositiveSpans: []prompb.BucketSpan{{Offset: 0, Length: 1}}, PositiveDeltas: []int64{math.MinInt64}}),
			h("h68c", prompb.Histogram{Schema: 127, Count: &prompb.Histogram_CountInt{CountInt: 1}}),
			h("h68d", prompb.Histogram{Schema: -53, Count: &prompb.Histogram_CountInt{CountInt: 1}, CustomValues: []float64{2, 1}, PositiveSpans: []prompb.BucketSpan{{Offset: 0, Length: 1}}, PositiveDeltas: []int64{1}}),
			h("h68e", prompb.Histogram{Schema: -53, Count: &prompb.Histogram_CountInt{CountInt: 1}, CustomValues: []float64{nan}, PositiveSpans: []prompb.BucketSpan{{Offset: 0, Length: 1}}, PositiveDeltas: []int64{1}}),
			h("h68f", prompb.Histogram{Schema: 0, ZeroThreshold: nan, Count: &prompb.Histogram_CountInt{CountInt: 0}}),
			h("h68g", prompb.Histogram{Schema: 0, Count: &prompb.Histogram_CountInt{CountInt: 3}, PositiveSpans: []prompb.BucketSpan{{Offset: 0, Length: 1}, {Offset: -5, Length: 1}}, PositiveDeltas: []int64{1, 1}}),
		}
		for i, series := range bad {
			if got := a.push(series); got.code != 400 || !strings.Contains(got.body, "histogram") {
				a.Errorf("%d: %d %s", i, got.code, got.body)
			}
		}
		a.refusedSamples("histogram_invalid", len(bad))
		// Offsets of any size are legal, and cost nothing.
		far := h("h68", prompb.Histogram{Schema: 0, Count: &prompb.Histogram_CountInt{CountInt: 3}, PositiveSpans: []prompb.BucketSpan{{Offset: math.MinInt32, Length: 1}, {Offset: math.MaxInt32, Length: 1}}, PositiveDeltas: []int64{1, 1}})
		a.any = true
		if got := a.push(far); got.code != 204 && got.code != 400 {
			a.Errorf("far apart: %d %s", got.code, got.body)
		} else if got.code == 400 {
			a.refusedSamples("histogram_invalid", 1)
		}
		for _, format := range everyFormat {
			s.page(format)
		}
	})
	s.run("69 exemplars without end", func(a *attack) {
		series := one(69, "__name__", "h69_total")
		for i := range 50_000 {
			series.Exemplars = append(series.Exemplars, prompb.Exemplar{Labels: []prompb.Label{{Name: "trace_id", Value: fmt.Sprint("h0stile", i)}}, Value: 1, Timestamp: time.Now().UnixMilli()})
		}
		a.wants(a.push(series), 204)
		a.shows(69, "__name__", "h69_total")
		long := one(70, "__name__", "h69_total")
		long.Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace_id", Value: strings.Repeat("x", 129)}}, Value: 1}}
		a.wants(a.push(long), 400, "exemplar_invalid")
		a.shows(70, "__name__", "h69_total")
		a.refusedSamples("exemplar_invalid", 1)
		s.page(openMetrics)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
