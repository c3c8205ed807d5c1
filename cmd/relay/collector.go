package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"relay/edges"
	"relay/series"
)

// stateCollector shows the state of the store and of the edges, and how near they
// are to their limits.
type stateCollector struct {
	store  *series.Store
	count  *census
	edges  *edges.Registry
	limits series.Limits
	memory int64 // bytes; 0: no limit
}

func desc(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }

var (
	liveDesc      = desc("relay_series_live", "Series that a scrape would show.")
	heldDesc      = desc("relay_series_held", "Series in memory: the live ones, and those that are expired and not forgotten yet.")
	limitDesc     = desc("relay_series_limit", "The most that relay_series_held may be.")
	metricsDesc   = desc("relay_metric_names", "Metric names in memory.")
	edgesDesc     = desc("relay_edges", "Edges that wrote series.")
	edgesMaxDesc  = desc("relay_edges_limit", "The most that relay_edges may be; the rest count as one.")
	groupsDesc    = desc("relay_groups", "Groups of the push API in memory.")
	groupsMaxDesc = desc("relay_groups_limit", "The most that relay_groups may be: pushes to new ones are refused then.")
	memoryDesc    = desc("relay_memory_used_bytes", "Memory that counts against relay_memory_limit_bytes.")
	memoryMaxDesc = desc("relay_memory_limit_bytes", "The most that relay_memory_used_bytes is to be: new series are refused from 90 % of it on. 0: no limit.")
	pairsDesc     = desc("relay_label_pairs", "Label pairs in memory, each held once.")
	pairBytesDesc = desc("relay_label_pair_bytes", "Bytes of the label pairs.")
	familiesDesc  = desc("relay_metadata_families", "Metric families with metadata.")

	seenDesc = prometheus.NewDesc("relay_edges_seen", "Edges that are remembered or in the edges file, by state: live, late (past half its TTL), silent (past all of it, or never seen).", []string{"state"}, nil)

	expiredDesc   = desc("relay_series_expired_total", "Series whose TTL has passed, counted by the sweep.")
	unscrapedDesc = desc("relay_series_expired_unscraped_total", "Of relay_series_expired_total, those whose last sample came and went between two scrapes of all series; counted once these are seen.")
	deletedDesc   = desc("relay_series_deleted_total", "Series deleted by the admin API.")
	endedDesc     = desc("relay_series_ended_total", "Live series that were ended by a stale marker.")
	forgottenDesc = desc("relay_series_forgotten_total", "Expired series that were freed.")
	ownerDesc     = desc("relay_series_owner_changes_total", "Series that were written by another edge than before.")
	conflictsDesc = desc("relay_metadata_conflicts_total", "Families that were declared with a second type.")
)

func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{liveDesc, heldDesc, limitDesc, metricsDesc, edgesDesc, edgesMaxDesc, groupsDesc, groupsMaxDesc, seenDesc, memoryDesc, memoryMaxDesc, pairsDesc, pairBytesDesc, familiesDesc, expiredDesc, unscrapedDesc, deletedDesc, endedDesc, forgottenDesc, ownerDesc, conflictsDesc} {
		ch <- d
	}
}

func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	st, _ := c.count.get()
	n := c.store.Counters()
	seen := c.edges.Count(now)
	for state, n := range map[string]int{"live": seen.Live, "late": seen.Late, "silent": seen.Silent} {
		ch <- prometheus.MustNewConstMetric(seenDesc, prometheus.GaugeValue, float64(n), state)
	}
	for d, v := range map[*prometheus.Desc]int{
		liveDesc: st.Live, heldDesc: st.Held, limitDesc: c.limits.Series, metricsDesc: st.Metrics, edgesDesc: st.Edges, edgesMaxDesc: c.limits.Edges,
		groupsDesc: st.Groups, groupsMaxDesc: c.limits.Groups,
		memoryDesc: int(memoryUsed(c.store)), memoryMaxDesc: int(c.memory),
		pairsDesc: st.Pairs, pairBytesDesc: st.PairBytes, familiesDesc: st.Families,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	for d, v := range map[*prometheus.Desc]uint64{
		expiredDesc: n.Expired, unscrapedDesc: n.Missed, deletedDesc: n.Deleted, endedDesc: n.Ended, forgottenDesc: n.Forgotten, ownerDesc: n.OwnerChanges, conflictsDesc: n.MetadataConflicts,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
}
