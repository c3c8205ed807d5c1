package exposition

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"relay/series"
)

// fuzzed is a handler over a few series.
func fuzzed(tb testing.TB) *Handler {
	tb.Helper()
	s := series.New(series.Options{})
	now := time.Now()
	b := s.NewBatch(series.Request{Edge: "e", Received: now, Now: now})
	for _, name := range []string{"m", "a.b", "h_bucket"} {
		b.Series(series.AppendPair(series.AppendPair(nil, "__name__", name), "le", "1"))
		b.Float(now.UnixMilli(), 1, 0)
	}
	b.Commit()
	b.Release()
	h, err := New(Options{Store: s})
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// Whatever a scraper accepts, it gets a page that says what it is and can be read
// as that.
func FuzzAccept(f *testing.F) {
	for _, s := range []string{"", "*/*", "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5", "application/openmetrics-text;version=1.0.0,*/*;q=0.1", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", ";;;", "text/*;q=NaN", ",", "a/b;q=\"", "application/openmetrics-text;version=0.0.1;escaping=dots"} {
		f.Add(s, "", "10")
	}
	f.Add("", "gzip;q=0, zstd;q=0, *;q=0", "0.5")
	f.Add("", "identity;q=0", "-1")
	h := fuzzed(f)
	f.Fuzz(func(t *testing.T, accept, encodings, timeout string) {
		if d := scrapeTimeout(http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {timeout}}); d <= 0 && !strings.Contains(timeout, "e-") && !strings.Contains(timeout, "0.0") || d > defaultTimeout {
			t.Fatalf("%q: %s", timeout, d)
		}
		switch negotiateEncoding(encodings) {
		case identity, gzipped, zstdized:
		default:
			t.Fatalf("%q", encodings)
		}
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header["Accept"] = []string{accept}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Fatalf("%q: %d", accept, w.Code)
		}
		p, err := textparse.New(w.Body.Bytes(), w.Header().Get("Content-Type"), labels.NewSymbolTable(), textparse.ParserOptions{})
		if err != nil {
			t.Fatalf("%q: %q: %v", accept, w.Header().Get("Content-Type"), err)
		}
		n := 0
		for {
			entry, err := p.Next()
			if err != nil {
				if n != 3 {
					t.Fatalf("%q: %d series, %v in\n%s", accept, n, err, w.Body)
				}
				break
			}
			if entry == textparse.EntrySeries {
				n++
			}
		}
	})
}

// A query of a scrape is answered or refused, and refused in short.
func FuzzSelectors(f *testing.F) {
	for _, s := range []string{"match[]=m", `match[]={__name__=~"m|a.*"}`, `match[]={"a.b",le="1"}`, "shard=0/2", "shard=1/1", "edge=e", "edge=e&page=up", "match[]=", "match[]={}", `match[]=m{le=~"("}`, "shard=-1/-1", "limit=5&match[]=m", "series=m{le=\"1\"}", "match[]=m offset 5m", "match[]=m@start()"} {
		f.Add(s)
	}
	h := fuzzed(f)
	f.Fuzz(func(t *testing.T, query string) {
		if len(query) > 2000 {
			return // heads have a limit; regular expressions of that length take long to compile
		}
		for path, serve := range map[string]http.HandlerFunc{"/metrics": h.ServeHTTP, "/api/v1/series": h.Series, "/api/v1/explain": h.Explain} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.URL = &url.URL{Path: path, RawQuery: query}
			w := httptest.NewRecorder()
			serve(w, r)
			if w.Code != 200 && w.Code != 400 {
				t.Fatalf("%s?%q: %d %s", path, query, w.Code, w.Body)
			}
			if w.Code == 400 && w.Body.Len() > 8<<10 {
				t.Fatalf("%s?%q: an answer of %d bytes", path, query, w.Body.Len())
			}
		}
	})
}
