package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"relay/edges"
	"relay/ingest"
)

// base is where the relay is reached, as its user sees it.
func (r *relay) base(req *http.Request) (scheme, host, prefix string) {
	scheme, host, prefix = "http", req.Host, strings.TrimSuffix(r.cfg.routePrefix, "/")
	if req.TLS != nil {
		scheme = "https"
	}
	if u := r.cfg.externalURL; u != nil && u.Host != "" {
		scheme, host, prefix = u.Scheme, u.Host, strings.TrimSuffix(u.Path, "/")
	}
	return scheme, host, prefix
}

// replayWait is how long what lists edges waits for a replay of the journal.
const replayWait = 10 * time.Second

// notReplayed is what it says if that is not over then.
const notReplayed = "the relay is replaying its journal: not all edges are known yet"

// awaitReplay reports whether the journal has been replayed; it waits for that a while.
func (r *relay) awaitReplay(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, replayWait)
	defer cancel()
	select {
	case <-r.replayed:
		return true
	case <-ctx.Done():
		return false
	}
}

// A targetGroup is what Prometheus' HTTP service discovery reads.
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// discovery lists one target per edge: its page, or with page=up a page of one
// line. A silent edge's target stays, and answers 503, so that Prometheus itself
// writes up 0. While the journal is replayed not all edges are known yet, and
// Prometheus would drop the targets of those that are left out: after an error it keeps
// those it has.
func (r *relay) discovery(w http.ResponseWriter, req *http.Request) {
	params := req.URL.Query()
	page := params.Get("page")
	if page != "" && page != "up" {
		http.Error(w, fmt.Sprintf("page %.20q: there is only up", page), http.StatusBadRequest)
		return
	}
	for _, name := range []string{"match", "match[]", "edge", "shard"} {
		if params.Has(name) {
			http.Error(w, "parameter "+name+": the targets are all edges, and page is all that can be asked for", http.StatusBadRequest)
			return
		}
	}
	if !r.awaitReplay(req.Context()) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, notReplayed, http.StatusServiceUnavailable)
		return
	}
	scheme, host, prefix := r.base(req)
	groups := []targetGroup{}
	for _, e := range r.edges.List(time.Now()) {
		l := map[string]string{
			"__scheme__": scheme, "__metrics_path__": prefix + "/metrics", "__param_edge": e.Name, "edge": e.Name,
		}
		if page != "" {
			l["__param_page"] = page
		}
		groups = append(groups, targetGroup{[]string{host}, l})
	}
	writeJSON(w, groups)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	json.NewEncoder(w).Encode(v)
}

// writeError writes Prometheus' envelope of an error.
func writeError(w http.ResponseWriter, code int, kind, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"status": "error", "errorType": kind, "error": text})
}

// wipe ends all groups of the push API, as the Pushgateway's does.
func (r *relay) wipe(w http.ResponseWriter, req *http.Request) {
	if !r.cfg.adminAPI {
		http.Error(w, "The admin API is not enabled: --web.enable-admin-api", http.StatusForbidden)
		return
	}
	if err := r.pusher.Wipe(req.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// deleteSeries hides the series that are selected, or with dry-run=true counts them.
func (r *relay) deleteSeries(w http.ResponseWriter, req *http.Request) {
	fail := func(code int, kind, text string) { writeError(w, code, kind, text) }
	if !r.cfg.adminAPI {
		fail(http.StatusForbidden, "forbidden", "The admin API is not enabled: --web.enable-admin-api")
		return
	}
	params := req.URL.Query()
	q, err := r.pages.Selection(params)
	dry := params.Get("dry-run")
	if err == nil && dry != "" && dry != "true" && dry != "false" {
		err = fmt.Errorf("dry-run %.20q: want true or false", dry)
	}
	if err != nil {
		fail(http.StatusBadRequest, "bad_data", err.Error())
		return
	}
	if err := r.catchUp(req.Context()); err != nil {
		fail(http.StatusServiceUnavailable, "unavailable", err.Error())
		return
	}
	n, err := r.ingest.Delete(req.Context(), q, dry == "true")
	switch {
	case errors.Is(err, ingest.ErrTooMany):
		fail(http.StatusUnprocessableEntity, "execution", err.Error())
		return
	case err != nil:
		fail(http.StatusServiceUnavailable, "unavailable", fmt.Sprintf("%v; %d series were deleted", err, n))
		return
	}
	if dry != "true" {
		r.log.Info("Series deleted", "match", strings.Join(params["match[]"], " "), "edge", q.Edge, "deleted", n, "remote", req.RemoteAddr)
	}
	writeJSON(w, map[string]any{"status": "success", "data": map[string]int{"deleted": n}})
}

// dump hands out all state, for a checkpoint. The edges come first: who is elected
// decides about records, so that has to be as it was at the checkpoint's sequence.
func (r *relay) dump(piece func([]byte) error) error {
	if err := r.edges.Dump(piece); err != nil {
		return err
	}
	return r.store.Dump(piece)
}

// load takes in a piece of state.
func (r *relay) load(piece []byte) error {
	if edges.IsPiece(piece) {
		return r.edges.Load(piece)
	}
	return r.store.Load(piece, time.Now())
}
