package exposition

import (
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
	"github.com/prometheus/common/model"
)

// A syntax is one way of writing a page.
type syntax uint8

const (
	text0       syntax = iota // text/plain; version=0.0.4
	text1                     // text/plain; version=1.0.0
	openMetrics               // application/openmetrics-text
	protobuf                  // application/vnd.google.protobuf, delimited
	numSyntaxes
)

// String returns the syntax as a metric label.
func (s syntax) String() string {
	return [...]string{"text-0.0.4", "text-1.0.0", "openmetrics", "protobuf"}[s]
}

// A format is a syntax with what else was agreed on.
type format struct {
	syntax  syntax
	version string // of OpenMetrics
	scheme  model.EscapingScheme
}

// contentType is how the page says what it is. Prometheus fails a scrape without
// it, or with one that it did not ask for.
func (f format) contentType() string {
	escaping := "; escaping=" + f.scheme.String()
	switch f.syntax {
	case text1:
		return "text/plain; version=1.0.0; charset=utf-8" + escaping
	case openMetrics:
		return "application/openmetrics-text; version=" + f.version + "; charset=utf-8" + escaping
	case protobuf:
		return "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited" + escaping
	}
	return "text/plain; version=0.0.4; charset=utf-8" + escaping
}

// negotiate picks what the client likes best of what there is; text 0.0.4 where
// it says nothing that can be met.
func negotiate(accept string) format {
	for _, a := range goautoneg.ParseAccept(accept) {
		if a.Q <= 0 {
			continue
		}
		scheme, err := model.ToEscapingScheme(a.Params[model.EscapingKey])
		if err != nil {
			scheme = model.UnderscoreEscaping
		}
		version := a.Params["version"]
		switch a.Type + "/" + a.SubType {
		case "application/vnd.google.protobuf":
			proto, encoding := a.Params["proto"], a.Params["encoding"]
			if (proto == "" || proto == "io.prometheus.client.MetricFamily") && encoding == "delimited" {
				return format{syntax: protobuf, scheme: scheme}
			}
		case "application/openmetrics-text":
			switch version {
			case "1.0.0":
				return format{openMetrics, version, scheme}
			case "0.0.1", "":
				// Older than names in quotes.
				return format{openMetrics, "0.0.1", legacy(scheme)}
			}
		case "text/plain":
			switch version {
			case "1.0.0":
				return format{syntax: text1, scheme: scheme}
			case "0.0.4", "":
				return format{syntax: text0, scheme: legacy(scheme)}
			}
		case "text/*", "*/*":
			return format{syntax: text0, scheme: model.UnderscoreEscaping}
		}
	}
	return format{syntax: text0, scheme: model.UnderscoreEscaping}
}

// legacy is the scheme for a syntax that cannot quote names.
func legacy(s model.EscapingScheme) model.EscapingScheme {
	if s == model.NoEscaping {
		return model.UnderscoreEscaping
	}
	return s
}

// An encoding is a Content-Encoding.
type encoding string

const (
	identity encoding = "identity"
	gzipped  encoding = "gzip"
	zstdized encoding = "zstd"
)

// negotiateEncoding picks the best of Accept-Encoding, zstd before gzip where it
// likes them equally.
func negotiateEncoding(accept string) encoding {
	best, bestQ := identity, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		name, params, _ := strings.Cut(part, ";")
		q := 1.0
		for param := range strings.SplitSeq(params, ";") {
			if v, ok := strings.CutPrefix(strings.TrimSpace(param), "q="); ok {
				f, err := strconv.ParseFloat(v, 64)
				if err != nil {
					f = 0
				}
				q = f
			}
		}
		e := encoding(strings.ToLower(strings.TrimSpace(name)))
		if e == "*" {
			e = gzipped
		}
		if e != gzipped && e != zstdized && e != identity {
			continue
		}
		if q > bestQ || q == bestQ && q > 0 && (e == zstdized || best == identity) {
			best, bestQ = e, q
		}
	}
	return best
}
