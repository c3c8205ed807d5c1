package main

import (
	_ "embed"
	"html/template"
	"net/http"
	"time"

	"github.com/prometheus/common/version"
)

//go:embed home.html
var homeHTML string

var homeTemplate = template.Must(template.New("home").Parse(homeHTML))

// home is the first page that a user sees: what to put into the configurations
// on both sides, with the address under which the page was asked for.
func (r *relay) home(w http.ResponseWriter, req *http.Request) {
	scheme, host, prefix := r.base(req)
	st := r.store.Stats(time.Now())
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	homeTemplate.Execute(w, map[string]any{
		"Scheme": scheme, "Host": host, "Prefix": prefix, "URL": scheme + "://" + host + prefix,
		"TTL": r.cfg.ttl.String(), "Live": st.Live, "Edges": st.Edges, "Version": version.Version,
	})
}
