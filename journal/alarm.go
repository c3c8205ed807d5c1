package journal

import "time"

// nearFull is from which share of its limit on a journal says that it fills up.
const nearFull = 0.85

// alarmEvery is how often that is looked at. Shorter in tests.
var alarmEvery = 10 * time.Second

// nearlyFull reports whether the journal is near its limit, or has refused a record
// that did not fit since that was asked last.
func (j *Journal) nearlyFull() bool {
	return j.refused.Swap(false) || j.size() > nearFull*j.sizeLimit()
}

// watchSize says once that the journal is near its limit, before it refuses
// records, and once that it no longer is. While it is, checkpoints are due: each
// frees what the one before it has needed.
func (j *Journal) watchSize() {
	tick := time.NewTicker(alarmEvery)
	defer tick.Stop()
	near := false
	for {
		select {
		case <-j.closing:
			return
		case <-tick.C:
		}
		size, limit := j.size(), j.sizeLimit()
		if size > nearFull*limit {
			j.isDue()
		}
		switch {
		case !near && size > nearFull*limit:
			near = true
			j.log.Warn("The journal is near its limit, --journal.max-bytes: checkpoints are written now to free it; at it pushes are answered 503", "bytes", int64(size), "limit", int64(limit))
		case near && size < 0.9*nearFull*limit:
			near = false
			j.log.Info("The journal is no longer near its limit", "bytes", int64(size))
		}
	}
}
