package exposition

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"relay/ingest"
	"relay/series"
)

// FuzzPushAndScrape pushes any bytes, as both versions, and reads all pages with
// Prometheus' own parsers.
func FuzzPushAndScrape(f *testing.F) {
	captured, err := filepath.Glob("../testdata/requests/*.snappy")
	if err != nil || len(captured) == 0 {
		f.Fatalf("no requests: %v", err)
	}
	for _, file := range captured {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		raw, err := snappy.Decode(nil, body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, false)
		f.Add(raw, true)
	}
	hostile := &prompb.WriteRequest{}
	for i, unit := range oddUnits {
		name := "car_" + unit
		hostile.Timeseries = append(hostile.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: name}, {Name: oddLabels[i], Value: oddValues[i]}},
			Samples: []prompb.Sample{{Value: 1, Timestamp: 1}},
		})
		hostile.Metadata = append(hostile.Metadata, prompb.MetricMetadata{Type: prompb.MetricMetadata_MetricType(i), MetricFamilyName: name, Help: oddValues[i], Unit: unit})
	}
	raw, err := hostile.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, false)
	const ages = 1_000_000 * time.Hour // any time is of the present
	f.Fuzz(func(t *testing.T, raw []byte, second bool) {
		store := series.New(series.Options{LagTolerance: ages, FutureTolerance: ages, Lookback: ages})
		push := httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(snappy.Encode(nil, raw)))
		if second {
			push.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		}
		w := httptest.NewRecorder()
		ingest.New(ingest.Options{Store: store}).ServeHTTP(w, push)
		if w.Code != 204 && w.Code != 400 {
			t.Errorf("answered %d: %s", w.Code, w.Body)
		}
		for _, accept := range allAccepts {
			parse(t, get(t, store, Options{}, accept, ""))
		}
	})
}
