package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"relay/series"
)

// storeCollector shows the state of the store.
type storeCollector struct {
	store *series.Store
	limit int
}

func desc(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }

var (
	liveDesc      = desc("relay_series_live", "Series that a scrape would show.")
	heldDesc      = desc("relay_series_held", "Series in memory: the live ones, and those that are expired and not forgotten yet.")
	limitDesc     = desc("relay_series_limit", "The most that relay_series_held may be.")
	metricsDesc   = desc("relay_metric_names", "Metric names in memory.")
	edgesDesc     = desc("relay_edges", "Edges that wrote series.")
	pairsDesc     = desc("relay_label_pairs", "Label pairs in memory, each held once.")
	pairBytesDesc = desc("relay_label_pair_bytes", "Bytes of the label pairs.")
	familiesDesc  = desc("relay_metadata_families", "Metric families with metadata.")

	expiredDesc   = desc("relay_series_expired_total", "Series whose TTL has passed, counted by the sweep.")
	endedDesc     = desc("relay_series_ended_total", "Live series that were ended by a stale marker.")
	forgottenDesc = desc("relay_series_forgotten_total", "Expired series that were freed.")
	ownerDesc     = desc("relay_series_owner_changes_total", "Series that were written by another edge than before.")
	conflictsDesc = desc("relay_metadata_conflicts_total", "Families that were declared with a second type.")
)

func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{liveDesc, heldDesc, limitDesc, metricsDesc, edgesDesc, pairsDesc, pairBytesDesc, familiesDesc, expiredDesc, endedDesc, forgottenDesc, ownerDesc, conflictsDesc} {
		ch <- d
	}
}

func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	st, n := c.store.Stats(time.Now()), c.store.Counters()
	for d, v := range map[*prometheus.Desc]int{
		liveDesc: st.Live, heldDesc: st.Held, limitDesc: c.limit, metricsDesc: st.Metrics, edgesDesc: st.Edges,
		pairsDesc: st.Pairs, pairBytesDesc: st.PairBytes, familiesDesc: st.Families,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	for d, v := range map[*prometheus.Desc]uint64{
		expiredDesc: n.Expired, endedDesc: n.Ended, forgottenDesc: n.Forgotten, ownerDesc: n.OwnerChanges, conflictsDesc: n.MetadataConflicts,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
}
