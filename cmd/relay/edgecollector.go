package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"relay/edges"
)

// edgeCollector shows the edges of the edges file one by one, and what is learned of
// all: names that anybody can make up are no label values.
type edgeCollector struct{ r *relay }

func edgeDesc(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"edge"}, more...), nil)
}

var (
	edgeSeenDesc     = edgeDesc("relay_edge_last_seen_timestamp_seconds", "When the last accepted request of an edge of the edges file came.")
	edgeTTLDesc      = edgeDesc("relay_edge_ttl_seconds", "The TTL of that request, after which the edge is silent; +Inf: it never is.")
	edgeIntervalDesc = edgeDesc("relay_edge_push_interval_seconds", "How often the series of an edge of the edges file come, as learned; of one that pushes no more there is none.")
	edgeSkewDesc     = edgeDesc("relay_edge_clock_skew_seconds", "How far ahead of the relay's clock that of an edge of the edges file seems to be: the most that a newest sample of its last requests was. Below zero by what samples wait at the edge. Of one that pushes no more there is none.")
	edgeLiveDesc     = edgeDesc("relay_edge_series", "Live series of an edge of the edges file.")
	edgeHeldDesc     = edgeDesc("relay_edge_series_held", "Series in memory of an edge of the edges file, expired ones included.")
	edgeLimitDesc    = edgeDesc("relay_edge_series_limit", "The most that relay_edge_series_held may be, for edges with a limit of their own.")
	edgeSamplesDesc  = edgeDesc("relay_edge_samples_total", "Samples accepted of an edge of the edges file.")
	edgeRefusedDesc  = edgeDesc("relay_edge_refused_samples_total", "Samples and exemplars refused of an edge of the edges file, by reason.", "reason")
	edgeRejectedDesc = edgeDesc("relay_edge_refused_requests_total", "Requests of an edge of the edges file of which nothing was applied, by reason; with reason credentials, of whoever has its user name.", "reason")

	flickerDesc  = desc("relay_edges_flickering", "Edges that push and whose TTL is not longer than the interval at which their series come, or shorter than that of the centre's scrapes.")
	intervalDesc = desc("relay_scrape_interval_seconds", "How often the centre scrapes all series, as learned; 0: not known.")
)

// stopped reports whether an edge pushes no more: what was learned of how it did is of
// the past, and nobody needs to be told of it but for its silence. One whose TTL is too
// short is silent between two pushes, too.
func stopped(e *edges.Report, now time.Time) bool {
	return e.State == edges.Silent && now.Sub(e.LastSeen) > max(e.TTL, 3*e.Interval)
}

func (c *edgeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		edgeSeenDesc, edgeTTLDesc, edgeIntervalDesc, edgeSkewDesc, edgeLiveDesc, edgeHeldDesc, edgeLimitDesc, edgeSamplesDesc, edgeRefusedDesc, edgeRejectedDesc, flickerDesc, intervalDesc,
	} {
		ch <- d
	}
}

func (c *edgeCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	_, owned := c.r.count.get()
	scrape := c.r.pages.Scrapes().Interval
	flickering := 0
	for _, e := range c.r.edges.Reports(now) {
		pushing := !stopped(&e, now)
		if pushing && (e.Flickers() || e.Unscraped(scrape)) {
			flickering++
		}
		if !e.Configured {
			continue
		}
		show := func(d *prometheus.Desc, t prometheus.ValueType, v float64, more ...string) {
			ch <- prometheus.MustNewConstMetric(d, t, v, append([]string{e.Name}, more...)...)
		}
		if !e.LastSeen.IsZero() {
			show(edgeSeenDesc, prometheus.GaugeValue, float64(e.LastSeen.UnixMilli())/1000)
			show(edgeTTLDesc, prometheus.GaugeValue, seconds64(e.TTL))
		}
		if e.Interval > 0 && pushing {
			show(edgeIntervalDesc, prometheus.GaugeValue, e.Interval.Seconds())
		}
		if e.Skewed && pushing {
			show(edgeSkewDesc, prometheus.GaugeValue, e.Skew.Seconds())
		}
		show(edgeLiveDesc, prometheus.GaugeValue, float64(owned[e.Name].Live))
		show(edgeHeldDesc, prometheus.GaugeValue, float64(owned[e.Name].Held))
		if e.MaxSeries > 0 {
			show(edgeLimitDesc, prometheus.GaugeValue, float64(e.MaxSeries))
		}
		show(edgeSamplesDesc, prometheus.CounterValue, float64(e.Samples))
		for reason, n := range e.RefusedSamples {
			show(edgeRefusedDesc, prometheus.CounterValue, float64(n), reason)
		}
		for reason, n := range e.RefusedRequests {
			show(edgeRejectedDesc, prometheus.CounterValue, float64(n), reason)
		}
	}
	ch <- prometheus.MustNewConstMetric(flickerDesc, prometheus.GaugeValue, float64(flickering))
	ch <- prometheus.MustNewConstMetric(intervalDesc, prometheus.GaugeValue, scrape.Seconds())
}
