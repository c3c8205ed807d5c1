package series

import (
	"math"
	"slices"
	"strings"
)

// A Group says that a request is a push to a group: what the push API of the
// Pushgateway writes. A group owns the series that it wrote last. Its pushes are
// ordered by their commits, not by clocks: the caller sees to it that one is
// committed before the next one of any group begins.
type Group struct {
	// Scope parts groups of equal labels, by who may touch them: an edge's name, or
	// "" where everybody may.
	Scope string

	Labels []byte // the grouping labels, canonical and packed; copied

	// Ends says which of the group's series end with this push if they are not in
	// it: all, or those of the families in it: see Batch.EndFamily.
	Ends GroupEnds

	Edge string // who pushed it last; only Store.Groups says so
}

// GroupEnds is how much of a group a push replaces.
type GroupEnds uint8

const (
	EndsFamilies GroupEnds = iota
	EndsAll
)

const groupMark = "\xff" // in no name of an edge

// key tells groups apart.
func (g *Group) key() string { return g.Scope + groupMark + string(g.Labels) }

// dumpName is what an owner is called in a piece of state.
func (s *Store) dumpName(id uint32) string {
	o := s.owners[id]
	if o.group == "" {
		return o.name
	}
	return s.owners[o.edge].name + groupMark + o.group
}

// ownerNamed is the opposite of dumpName. A group is pinned until unpin: its series
// are yet to come, and a sweep must not take it for an empty one. ok is false if it is
// not what dumpName says.
func (s *Store) ownerNamed(name string) (id uint32, pinned, ok bool) {
	edge, group, isGroup := strings.Cut(name, groupMark)
	if !isGroup {
		return s.owner(name), false, true
	}
	if !strings.Contains(group, groupMark) { // as each key has
		return 0, false, false
	}
	id, _ = s.groupOwner(edge, group, math.MaxInt)
	s.pushedBy(id, s.owner(edge))
	return id, true, true
}

func (s *Store) unpin(id uint32) {
	s.structure.RLock()
	defer s.structure.RUnlock()
	s.owners[id].pins.Add(-1)
}

// idSet is a set of owners, few of them as a rule; nil is an empty one.
type idSet map[uint32]struct{}

func (s *idSet) add(id uint32) {
	if *s == nil {
		*s = idSet{}
	}
	(*s)[id] = struct{}{}
}

// remove gives the map up with the last: it would stay as large as it was.
func (s *idSet) remove(id uint32) {
	if delete(*s, id); len(*s) == 0 {
		*s = nil
	}
}

// groupOwner returns the owner that stands for a group, pinned until unpin; a new one
// was last pushed by edge. ok is false if there are limit groups already; the edge is
// then the owner. What was taken once has no limit: math.MaxInt.
func (s *Store) groupOwner(edge, key string, limit int) (id uint32, ok bool) {
	by := s.owner(edge)
	s.structure.Lock()
	defer s.structure.Unlock()
	id, ok = s.groupIDs[key]
	if !ok {
		if len(s.groupIDs) >= limit {
			return by, false
		}
		id = s.newOwner(&owner{group: key, edge: by})
		s.owners[by].groups.add(id)
		s.groupIDs[key] = id
	}
	s.owners[id].pins.Add(1)
	return id, true
}

// pushedBy notes which edge has pushed last to the group that an owner stands for.
func (s *Store) pushedBy(id, edge uint32) {
	s.structure.Lock()
	defer s.structure.Unlock()
	o := s.owners[id]
	if o.edge == edge {
		return
	}
	s.owners[o.edge].grouped.Add(-o.count.Load())
	s.owners[o.edge].groups.remove(id)
	s.owners[edge].groups.add(id)
	o.edge = edge
	s.owners[edge].grouped.Add(o.count.Load())
}

// own counts n more slots of an owner. Under structure.
func (s *Store) own(id uint32, n int64) {
	o := s.owners[id]
	o.count.Add(n)
	if o.group != "" {
		s.owners[o.edge].grouped.Add(n)
	}
}

// edgeOf is the edge that an owner is, or that last pushed to the group. Under
// structure.
func (s *Store) edgeOf(id uint32) uint32 {
	if o := s.owners[id]; o.group != "" {
		return o.edge
	}
	return id
}

// freeGroup forgets the owner of a group without series. Under structure, for
// writing.
func (s *Store) freeGroup(id uint32) {
	o := s.owners[id]
	if o.group == "" || o.count.Load() != 0 || o.pins.Load() != 0 || len(o.list) != 0 {
		return
	}
	delete(s.groupIDs, o.group)
	s.owners[o.edge].groups.remove(id)
	s.freed++ // the id may mean another group now
	s.owners[id] = &owner{}
	s.freeOwners = append(s.freeOwners, id)
}

// SetTTL gives the samples of the current series a TTL of their own, within the
// bounds, in place of the request's and the label's.
func (b *Batch) SetTTL(ttl TTL) {
	granted, _ := ttl.clamp(b.minTTL, b.maxTTL)
	b.cur.ttl = packTTL(granted)
}

// Lasts says that the sender is not silent before a TTL, within the bounds, in place of
// the request's: where SetTTL gave all that was pushed another one.
func (b *Batch) Lasts(ttl TTL) { b.res.lasts, _ = ttl.clamp(b.minTTL, b.maxTTL) }

// SetGroupTTL gives the samples of the current series the TTL with which they end
// when the group does: with the last of its series that was pushed so far.
func (b *Batch) SetGroupTTL() {
	ttl := b.longest
	if ttl == 0 {
		ttl = b.ttl.ttl() // nothing else was pushed
	}
	if b.group.Ends != EndsAll {
		reading := b.reading
		if !reading { // else the batch has the lock: twice it would be a deadlock
			b.store.structure.RLock()
		}
		o := b.store.owners[b.owner]
		if !reading {
			b.store.structure.RUnlock()
		}
		o.mu.Lock()
		ttl = max(ttl, TTL(min(o.until-b.mono, int64(Forever))))
		o.mu.Unlock()
	}
	b.cur.ttl = packTTL(ttl)
}

// EndFamily says that the push replaces a family of its group: the series of that
// name, and if it is compound those named like its buckets, sums and counts.
func (b *Batch) EndFamily(name string, compound bool) {
	if b.ends == nil {
		b.ends = map[string]bool{}
	}
	b.ends[name] = true
	if compound || b.store.metadata.compound(name) {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			b.ends[name+suffix] = true
		}
	}
}

// Duplicate names a series that a prepared push has twice; "" if none is.
func (b *Batch) Duplicate() string {
	seen := make(map[uint32]bool, len(b.entries))
	for i := range b.entries {
		e := &b.entries[i]
		if e.kind&(isMissing|isExemplar) != 0 {
			continue
		}
		if seen[e.slot] {
			b.store.structure.RLock()
			defer b.store.structure.RUnlock()
			_, sl := b.store.slot(e.slot)
			return FormatLabels(b.store.packedLabels(sl))
		}
		seen[e.slot] = true
	}
	return ""
}

// endGroup ends what the group owns, is to be replaced and was not in the push.
func (b *Batch) endGroup() {
	s := b.store
	s.structure.RLock()
	defer s.structure.RUnlock()
	o := s.owners[b.owner]
	o.mu.Lock()
	list := slices.Clone(o.list)
	o.until = max(o.until, addMs(b.mono, int64(b.longest)))
	if b.group.Ends == EndsAll {
		o.until = addMs(b.mono, int64(b.longest))
	}
	o.mu.Unlock()
	pushed := map[uint32]bool{}
	for i := range b.entries {
		pushed[b.entries[i].slot] = true
	}
	for _, id := range list {
		if pushed[id] {
			continue
		}
		block, sl := s.slot(id)
		block.mu.Lock()
		// The list has slots, too, that went to another owner, or that a sweep has freed.
		if sl.flags&(inUse|sampled) == inUse|sampled && sl.owner == b.owner && sl.flags&deleted == 0 && b.mono < sl.forgettable(s.lag) &&
			(b.group.Ends == EndsAll || b.ends[s.metrics[s.nameOf(sl)].name]) {
			sl.delete(b.received, b.mono, s.lag)
		}
		block.mu.Unlock()
	}
}

// delete hides a series at once, with a watermark at the time of the request that
// lasts as long as a late sample may be late.
func (s *slot) delete(received, mono, lag int64) { s.hide(received, received, mono, TTL(lag), lag) }

// hide is delete with a watermark at a time, not before the request's, and a TTL of
// its own.
func (s *slot) hide(t, received, mono int64, ttl TTL, lag int64) {
	s.t, s.skew, s.ttl = t, saturate32(t-received), packTTL(ttl)
	s.deadline = deadline(t, received, mono, ttl, lag)
	s.flags |= deleted | counted
}

// overwrite puts a sample in the place of whatever the slot holds.
func (s *slot) overwrite(a *sample) {
	s.bits, s.t, s.deadline, s.ttl = a.bits, a.t, a.deadline, a.ttl
	s.skew = saturate32(a.t - a.received)
	s.flags = s.flags&^(deleted|counted) | sampled
}

// GroupKey is which group owns a series: its scope and its packed labels; ok is
// false if none does.
func (s *Series) GroupKey() (scope string, labels []byte, ok bool) {
	if s.group == "" {
		return "", nil, false
	}
	scope, packed, _ := strings.Cut(s.group, groupMark)
	return scope, []byte(packed), true
}

// HasGroup reports whether anything is known of a group.
func (s *Store) HasGroup(g *Group) bool {
	s.structure.RLock()
	defer s.structure.RUnlock()
	_, ok := s.groupIDs[g.key()]
	return ok
}

// Groups lists the groups of which anything is known, in no order. Whether they
// show any series is for a scan to say.
func (s *Store) Groups() []Group {
	s.structure.RLock()
	defer s.structure.RUnlock()
	list := make([]Group, 0, len(s.groupIDs))
	for key, id := range s.groupIDs {
		scope, labels, _ := strings.Cut(key, groupMark)
		list = append(list, Group{Scope: scope, Labels: []byte(labels), Edge: s.owners[s.edgeOf(id)].name})
	}
	return list
}
