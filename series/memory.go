package series

import (
	"sync"
	"unsafe"
)

// What grows with the number of series holds no pointers and is not on the Go
// heap. So the heap stays small and so does what the collector lets pile up on it;
// memory that is freed goes back at once; and it can lie in huge pages: series in
// no order touch a dozen places far apart, and finding the page of each costs more
// than reading it, most of all in a virtual machine.
//
// Builds with the race detector, which watches the heap alone, and for systems
// without mmap have it on the heap.

const (
	slabBytes = 2 << 20 // a huge page

	// A store of few series does not take whole huge pages for what is not in use.
	firstHuge = 3

	// smallest is what is worth memory of its own.
	smallest = 32 << 10
)

// memory is where a store has its slabs from.
type memory struct {
	mu    sync.Mutex
	live  map[*byte]*mapped // by the first byte of what was handed out
	open  *mapped           // a slab that smaller pieces are cut from
	tail  int               // of it that is in use
	slabs int
	bytes int64
}

// mapped is memory as the system gave it.
type mapped struct {
	bytes  []byte
	pieces int // handed out of it
}

// slab returns slabBytes of zeros, for as long as the store lives or until free.
func (m *memory) slab() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hand(m.take(slabBytes), 0, slabBytes)
}

// alloc returns n bytes of zeros, at least smallest, as slab does.
func (m *memory) alloc(n int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > slabBytes/2 {
		return m.hand(m.take(n), 0, n)
	}
	const line = 64
	if m.open == nil || m.tail+n > slabBytes {
		m.open, m.tail = m.take(slabBytes), 0
	}
	from := m.tail
	m.tail += (n + line - 1) &^ (line - 1)
	return m.hand(m.open, from, n)
}

func (m *memory) take(n int) *mapped {
	m.slabs++
	n = (n + slabBytes - 1) &^ (slabBytes - 1) // what is never touched costs nothing
	a := &mapped{bytes: takeMemory(n, slabBytes, m.slabs > firstHuge)}
	m.bytes += int64(len(a.bytes))
	return a
}

func (m *memory) hand(a *mapped, from, n int) []byte {
	if m.live == nil {
		m.live = map[*byte]*mapped{}
	}
	b := a.bytes[from : from+n : from+n]
	m.live[unsafe.SliceData(b)] = a
	a.pieces++
	return b
}

// free gives back what slab or alloc returned. Nobody may look at it any more.
func (m *memory) free(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := unsafe.SliceData(b)
	a := m.live[first]
	delete(m.live, first)
	if a.pieces--; a.pieces > 0 {
		return
	}
	if a == m.open {
		m.open = nil
	}
	m.bytes -= int64(len(a.bytes))
	giveMemory(a.bytes)
}

// end gives back everything.
func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.live {
		if a.pieces--; a.pieces == 0 {
			giveMemory(a.bytes)
		}
	}
	m.live, m.open, m.bytes = nil, nil, 0
}

func (m *memory) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// A vector is a list without pointers that only grows, outside of the heap where it
// is long. It needs memory.
type vector[T any] struct {
	mem  *memory
	list []T
}

func (v *vector[T]) append(x T) {
	if len(v.list) == cap(v.list) {
		old := v.list
		v.list = append(makeList[T](v.mem, max(16, len(old)*3/2))[:0], old...)
		freeList(v.mem, old[:cap(old)])
	}
	v.list = append(v.list, x)
}

// makeList returns n zeros, outside of the heap if that is worth it; freeList gives
// them back, whole as they were made.
func makeList[T any](m *memory, n int) []T {
	size := int(unsafe.Sizeof(*new(T)))
	if n*size < smallest {
		return make([]T, n)
	}
	return as[T](m.alloc(n * size))
}

func freeList[T any](m *memory, list []T) {
	if size := len(list) * int(unsafe.Sizeof(*new(T))); size >= smallest {
		m.free(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(list))), size))
	}
}

// as is memory as a list of things without pointers.
func as[T any](b []byte) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(T))))
}
