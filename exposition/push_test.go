package exposition

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/textparse"

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
			w := get(t, store, Options{}, accept, "")
			p, err := textparse.New(w.Body.Bytes(), w.Header().Get("Content-Type"), nil, textparse.ParserOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, err = p.Next()
			}
			if err != io.EOF {
				t.Errorf("%s does not parse: %v\n%.1000q", accept, err, w.Body)
			}
		}
	})
}
