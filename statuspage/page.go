// Package statuspage is what people look at: the page at /, with its assets.
//
// It hides how that page is made: documents, styles, scripts, the policy that a
// browser holds them to, and how they are cached. The page is the same for everybody;
// all that changes it asks of /api/v1, as any other client would. So this package
// knows nothing of edges and series, and a change of the page is a change here alone.
//
// What edges have sent reaches the document as text: scripts make elements one by one
// and set their textContent, and the policy lets nothing run, load or be sent
// anywhere that is not the relay's own.
package statuspage

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// Options are what the page says before it asks for anything.
type Options struct {
	Version string
	TTL     string                      // of a series whose sender does not say
	Guarded bool                        // edges have to prove who they are
	Address func(*http.Request) Address // where the relay is reached; called for each page
	Now     func() (series, edges int)  // how many are live, and known; called for each page
}

// An Address is where a relay is reached, as the one who asks for the page sees it.
type Address struct {
	Scheme, Host string // of scrapes and pages
	Prefix       string // of all paths: empty, or with a slash before it and none after
	Push         string // where pushes are taken: scheme, host and prefix
}

// policy lets the page run and load what the relay itself serves, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

//go:embed index.html
var indexHTML string

var index = template.Must(template.New("index").Parse(indexHTML))

//go:embed assets
var assetFiles embed.FS

// An asset is a file that the page asks for.
type asset struct {
	mediaType     string
	tag           string
	plain, zipped []byte
}

type page struct {
	opts   Options
	assets map[string]asset // by path, from the page's own
}

// New returns a handler of GET / and of GET /assets/. Its paths are as if there were
// no prefix. All addresses in the page are relative to its own, so it works behind
// any proxy that keeps the slash at the end of that.
func New(opts Options) (http.Handler, error) {
	p := &page{opts: opts, assets: map[string]asset{}}
	err := fs.WalkDir(assetFiles, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p.assets["/"+name], err = newAsset(name)
		return err
	})
	return p, err
}

func newAsset(name string) (asset, error) {
	text, err := assetFiles.ReadFile(name)
	if err != nil {
		return asset{}, err
	}
	var zipped bytes.Buffer
	z, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		return asset{}, err
	}
	z.Write(text)
	if err := z.Close(); err != nil {
		return asset{}, err
	}
	mediaType := mime.TypeByExtension(path.Ext(name))
	// The machine's own table of types is not asked: a script under another type does
	// not run.
	switch path.Ext(name) {
	case ".js":
		mediaType = "text/javascript; charset=utf-8"
	case ".css":
		mediaType = "text/css; charset=utf-8"
	}
	if mediaType == "" {
		return asset{}, fmt.Errorf("statuspage: %s has no media type", name)
	}
	sum := sha256.Sum256(text)
	return asset{mediaType: mediaType, tag: `"` + hex.EncodeToString(sum[:8]) + `"`, plain: text, zipped: zipped.Bytes()}, nil
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	if r.URL.Path == "/" {
		p.index(w, r)
		return
	}
	a, ok := p.assets[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	// Asked for again each time, and answered 304: a page never runs with the scripts
	// of another version.
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", a.tag)
	h.Set("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == a.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", a.mediaType)
	text := a.plain
	if takesGzip(r.Header) {
		h.Set("Content-Encoding", "gzip")
		text = a.zipped
	}
	h.Set("Content-Length", fmt.Sprint(len(text)))
	w.Write(text)
}

// takesGzip reports whether a client takes gzip; gzip;q=0 says that it does not.
func takesGzip(h http.Header) bool {
	for offer := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, weight, weighted := strings.Cut(offer, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		_, q, _ := strings.Cut(weight, "=")
		v, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return !weighted || err == nil && v > 0
	}
	return false
}

// index is the page. Without scripts it is what to put into the configurations on
// both sides; with them it comes to life.
func (p *page) index(w http.ResponseWriter, r *http.Request) {
	at := p.opts.Address(r)
	series, edges := p.opts.Now()
	var out bytes.Buffer
	err := index.Execute(&out, map[string]any{
		"Version": p.opts.Version, "TTL": p.opts.TTL, "Guarded": p.opts.Guarded, "At": at,
		"Series": series, "Edges": edges, "Senders": filled(senders, at), "Centres": filled(centres, at),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	w.Write(out.Bytes())
}
