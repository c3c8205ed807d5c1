package ingest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"relay/edges"
	"relay/series"
)

// A step of the model test: a push, a checkpoint, a sweep or a restart.
type modelStep struct {
	what   string // write, PUT, POST, DELETE, checkpoint, sweep, restart
	job    string
	values map[string]float64 // by name
}

// modelSteps makes steps from a seed. Values rise, so that each is told from all
// before.
func modelSteps(seed uint64, n int) (steps []modelStep) {
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range n {
		s := modelStep{what: []string{"write", "write", "write", "PUT", "POST", "POST", "DELETE", "checkpoint", "sweep", "restart"}[rng.IntN(10)], job: fmt.Sprint("j", rng.IntN(3)), values: map[string]float64{}}
		for range rng.IntN(4) {
			s.values[fmt.Sprint("m", rng.IntN(5))] = float64(i + 1)
		}
		steps = append(steps, s)
	}
	return steps
}

// againstModel runs steps on a handler with its store and a journal, and on a plain
// map of what is shown; a restart is a new store, with the last checkpoint and the
// records that follow it. It says where they differ.
func againstModel(t *testing.T, steps []modelStep) error {
	var j kept
	var pieces [][]byte
	cut := 0
	var store *series.Store
	var h *Handler
	restart := func() error {
		store = series.New(series.Options{DefaultTTL: series.Forever})
		h = New(Options{Store: store, Journal: &j, Edges: edges.New(time.Hour, 10, nil)})
		for _, p := range pieces {
			if err := store.Load(p, time.Now()); err != nil {
				return err
			}
		}
		for i := range j.records[cut:] {
			if err := h.Replay(&j.records[cut+i]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := restart(); err != nil {
		return err
	}
	type shown struct {
		value float64
		group bool
	}
	model := map[string]map[string]shown{} // by job and name
	clock := time.Now().UnixMilli()
	for i, s := range steps {
		if model[s.job] == nil {
			model[s.job] = map[string]shown{}
		}
		of := model[s.job]
		do := func(r *http.Request, want int) error {
			w := httptest.NewRecorder()
			if r.URL.Path == Paths[0] {
				h.ServeHTTP(w, r)
			} else {
				h.Pusher(series.Forever).ServeHTTP(w, r)
			}
			if w.Code != want {
				return fmt.Errorf("step %d, %v: answered %d %s", i, s, w.Code, w.Body)
			}
			return nil
		}
		var err error
		switch s.what {
		case "write":
			req := &prompb.WriteRequest{}
			clock = max(clock+1, time.Now().UnixMilli()) // newer than what a group has pushed
			for name, v := range s.values {
				req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
					Labels:  []prompb.Label{{Name: "__name__", Value: name}, {Name: "job", Value: s.job}},
					Samples: []prompb.Sample{{Value: v, Timestamp: clock}},
				})
				of[name] = shown{value: v}
			}
			raw, _ := req.Marshal()
			err = do(httptest.NewRequest("POST", Paths[0], bytes.NewReader(snappy.Encode(nil, raw))), 204)
		case "PUT", "POST", "DELETE":
			body := ""
			for _, name := range slices.Sorted(maps.Keys(s.values)) {
				body += fmt.Sprintf("%s %v\n", name, s.values[name])
			}
			code := 200
			if s.what == "DELETE" {
				body, code = "", 202
			}
			if s.what != "POST" {
				maps.DeleteFunc(of, func(_ string, x shown) bool { return x.group })
			}
			if s.what != "DELETE" {
				for name, v := range s.values {
					of[name] = shown{v, true}
				}
			}
			err = do(httptest.NewRequest(s.what, "/metrics/job/"+s.job, strings.NewReader(body)), code)
		case "checkpoint":
			cut, pieces = len(j.records), nil
			err = store.Dump(func(p []byte) error {
				pieces = append(pieces, bytes.Clone(p))
				return nil
			})
		case "sweep":
			store.Sweep(time.Now())
		case "restart":
			err = restart()
		}
		if err != nil {
			return err
		}
		var want []string
		for job, names := range model {
			for name, x := range names {
				want = append(want, fmt.Sprintf("%s{job=%q} %v", name, job, x.value))
			}
		}
		slices.Sort(want)
		got := slices.DeleteFunc(strings.Split((&gateway{t: t, h: h}).shows(), "\n"), func(l string) bool { return l == "" || strings.HasPrefix(l, "push_") })
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("after step %d, %v: shown is %q, want %q", i, s, got, want)
		}
	}
	return nil
}

// TestPushesAgainstModel makes random pushes, by remote write and to groups, with
// deletes, checkpoints, sweeps and restarts, and compares every page with a plain
// map's. A failure is made shorter, step by step, before it is shown.
func TestPushesAgainstModel(t *testing.T) {
	seed, n := uint64(time.Now().UnixNano()), 60
	if s := os.Getenv("RELAY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		n = 1
	}
	for range n {
		steps := modelSteps(seed, 120)
		if err := againstModel(t, steps); err != nil {
			steps, err = shorter(steps, err, func(steps []modelStep) error { return againstModel(t, steps) })
			t.Fatalf("RELAY_SEED=%d: %v; in %d steps: %v", seed, err, len(steps), steps)
		}
		seed++
	}
}

// shorter leaves out what a failure does not need.
func shorter(steps []modelStep, err error, run func([]modelStep) error) ([]modelStep, error) {
	for size := len(steps) / 2; size > 0; size /= 2 {
		for from := 0; from+size <= len(steps); {
			rest := slices.Concat(steps[:from], steps[from+size:])
			if e := run(rest); e != nil {
				steps, err = rest, e
			} else {
				from += size
			}
		}
	}
	return steps, err
}

// A failure that needs two steps of many is shown as those two.
func TestShorter(t *testing.T) {
	fails := func(steps []modelStep) error {
		put := slices.IndexFunc(steps, func(s modelStep) bool { return s.what == "PUT" })
		if put >= 0 && slices.ContainsFunc(steps[put:], func(s modelStep) bool { return s.what == "restart" }) {
			return fmt.Errorf("in %d steps", len(steps))
		}
		return nil
	}
	steps := modelSteps(1, 200)
	short, err := shorter(steps, fails(steps), fails)
	if len(short) != 2 || err == nil || err.Error() != "in 2 steps" {
		t.Errorf("%v, of %d steps", err, len(short))
	}
}
