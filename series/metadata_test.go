package series

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// declare has an edge say what a family is.
func declare(s *Store, edge, family string, t MetricType, help string) {
	b := s.NewBatch(Request{Edge: edge, Received: t0, Now: t0})
	defer b.Release()
	b.Metadata([]byte(family), t, []byte(help), nil)
	b.Commit()
}

// Who has no live series of a family does not say what those of others are: a centre
// reads the labels of a histogram's buckets in another way.
func TestTypeOfAnEdgeWithoutSeries(t *testing.T) {
	s := New(Options{})
	pushFrom(s, "has", t0, 60_000, "f_bucket")
	expect := func(now time.Time, q Query, family string, want MetricType) {
		t.Helper()
		var p page
		if err := s.Scan(now, q, &p); err != nil {
			t.Fatal(err)
		}
		if got, ok := p.types[family]; !ok || got != want || len(p.types) != 1 {
			t.Errorf("shown are %v, want %s of type %s", p.types, family, want)
		}
	}
	declare(s, "tells", "f", HistogramType, "")
	expect(t0, Query{}, "f_bucket", Unknown)
	declare(s, "tells too", "f", Counter, "") // nor do two
	expect(t0, Query{}, "f_bucket", Unknown)
	declare(s, "has", "f", HistogramType, "")
	expect(t0, Query{}, "f", HistogramType)
	expect(t0, Query{Edge: "has"}, "f", HistogramType)

	// As soon as it has one, and as long as it lives.
	declare(s, "has", "f", Unknown, "")
	expect(t0, Query{}, "f_bucket", Unknown)
	pushFrom(s, "tells", t0, 30_000, "f_sum")
	pushFrom(s, "tells", t0, 30_000, "f_count")
	expect(t0, Query{}, "f", HistogramType)
	expect(at(40*time.Second), Query{}, "f_bucket", Unknown)
}

func TestEdgeSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var sets [2]edgeSet
		var models [2]map[uint32]bool
		for i := range sets {
			models[i] = map[uint32]bool{}
			from, n := r.Uint32N(1000), 1+r.Uint32N(300)
			for range r.IntN(50) {
				if edge := from + r.Uint32N(n); r.IntN(4) > 0 {
					sets[i].add(edge)
					models[i][edge] = true
				} else {
					sets[i].remove(edge)
					delete(models[i], edge)
				}
			}
		}
		sets[0].addAll(&sets[1])
		maps.Copy(models[0], models[1])
		for i := range sets {
			want := slices.Sorted(maps.Keys(models[i]))
			if got := slices.Collect(sets[i].all); !slices.Equal(got, want) || sets[i].n != len(want) {
				t.Fatalf("%d, %v, want %v", sets[i].n, got, want)
			}
			for edge := range uint32(1500) {
				if sets[i].has(edge) != models[i][edge] {
					t.Fatalf("has(%d) of %s", edge, fmt.Sprint(want))
				}
			}
		}
	}
}
