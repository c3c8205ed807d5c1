package exposition

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"relay/series"
)

// A listed series is one of /api/v1/series.
type listed struct {
	Labels    map[string]string `json:"labels"`
	Value     string            `json:"value"` // a native histogram's count
	Type      string            `json:"type"`
	Timestamp int64             `json:"timestamp"` // ms
	Age       float64           `json:"ageSeconds"`
	TTL       *float64          `json:"ttlSeconds"` // null: for ever
	TTLLeft   *float64          `json:"ttlLeftSeconds"`
	Edge      string            `json:"edge"`
	Pushed    bool              `json:"pushed,omitempty"`    // to a group
	StartTime int64             `json:"startTime,omitempty"` // ms
	Native    bool              `json:"nativeHistogram,omitempty"`
}

// How many series /api/v1/series lists.
const (
	defaultListed = 1000
	maxListed     = 100_000
)

// Series answers GET /api/v1/series: the live series that match[] selects, in
// Prometheus' envelope, at most limit= of them (1000 by default). What is left out
// is said in warnings.
func (h *Handler) Series(w http.ResponseWriter, r *http.Request) {
	params := r.URL.Query()
	q, limit, err := h.listQuery(params)
	if err != nil {
		writeEnvelope(w, http.StatusBadRequest, map[string]any{"status": "error", "errorType": "bad_data", "error": err.Error()})
		return
	}
	done, ok := h.begin(w, r)
	if !ok {
		return
	}
	now := time.Now()
	v := &lister{now: now, limit: limit, list: []listed{}}
	err = h.opts.Store.Scan(now, q, v)
	done() // who reads slowly keeps nobody waiting
	if err != nil {
		writeEnvelope(w, http.StatusInternalServerError, map[string]any{"status": "error", "errorType": "internal", "error": err.Error()})
		return
	}
	answer := map[string]any{"status": "success", "data": v.list}
	if v.total > len(v.list) {
		answer["warnings"] = []string{fmt.Sprintf("%d series match, these are the first %d: limit", v.total, len(v.list))}
	}
	writeEnvelope(w, http.StatusOK, answer)
}

// replayWait is how long an answer in JSON waits for a replay of the journal.
const replayWait = 10 * time.Second

// awaitReplay waits until the store has all that it is to show; where that takes too
// long it answers, and ok is false.
func (h *Handler) awaitReplay(w http.ResponseWriter, r *http.Request) (ok bool) {
	if h.opts.Ready == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(r.Context(), replayWait)
	defer cancel()
	select {
	case <-h.opts.Ready:
		return true
	case <-ctx.Done():
	}
	w.Header().Set("Retry-After", "1")
	writeEnvelope(w, http.StatusServiceUnavailable, map[string]any{"status": "error", "errorType": "unavailable", "error": "the relay is replaying its journal: what it knows is not there yet"})
	return false
}

// begin waits for that, and for a turn, as a scrape does; done gives the turn back.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request) (done func(), ok bool) {
	if !h.awaitReplay(w, r) {
		return nil, false
	}
	return h.turns.take(r.Context(), r.RemoteAddr)
}

func (h *Handler) listQuery(params url.Values) (q series.Query, limit int, err error) {
	if limit = defaultListed; params.Get("limit") != "" {
		if limit, err = strconv.Atoi(params.Get("limit")); err != nil || limit < 1 || limit > maxListed {
			return q, 0, fmt.Errorf("limit %.20q: want 1 to %d", params.Get("limit"), maxListed)
		}
	}
	if len(params["match[]"]) == 0 && params.Get("edge") == "" {
		return q, 0, fmt.Errorf("match[] or edge must be given")
	}
	q, err = h.query(params)
	return q, limit, err
}

func writeEnvelope(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

// lister gathers series for people.
type lister struct {
	now   time.Time
	limit int
	total int
	list  []listed
}

func (l *lister) BeginFamily(*series.Family) {}
func (l *lister) EndFamily(*series.Family)   {}
func (l *lister) Flush() error               { return nil }

func (l *lister) Series(f *series.Family, s *series.Series) {
	if l.total++; len(l.list) >= l.limit {
		return
	}
	e := listed{
		Labels: map[string]string{"__name__": s.Name}, Value: strconv.FormatFloat(s.Value, 'g', -1, 64), Type: f.Metadata.Type.String(), Edge: s.Edge,
		Timestamp: s.Time, Age: float64(l.now.UnixMilli()-s.Time) / 1000, TTL: inSeconds(s.TTL), TTLLeft: inSeconds(s.Left),
		Pushed: s.Pushed, StartTime: s.StartTime,
	}
	if h := s.Histogram; h != nil {
		e.Native, e.Value = true, strconv.FormatUint(h.Count, 10)
		if h.Float {
			e.Value = strconv.FormatFloat(h.CountFloat, 'g', -1, 64)
		}
	}
	for p := range s.Pairs {
		e.Labels[string(p.Name)] = string(p.Value)
	}
	l.list = append(l.list, e)
}

// inSeconds is a TTL as JSON has it; nil is for ever.
func inSeconds(t series.TTL) *float64 {
	if t == series.Forever {
		return nil
	}
	s := float64(t) / 1000
	return &s
}
