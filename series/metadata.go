package series

import (
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A MetricType is the type of a metric family.
type MetricType uint8

// The types, in the order of remote write's enumeration.
const (
	Unknown MetricType = iota
	Counter
	Gauge
	HistogramType
	GaugeHistogram
	Summary
	Info
	Stateset
)

var typeNames = [...]string{"unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"}

// String returns the type as OpenMetrics writes it.
func (t MetricType) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return typeNames[Unknown]
}

// Metadata is what a sender says of a metric family.
type Metadata struct {
	Type MetricType
	Help string
	Unit string
}

const (
	// maxFamiliesPerEdge bounds the metadata kept of one edge; the rest is not kept.
	maxFamiliesPerEdge = 10000
	// maxHelpBytes is where longer HELP texts and units are cut.
	maxHelpBytes = 1024
)

func cut(s []byte) string {
	if len(s) > maxHelpBytes {
		s = s[:maxHelpBytes]
	}
	return strings.ToValidUTF8(string(s), "\uFFFD")
}

// A Part is the role of a series in its metric family.
type Part uint8

// The parts. Plain is the only sample of its metric, Misfit a series whose name
// does not fit the type of its family.
const (
	Plain Part = iota
	Bucket
	Quantile
	Sum
	Count
	Created
	Misfit
)

// familyOf returns the candidates for the family of a metric name under which
// metadata may be kept: the name itself and the name without one suffix, with
// the part that such a series has.
func partOf(family, name string, t MetricType) (Part, bool) {
	if name == family {
		switch t {
		case HistogramType, GaugeHistogram:
			return Misfit, true // unless it carries native histograms
		case Summary:
			return Quantile, true
		}
		return Plain, true
	}
	suffix, ok := strings.CutPrefix(name, family)
	if !ok {
		return 0, false
	}
	switch t {
	case Counter:
		switch suffix {
		case "_total":
			return Plain, true
		case "_created":
			return Created, true
		}
	case HistogramType:
		switch suffix {
		case "_bucket":
			return Bucket, true
		case "_sum":
			return Sum, true
		case "_count":
			return Count, true
		case "_created":
			return Created, true
		}
	case GaugeHistogram:
		switch suffix {
		case "_bucket":
			return Bucket, true
		case "_gsum":
			return Sum, true
		case "_gcount":
			return Count, true
		}
	case Summary:
		switch suffix {
		case "_sum":
			return Sum, true
		case "_count":
			return Count, true
		case "_created":
			return Created, true
		}
	case Info:
		if suffix == "_info" {
			return Plain, true
		}
	}
	return 0, false
}

var familySuffixes = []string{"_total", "_bucket", "_sum", "_count", "_created", "_info", "_gsum", "_gcount"}

// baseName takes off the suffix of a metric name that a family of some type
// would have added; it is the name itself where there is none.
func baseName(name string) string {
	for _, suffix := range familySuffixes {
		if b, ok := strings.CutSuffix(name, suffix); ok && b != "" {
			return b
		}
	}
	return name
}

// metadata is what edges said of families: for each family its variants, for
// each variant the edges that declare it, as a bit set.
type metadata struct {
	mu        sync.RWMutex
	families  map[string][]*variant
	perEdge   map[uint32]int // families that an edge declares
	version   atomic.Uint64  // changes when a scan may have to look again
	conflicts atomic.Uint64
}

type variant struct {
	Metadata
	edges []uint64
}

func (v *variant) has(edge uint32) bool {
	return int(edge/64) < len(v.edges) && v.edges[edge/64]&(1<<(edge%64)) != 0
}

func (m *metadata) init() {
	m.families = map[string][]*variant{}
	m.perEdge = map[uint32]int{}
}

// compound reports whether an edge has said that a family has buckets, sums or
// counts.
func (m *metadata) compound(family string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.ContainsFunc(m.families[family], func(v *variant) bool {
		return v.Type == HistogramType || v.Type == GaugeHistogram || v.Type == Summary
	})
}

func (m *metadata) len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.families)
}

// known reports whether the edge's latest word on the family is md already.
func (m *metadata) known(edge uint32, family []byte, md *Metadata) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, v := range m.families[string(family)] {
		if v.has(edge) {
			return v.Metadata == *md
		}
	}
	return false
}

// unchanged is known for what was not cut yet; most metadata is sent again and
// again, and this does not allocate.
func (m *metadata) unchanged(edge uint32, family []byte, t MetricType, help, unit []byte) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, v := range m.families[string(family)] {
		if v.has(edge) {
			return v.Type == t && v.Help == string(help) && v.Unit == string(unit)
		}
	}
	return false
}

// put records the edge's word on a family.
func (m *metadata) put(edge uint32, family []byte, md Metadata) {
	if m.known(edge, family, &md) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := string(family)
	variants := m.families[name]
	var mine *variant
	declared, conflict := false, len(variants) > 0
	kept := variants[:0]
	for _, v := range variants {
		if v.has(edge) {
			v.edges[edge/64] &^= 1 << (edge % 64)
			declared = true
		}
		if v.Metadata == md {
			mine = v
		}
		conflict = conflict && v.Type != md.Type
		if v == mine || v.any() {
			kept = append(kept, v)
		}
	}
	clear(variants[len(kept):])
	if !declared {
		if m.perEdge[edge] >= maxFamiliesPerEdge {
			return
		}
		m.perEdge[edge]++
	}
	if mine == nil {
		mine = &variant{Metadata: md}
		kept = append(kept, mine)
	}
	if conflict {
		m.conflicts.Add(1)
	}
	for int(edge/64) >= len(mine.edges) {
		mine.edges = append(mine.edges, 0)
	}
	mine.edges[edge/64] |= 1 << (edge % 64)
	m.families[name] = kept
	m.version.Add(1)
}

// forget takes back what edges said.
func (m *metadata) forget(edges []uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, variants := range m.families {
		kept := variants[:0]
		for _, v := range variants {
			for _, edge := range edges {
				if v.has(edge) {
					v.edges[edge/64] &^= 1 << (edge % 64)
				}
			}
			if v.any() {
				kept = append(kept, v)
			}
		}
		clear(variants[len(kept):])
		if m.families[name] = kept; len(kept) == 0 {
			delete(m.families, name)
		}
	}
	for _, edge := range edges {
		delete(m.perEdge, edge)
	}
	m.version.Add(1)
}

func (v *variant) any() bool {
	for _, w := range v.edges {
		if w != 0 {
			return true
		}
	}
	return false
}

func (v *variant) count() int {
	n := 0
	for _, w := range v.edges {
		n += bits.OnesCount64(w)
	}
	return n
}
