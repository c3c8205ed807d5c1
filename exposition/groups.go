package exposition

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay/series"
)

// Groups answers GET /api/v1/metrics in the Pushgateway's shape: the groups of the
// push API, with their families.
func (h *Handler) Groups(w http.ResponseWriter, r *http.Request) {
	done, ok := h.begin(w, r)
	if !ok {
		return
	}
	v := &groupVisitor{groups: map[string]map[string]any{}}
	err := h.opts.Store.Scan(time.Now(), series.Query{}, v)
	done()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	keys := make([]string, 0, len(v.groups))
	for key := range v.groups {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	data := make([]map[string]any, 0, len(keys))
	for _, key := range keys {
		data = append(data, v.groups[key])
	}
	writeEnvelope(w, http.StatusOK, map[string]any{"status": "success", "data": data})
}

// groupVisitor gathers the series of groups.
type groupVisitor struct {
	groups  map[string]map[string]any
	current map[string]*groupFamily // of the family being shown, by group
}

type groupFamily struct {
	Time    time.Time                 `json:"time_stamp"`
	Type    string                    `json:"type"`
	Help    string                    `json:"help,omitempty"`
	Metrics []map[string]any          `json:"metrics"`
	byKey   map[string]map[string]any // of one metric, by labels
}

func (v *groupVisitor) BeginFamily(*series.Family) { v.current = map[string]*groupFamily{} }
func (v *groupVisitor) EndFamily(*series.Family)   {}
func (v *groupVisitor) Flush() error               { return nil }

func (v *groupVisitor) Series(f *series.Family, s *series.Series) {
	scope, grouping, ok := s.GroupKey()
	if !ok {
		return
	}
	key := scope + "\xff" + string(grouping)
	group := v.groups[key]
	if group == nil {
		group = map[string]any{"labels": series.Labels(grouping), "last_push_successful": true}
		v.groups[key] = group
	}
	fam := v.current[key]
	if fam == nil {
		fam = &groupFamily{Type: strings.ToUpper(f.Metadata.Type.String()), Help: f.Metadata.Help, byKey: map[string]map[string]any{}}
		if f.Metadata.Type == series.Unknown {
			fam.Type = "UNTYPED"
		}
		v.current[key] = fam
		group[f.Name] = fam
	}
	if t := time.UnixMilli(s.Time).UTC(); t.After(fam.Time) {
		fam.Time = t
	}
	// Its labels are those of the page, the grouping key's empty ones included.
	labels, bound := series.Labels(grouping), ""
	if _, has := labels["instance"]; !has {
		labels["instance"] = ""
	}
	var id strings.Builder
	for p := range s.Pairs {
		name := string(p.Name)
		switch {
		case name == "__name__":
		case s.Part == series.Bucket && name == "le", s.Part == series.Quantile && name == "quantile":
			bound = string(p.Value)
		default:
			labels[name] = string(p.Value)
			id.Write(p.Packed)
		}
	}
	m := fam.byKey[id.String()]
	if m == nil {
		m = map[string]any{"labels": labels}
		fam.byKey[id.String()] = m
		fam.Metrics = append(fam.Metrics, m)
	}
	value := strconv.FormatFloat(s.Value, 'g', -1, 64)
	in := func(field string) {
		bounds, _ := m[field].(map[string]string)
		if bounds == nil {
			bounds = map[string]string{}
			m[field] = bounds
		}
		bounds[bound] = value
	}
	switch s.Part {
	case series.Bucket:
		in("buckets")
	case series.Quantile:
		in("quantiles")
	case series.Sum:
		m["sum"] = value
	case series.Count:
		m["count"] = value
	default:
		m["value"] = value
	}
}
