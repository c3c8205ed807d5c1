package series

// glances is how many samples of a request are looked at for what is learned of its
// sender: the work is per request, not per sample.
const glances = 16

// glance learns of the sender what a few samples of a prepared batch say: how new
// they are, and how long the series before them waited. It comes before they are
// applied.
func (b *Batch) glance() {
	n := len(b.entries)
	if n == 0 || b.recorded != nil {
		return
	}
	step := (n + glances - 1) / glances
	for i := n - 1; i >= 0; i -= step { // the last of a request tend to be the newest
		if e := &b.entries[i]; e.kind&(isExemplar|isMissing) == 0 {
			b.seen(e.t)
		}
	}
	// One series that was there before tells. Which one changes from request to request.
	for i := range min(glances, n) {
		e := &b.entries[(int(uint32(b.received))+i*step)%n]
		if e.kind&(isExemplar|isMissing) != 0 || e.bits == staleBits {
			continue
		}
		b.read()
		sl := b.slot(e.slot)
		if sl.flags&(sampled|deleted) == sampled && sl.bits != staleBits && e.t > sl.t {
			b.res.Interval = e.t - sl.t
			return
		}
	}
}

// seen notes the time of a sample.
func (b *Batch) seen(t int64) {
	if !b.res.Timed || t > b.res.Newest {
		b.res.Newest, b.res.Timed = t, true
	}
}
