package main

import (
	"net"
	"net/http"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/version"

	"relay/series"
	"relay/statuspage"
)

// page is the status page of this relay.
func (r *relay) page() (http.Handler, error) {
	return statuspage.New(statuspage.Options{
		Version: version.Version, TTL: ttlText(r.cfg.ttl), Guarded: r.guard != nil,
		Address: func(req *http.Request) statuspage.Address {
			scheme, host, prefix := r.base(req)
			return statuspage.Address{Scheme: scheme, Host: host, Prefix: prefix, Push: r.pushBase(scheme, host, prefix)}
		},
		Now: func() (int, int) {
			st, _ := r.count.get()
			return st.Live, st.Edges
		},
	})
}

// ttlText is a TTL as a configuration has it: 5m, not 5m0s.
func ttlText(ttl series.TTL) string {
	if ttl == series.Forever {
		return ttl.String()
	}
	return model.Duration(ttl.Duration()).String()
}

// pushBase is where pushes are taken: where pages are, or at the port of the listener
// that is for pushes alone.
func (r *relay) pushBase(scheme, host, prefix string) string {
	if r.cfg.ingestAddress == "" {
		return scheme + "://" + host + prefix
	}
	scheme = "http"
	if r.cfg.ingestConfig != "" {
		scheme = "https"
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host // without a port
	}
	if own, port, err := net.SplitHostPort(r.cfg.ingestAddress); err == nil {
		if ip := net.ParseIP(own); own != "" && (ip == nil || !ip.IsUnspecified()) {
			name = own
		}
		name = net.JoinHostPort(name, port)
	}
	return scheme + "://" + name + strings.TrimSuffix(r.cfg.routePrefix, "/")
}
