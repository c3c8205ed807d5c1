package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"

	"relay/journal"
	"relay/series"
)

// records is a journal in memory; it fails where fails says so.
type records struct {
	list  []journal.Record
	fails func() error
}

func (j *records) Append(_ context.Context, r *journal.Record, apply func()) error {
	if j.fails != nil {
		if err := j.fails(); err != nil {
			return err
		}
	}
	kept := *r
	kept.Body = bytes.Clone(r.Body)
	j.list = append(j.list, kept)
	apply()
	return nil
}

// A lines is a Visitor that has a line for each series.
type lines struct{ list []string }

func (l *lines) BeginFamily(*series.Family) {}
func (l *lines) EndFamily(*series.Family)   {}
func (l *lines) Flush() error               { return nil }
func (l *lines) Series(_ *series.Family, s *series.Series) {
	l.list = append(l.list, fmt.Sprintf("%s %v", s, s.Value))
}

func shownBy(t *testing.T, store *series.Store) []string {
	t.Helper()
	var l lines
	if err := store.Scan(time.Now(), series.Query{}, &l); err != nil {
		t.Fatal(err)
	}
	slices.Sort(l.list)
	return l.list
}

func named(prefix string) series.Query {
	return series.Query{Matchers: [][]series.Matcher{{{Name: "__name__", Matches: func(s string) bool { return strings.HasPrefix(s, prefix) }}}}}
}

// fillStore has n series m_<i> and one that is called other.
func fillStore(store *series.Store, n int, now time.Time) {
	b := store.NewBatch(series.Request{Edge: "a", TTL: 3_600_000, Received: now, Now: now})
	defer b.Release()
	for i := range n {
		b.Series(series.CanonicalLabels([][2]string{{"__name__", fmt.Sprint("m_", i)}, {"job", "x"}, {"empty", ""}}))
		b.Float(now.UnixMilli(), float64(i), 0)
	}
	b.Series(series.CanonicalLabels([][2]string{{"__name__", "other"}}))
	b.Float(now.Add(5*time.Second).UnixMilli(), 1, 0) // a fast clock
	b.Commit()
}

// What was deleted is so in a replay too, and nothing else.
func TestDelete(t *testing.T) {
	const n = deletedTurn + 5 // two records
	store, kept := series.New(series.Options{}), &records{}
	h := New(Options{Store: store, Journal: kept})
	begun := time.Now()
	fillStore(store, n, begun)
	count := func(q series.Query, dry bool, want int) {
		t.Helper()
		if got, err := h.Delete(t.Context(), q, dry); err != nil || got != want {
			t.Errorf("deleted %d, want %d: %v", got, want, err)
		}
	}
	count(named("m_"), true, n)
	count(named("nothing"), false, 0)
	if len(kept.list) != 0 || len(shownBy(t, store)) != n+1 {
		t.Fatalf("a dry run, or one of nothing: %d records", len(kept.list))
	}
	count(named("m_"), false, n)
	if got := shownBy(t, store); len(kept.list) != 2 || !slices.Equal(got, []string{"other 1"}) {
		t.Errorf("%d records, shown %d", len(kept.list), len(got))
	}
	count(named("other"), false, 1)
	count(named(""), true, 0)

	// Into a store that has the same series.
	again := series.New(series.Options{})
	h = New(Options{Store: again})
	fillStore(again, n+1, begun)
	for i := range kept.list {
		for range 2 {
			if err := h.Replay(&kept.list[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := shownBy(t, again); len(got) != 1 || got[0] != fmt.Sprintf(`m_%d{job="x"} %d`, n, n) {
		t.Errorf("after a replay %d series, the first %s", len(got), got[0])
	}
	for _, body := range []string{"", "x", "\x00\x05ab", "\xff"} {
		bad := kept.list[0]
		bad.Body = snappy.Encode(nil, []byte(body))
		if err := h.Replay(&bad); (err == nil) != (body == "") {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestDeleteRefused(t *testing.T) {
	store := series.New(series.Options{})
	fillStore(store, deletedTurn+5, time.Now())
	failed := errors.New("full")
	appended := 0
	h := New(Options{Store: store, Journal: &records{fails: func() error {
		if appended++; appended > 1 {
			return failed
		}
		return nil
	}}})
	if n, err := h.Delete(t.Context(), named("m_"), false); !errors.Is(err, failed) || n != deletedTurn {
		t.Errorf("%d, %v", n, err)
	}
	if got := shownBy(t, store); len(got) != 6 {
		t.Errorf("%d are left", len(got))
	}
	h = New(Options{Store: store, Ready: make(chan struct{})})
	if _, err := h.Delete(t.Context(), named("m_"), false); !errors.Is(err, ErrNotNow) {
		t.Error(err)
	}
	h = New(Options{Store: store})
	h.Drain(t.Context())
	if _, err := h.Delete(t.Context(), named("m_"), false); !errors.Is(err, ErrNotNow) {
		t.Error(err)
	}
	if len(shownBy(t, store)) != 6 {
		t.Error("deleted all the same")
	}
}
