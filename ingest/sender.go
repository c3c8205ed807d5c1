package ingest

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"relay/edges"
	"relay/series"
)

// A sender is who a request is from, and what holds for it.
type sender struct {
	edge  string       // "": not known
	entry *edges.Entry // nil without an edges file
	terms series.Terms
	ttl   series.TTL // asked for; 0: the default

	claimed string // where edge is "": whom it says to be, if there is such an edge
}

// replicaLabel and pairLabel tell the replicas of a pair, and the pairs, apart with
// --ha.labels: as Mimir has them.
const (
	replicaLabel = "__replica__"
	pairLabel    = "cluster"
)

// identify says who a request is from, before its body is touched: with an edges
// file whom it proves to be, else by header or address. It holds the edge to its
// rate of requests.
func (h *Handler) identify(r *http.Request) (sender, *refusal) {
	var s sender
	addr := ClientAddr(r, h.opts.TrustedProxies)
	if g := h.opts.Guard; g != nil {
		e, err := g.Identify(r, addr)
		if err != nil {
			var denied *edges.Denied
			errors.As(err, &denied)
			s.claimed = denied.Claimed
			return s, refuse(denied.Code, denied.Reason, "%s", denied.Text)
		}
		s = sender{edge: e.Name, entry: e, terms: e.Terms, ttl: e.TTL}
		if wait, err := e.AllowRequest(time.Now()); err != nil {
			return s, overRate("request_rate", wait, err)
		}
	} else if s.edge = r.Header.Get(EdgeHeader); s.edge == "" {
		s.edge = addr
	} else if !edges.ValidName(s.edge) {
		bad := refuse(http.StatusBadRequest, "edge", "%s %.60q: %s", EdgeHeader, s.edge, edges.NameRule)
		s.edge = ""
		return s, bad
	}
	if h.opts.HALabels && s.terms.Dropped == "" {
		s.terms.Dropped, s.terms.Pair = replicaLabel, pairLabel
	}
	ttl, bad := requestTTL(r)
	if ttl != 0 {
		s.ttl = ttl
	}
	return s, bad
}

func overRate(reason string, wait time.Duration, err error) *refusal {
	bad := refuse(http.StatusTooManyRequests, reason, "%v", err)
	bad.wait = wait
	return bad
}

// allowSamples holds an edge to its rate of samples.
func (s *sender) allowSamples(now time.Time, n int) *refusal {
	if s.entry == nil {
		return nil
	}
	wait, err := s.entry.AllowSamples(now, n)
	switch {
	case errors.Is(err, edges.ErrNeverFits):
		return refuse(http.StatusBadRequest, "sample_burst", "%v", err)
	case err != nil:
		return overRate("sample_rate", wait, err)
	}
	return nil
}

// replica says which replica of which pair a request is from: by the edges file,
// or by its first labels; "" if it is from none.
func (s *sender) replica(batch *series.Batch) (pair, replica string) {
	if s.entry != nil && s.entry.Group {
		return s.edge, s.entry.Login
	}
	if s.terms.Pair == "" {
		return "", ""
	}
	cluster, replica := batch.Replica()
	if cluster == "" || replica == "" {
		return "", ""
	}
	return s.edge + "/" + cluster, replica // no edge's name has a slash
}

// EdgeHeader names the edge where no edges file does.
const EdgeHeader = "X-Relay-Edge"

// ClientAddr is the address that a request came from, without port: the
// connection's, or where that is a trusted proxy's, the last in X-Forwarded-For
// that is not one.
func ClientAddr(r *http.Request, trusted []netip.Prefix) string {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "unknown"
	}
	at := addr.Addr().Unmap().WithZone("")
	isProxy := func(a netip.Addr) bool {
		for _, p := range trusted {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	if !isProxy(at) {
		return at.String()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = hop.Unmap().WithZone("")
		if !isProxy(at) {
			break
		}
	}
	return at.String()
}
