package series

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// pins keep the sweep from freeing a series that a batch has resolved and not
// yet committed. Every slot carries the round of the sweep in which a batch last
// resolved it; a batch counts in the round in which it began. A sweep opens a
// new round and leaves alone what was resolved in it or the one before, and it
// frees nothing while a batch of an earlier round is on its way. What a slot carries
// never goes back: a batch that began earlier may resolve it after a later one.
type pins struct {
	current atomic.Uint32
	mu      sync.Mutex
	active  map[uint32]int
}

func (p *pins) round() uint16 { return uint16(p.current.Load()) }

func (p *pins) begin() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active == nil {
		p.active = map[uint32]int{}
	}
	r := p.current.Load()
	p.active[r]++
	return r
}

func (p *pins) end(r uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active[r]--; p.active[r] == 0 {
		delete(p.active, r)
	}
}

// advance opens a round and reports whether all batches of rounds before the
// previous one are through.
func (p *pins) advance() (round uint16, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.current.Add(1)
	for a := range p.active {
		if r-a > 1 {
			return uint16(r), false
		}
	}
	return uint16(r), true
}

// freeTurn is how many series one turn of the structure lock frees: about half
// a millisecond.
const freeTurn = 512

// Sweep frees the memory of series whose hidden watermark has passed and counts
// the expired. It never changes what a scan shows, and frees nothing during a Dump: what
// a request found superseded is to be in it with what superseded it. One call at a time is useful;
// it costs some ms per million series held.
func (s *Store) Sweep(now time.Time) (freed int) {
	mono := s.mono(now)
	round, ok := s.pins.advance()
	pinned := func(sl *slot) bool { return !ok || round-sl.pin <= 1 }
	seen := s.scraped.copy()
	var dead []uint32
	touched := map[*metric]bool{}
	for i := 0; ; i++ {
		s.structure.RLock()
		if i >= len(s.blocks) {
			s.structure.RUnlock()
			break
		}
		if b := s.blocks[i]; b != nil {
			b.mu.Lock()
			for j := range b.slots {
				sl := &b.slots[j]
				if sl.flags&inUse == 0 {
					continue
				}
				if sl.flags&(sampled|counted) == sampled && mono >= sl.deadline {
					sl.flags |= counted
					if sl.bits != staleBits && sl.flags&deleted == 0 {
						s.totals.expired.Add(1)
						if s.missed(seen, sl) {
							s.totals.missed.Add(1)
						}
					}
				}
				if (sl.flags&sampled == 0 || mono >= sl.forgettable(s.lag)) && !pinned(sl) && s.dumps == 0 {
					dead = append(dead, uint32(i<<blockBits|j))
				}
			}
			b.mu.Unlock()
		}
		s.structure.RUnlock()
	}
	var limbo []uint32
	for len(dead) > 0 {
		turn := dead[:min(len(dead), freeTurn)]
		dead = dead[len(turn):]
		s.structure.Lock()
		for _, id := range turn {
			_, sl := s.slot(id)
			if sl.flags&sampled != 0 && mono < sl.forgettable(s.lag) || pinned(sl) || s.dumps > 0 {
				continue // resolved or revived meanwhile
			}
			s.unlink(id, sl, touched)
			limbo = append(limbo, id)
		}
		s.structure.Unlock()
	}
	s.tidyOwners(len(limbo) > 0)
	s.forgetEdges()
	if len(limbo) == 0 {
		return 0
	}
	// A freed slot may be used again only when no list of series holds it.
	for m := range touched {
		s.structure.Lock()
		m.list = slices.Clip(s.filter(m.list, func(sl *slot) bool { return true }))
		s.structure.Unlock()
	}
	s.structure.Lock()
	s.freeNames()
	s.reuse(limbo)
	s.dict.compact()
	s.structure.Unlock()
	s.totals.forgotten.Add(uint64(len(limbo)))
	return len(limbo)
}

// freeNames frees the names that no series has. Under structure, for writing.
func (s *Store) freeNames() {
	for id, m := range s.metrics {
		if len(m.list) == 0 {
			delete(s.metrics, id)
			s.dict.release(id)
			s.freed++
		}
	}
}

// reuse gives freed slots to the series to come: no list has them any more. Under
// structure, for writing.
func (s *Store) reuse(freed []uint32) {
	for _, id := range freed {
		b, sl := s.slot(id)
		sl.flags = 0
		at := int(id >> blockBits)
		b.used--
		b.cursor = min(b.cursor, int(id&(blockLen-1)))
		s.open = min(s.open, at)
		if b.used == 0 {
			s.freeBlock(at)
		}
	}
	for n := len(s.blocks); n > 0 && s.blocks[n-1] == nil; n-- {
		s.blocks = s.blocks[:n-1]
	}
	s.open = min(s.open, len(s.blocks))
}

// tidyOwners takes out of the owners' lists what they no longer own, and what
// they hold twice: of all where slots were freed, else of those that have grown.
func (s *Store) tidyOwners(all bool) {
	for i := 0; ; i++ {
		s.structure.Lock()
		if i >= len(s.owners) {
			s.structure.Unlock()
			return
		}
		if o := s.owners[i]; all || len(o.list) > 2*int(o.count.Load())+blockLen {
			o.list = s.filter(o.list, func(sl *slot) bool { return sl.owner == uint32(i) })
			if len(o.list) > int(o.count.Load()) {
				o.list = slices.Clone(o.list)
				slices.Sort(o.list)
				o.list = slices.Compact(o.list)
			}
		}
		s.freeGroup(uint32(i))
		s.structure.Unlock()
	}
}

// unlink takes a series out of everything that finds it. Under structure, for
// writing. Its slot may still be in lists, and is nobody else's until reuse.
func (s *Store) unlink(id uint32, sl *slot, touched map[*metric]bool) {
	var room [256]pairID
	ids := s.ids(sl, room[:])
	s.packing = s.packing[:0]
	for _, p := range ids {
		s.packing = append(s.packing, s.dict.bytes(p)...)
	}
	hash := maphash.Bytes(s.dict.seed, s.packing)
	s.shardOf(hash).remove(uint32(hash), id)
	touched[s.metrics[s.nameOf(sl)]] = true
	s.dict.release(ids[0])
	if s.refs.release(sl.refs) {
		for _, p := range ids[1:] {
			s.dict.release(p)
		}
	}
	if sl.flags&extended != 0 {
		s.extrasMu.Lock()
		delete(s.extras, id)
		s.extrasMu.Unlock()
	}
	s.own(sl.owner, -1)
	*sl = slot{flags: leaving}
	s.held--
	s.freed++
}

// filter returns a list without freed slots, as a new one if any is gone, since
// readers keep the old.
func (s *Store) filter(list []uint32, keep func(*slot) bool) []uint32 {
	gone := func(id uint32) bool {
		_, sl := s.slot(id)
		return sl.flags&inUse == 0 || !keep(sl)
	}
	i := slices.IndexFunc(list, gone)
	if i < 0 {
		return list
	}
	out := append(make([]uint32, 0, len(list)), list[:i]...)
	for _, id := range list[i+1:] {
		if !gone(id) {
			out = append(out, id)
		}
	}
	return out
}
