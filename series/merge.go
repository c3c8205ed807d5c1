package series

import "math"

// A sample is what one entry of a request wants a slot to hold.
type sample struct {
	bits     uint64
	t        int64
	received int64 // wall, ms
	deadline int64 // monotonic, ms
	ttl      packedTTL
}

// newer is the total order of samples: sample time, then stale marker, then the
// greater bits, then the earlier deadline.
func (a *sample) newer(s *slot) bool {
	if a.t != s.t {
		return a.t > s.t
	}
	if (a.bits == staleBits) != (s.bits == staleBits) {
		return a.bits == staleBits
	}
	if a.bits != s.bits {
		return a.bits > s.bits
	}
	return a.deadline < s.deadline
}

// live reports whether the slot is shown at a time of the monotonic clock.
func (s *slot) live(mono int64) bool {
	return s.flags&(inUse|sampled|deleted) == inUse|sampled && s.bits != staleBits && mono < s.deadline
}

// forgettable is the end of the hidden watermark, of the monotonic clock:
// max(sample time, received) + ttl + lag. It is derived from the deadline, which
// lies max(d, 0) + lag - min(0, d + lag) before it, where d is the lead of the
// sample time over the receive time.
func (s *slot) forgettable(lag int64) int64 {
	d := int64(s.skew)
	return addMs(s.deadline, max(d, 0)+lag-min(0, d+lag))
}

// heals reports whether a sample counts although the hidden watermark is ahead
// of it: the watermark was ahead of its own receive time (a fast clock), and the
// sample, another one, is newer than that receive time.
func (a *sample) heals(s *slot, mono int64) bool {
	return s.skew > 0 && !s.live(mono) && a.t > s.t-int64(s.skew) && (a.t != s.t || a.bits != s.bits)
}

// apply merges a sample into a slot and reports whether it is what the slot now
// holds. The caller holds the slot's block.
func (s *slot) apply(a *sample, mono, lag int64) bool {
	if s.flags&sampled != 0 && mono < s.forgettable(lag) && !a.newer(s) && !a.heals(s, mono) {
		return false
	}
	s.bits, s.t, s.deadline, s.ttl = a.bits, a.t, a.deadline, a.ttl
	s.skew = saturate32(a.t - a.received)
	s.flags = s.flags&^(deleted|counted) | sampled
	return true
}

// deadline is when a sample stops being shown: min(received + ttl, sample time +
// ttl + lag), moved from the wall clock to the monotonic one, where received
// lies at mono.
func deadline(t, received, mono int64, ttl TTL, lag int64) int64 {
	if ttl == Forever {
		return math.MaxInt64
	}
	return addMs(mono, addMs(int64(ttl), min(0, t-received+lag)))
}
