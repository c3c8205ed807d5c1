package series

import (
	"cmp"
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

// partOf is the part that a metric of that name has in a family of a type; ok is false
// if it is none of it.
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
	conflicts atomic.Uint64
}

type variant struct {
	Metadata
	edges edgeSet
}

func (v *variant) has(edge uint32) bool { return v.edges.has(edge) }

// An edgeSet is a set of edges, as bits from the first word that has one: a thousand
// edges that each have a set of their own take a thousand words.
type edgeSet struct {
	from  uint32 // number of the first word
	words []uint64
	n     int // edges
}

func (s *edgeSet) has(edge uint32) bool {
	i := edge/64 - s.from // wraps below from
	return i < uint32(len(s.words)) && s.words[i]&(1<<(edge%64)) != 0
}

func (s *edgeSet) add(edge uint32) {
	if s.has(edge) {
		return
	}
	at := edge / 64
	switch {
	case len(s.words) == 0:
		s.from, s.words = at, append(s.words, 0)
	case at < s.from:
		s.words = append(make([]uint64, s.from-at), s.words...)
		s.from = at
	}
	for at-s.from >= uint32(len(s.words)) {
		s.words = append(s.words, 0)
	}
	s.words[at-s.from] |= 1 << (edge % 64)
	s.n++
}

func (s *edgeSet) remove(edge uint32) {
	if s.has(edge) {
		s.words[edge/64-s.from] &^= 1 << (edge % 64)
		s.n--
	}
}

// addAll adds another set.
func (s *edgeSet) addAll(other *edgeSet) {
	for i, w := range other.words {
		if w == 0 {
			continue
		}
		s.add((other.from+uint32(i))*64 + uint32(bits.TrailingZeros64(w))) // makes the place
		at := &s.words[other.from+uint32(i)-s.from]
		s.n += bits.OnesCount64(w &^ *at)
		*at |= w
	}
}

// all yields the edges.
func (s *edgeSet) all(yield func(edge uint32) bool) {
	for i, w := range s.words {
		for ; w != 0; w &= w - 1 {
			if !yield((s.from+uint32(i))*64 + uint32(bits.TrailingZeros64(w))) {
				return
			}
		}
	}
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
			v.edges.remove(edge)
			declared = true
		}
		if v.Metadata == md {
			mine = v
		}
		conflict = conflict && v.Type != md.Type
		if v == mine || v.edges.n > 0 {
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
	mine.edges.add(edge)
	m.families[name] = kept
}

// forget takes back what edges said.
func (m *metadata) forget(edges []uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, variants := range m.families {
		kept := variants[:0]
		for _, v := range variants {
			for _, edge := range edges {
				v.edges.remove(edge)
			}
			if v.edges.n > 0 {
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
}

// best is which variant of a family holds, where edges have so many live series of it.
func (m *metadata) best(family string, live map[uint32]int) (md Metadata) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var votes [len(typeNames)]int
	for _, v := range m.families[family] {
		for edge := range v.edges.all {
			votes[v.Type] += live[edge]
		}
	}
	var best *variant
	for _, v := range m.families[family] {
		if best == nil || better(v, best, votes[:]) {
			best = v
		}
	}
	if best != nil {
		md = best.Metadata
	}
	return md
}

func better(a, b *variant, votes []int) bool {
	if va, vb := votes[a.Type], votes[b.Type]; va != vb {
		return va > vb
	}
	if a.Type != b.Type {
		return a.Type.String() < b.Type.String()
	}
	if a.edges.n != b.edges.n {
		return a.edges.n > b.edges.n
	}
	return cmp.Or(cmp.Compare(a.Help, b.Help), cmp.Compare(a.Unit, b.Unit)) < 0
}
