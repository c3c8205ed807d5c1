package series

import (
	"slices"
	"testing"
)

// check holds a resting store to the invariants of its memory.
func check(t testing.TB, s *Store) {
	t.Helper()
	s.structure.Lock()
	defer s.structure.Unlock()
	refs := map[pairID]uint32{}
	runs := map[uint32]pairID{}
	held, indexed := 0, 0
	for i, b := range s.blocks {
		if b == nil {
			continue
		}
		used := 0
		for j := range b.slots {
			sl := &b.slots[j]
			if sl.flags&inUse == 0 {
				continue
			}
			used++
			id := uint32(i<<blockBits | j)
			refs[sl.first]++
			if runs[sl.refs]++; runs[sl.refs] == 1 {
				for _, p := range s.others(sl) {
					refs[p]++
				}
			}
			labels := s.packedLabels(sl)
			hash, canonical, ok := s.dict.hashLabels(labels)
			if !ok || !canonical {
				t.Errorf("slot %d: labels are not canonical", id)
			}
			if found, ok := s.findSeries(hash, labels); !ok || found != id {
				t.Errorf("slot %d: the index finds %d, %v", id, found, ok)
			}
			if m := s.metrics[s.nameOf(sl)]; m == nil || count(m.list, id) != 1 {
				t.Errorf("slot %d is not once in the list of its metric", id)
			}
			if !slices.Contains(s.owners[sl.owner].list, id) {
				t.Errorf("slot %d is not in the list of its owner", id)
			}
		}
		if used != b.used {
			t.Errorf("block %d: %d slots in use, counted %d", i, used, b.used)
		}
		held += used
	}
	for i := range s.index {
		indexed += s.index[i].used
	}
	if held != s.held || indexed != held {
		t.Errorf("%d slots in use, counted %d, indexed %d", held, s.held, indexed)
	}
	for off, n := range runs {
		if got := *s.refs.head(off) >> 8; got != n {
			t.Errorf("run %d: of %d series, counted %d", off, n, got)
		}
	}
	for id := range s.metrics {
		refs[id]++
	}
	for i := range s.dict.pairs.list {
		if n := s.dict.uses.list[i].refs; s.dict.pairs.list[i].size() > 0 && n != refs[pairID(i)] {
			t.Errorf("pair %q: %d references, counted %d", s.dict.bytes(pairID(i)), refs[pairID(i)], n)
		}
	}
	for i, o := range s.owners {
		for id := range o.groups {
			if g := s.owners[id]; g.group == "" || g.edge != uint32(i) {
				t.Errorf("owner %d: group %d is not its own: %+v", i, id, g)
			}
		}
		if _, ok := s.owners[o.edge].groups[uint32(i)]; o.group != "" && !ok {
			t.Errorf("group %d is not among those of its edge", i)
		}
		owned := 0
		for _, b := range s.blocks {
			for j := range b.all() {
				if sl := &b.slots[j]; sl.flags&inUse != 0 && sl.owner == uint32(i) {
					owned++
				}
			}
		}
		if got := int(s.owners[i].count.Load()); got != owned {
			t.Errorf("owner %d: owns %d, counted %d", i, owned, got)
		}
	}
}

func (b *block) all() []slot {
	if b == nil {
		return nil
	}
	return b.slots[:]
}

func count(list []uint32, id uint32) (n int) {
	for _, x := range list {
		if x == id {
			n++
		}
	}
	return n
}
