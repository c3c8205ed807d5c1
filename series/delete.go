package series

import "time"

// A Deletion is a series to delete, with all its samples up to a time.
type Deletion struct {
	Labels []byte // packed, sorted by name
	Upto   int64  // ms; not before the request that deletes it was received
}

// DeletionTTL is how long a deleted series is remembered, not counting the lag
// tolerance: what comes later and is older than the delete is too old to be shown
// anyway.
func (s *Store) DeletionTTL() TTL { return TTLOf(s.opts.Lookback) + TTL(s.lag) }

// Delete hides series at once, and returns how many it hid: those that have no sample
// that is newer than their Upto. Only newer samples bring them back. As samples do, a
// delete merges: it may be applied before or after them and more than once, with the
// same result. received is when it was asked for, by the wall clock, and now the
// present, as in a Request. ttl is the store's DeletionTTL of that time.
func (s *Store) Delete(list []Deletion, received, now time.Time, ttl TTL) (n int) {
	wall := received.UnixMilli()
	mono := s.mono(now)
	mono -= max(0, now.UnixMilli()-wall)
	for len(list) > 0 {
		turn := list[:min(len(list), scanTurn)]
		list = list[len(turn):]
		s.structure.RLock()
		for i := range turn {
			hash, canonical, ok := s.dict.hashLabels(turn[i].Labels)
			if !ok || !canonical {
				continue
			}
			id, ok := s.findSeries(hash, turn[i].Labels)
			if !ok {
				continue
			}
			b, sl := s.slot(id)
			b.mu.Lock()
			if sl.flags&sampled != 0 && sl.t <= turn[i].Upto {
				if sl.flags&deleted == 0 {
					n++
				}
				sl.bits = staleBits // no sample of the same time is newer
				sl.hide(turn[i].Upto, wall, mono, ttl, s.lag)
			}
			b.mu.Unlock()
		}
		s.structure.RUnlock()
	}
	s.totals.deleted.Add(uint64(n))
	return n
}
