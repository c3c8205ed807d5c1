package series

import (
	"sync"
	"unsafe"
)

// What grows with the number of series holds no pointers and is not on the Go
// heap. So the heap stays small and so does what the collector lets pile up on it;
// memory that is freed goes back at once; and it can lie in huge pages, without
// which series in no order cost 15 % more: each touches three places far apart,
// and finding a page costs as much as reading it, more so in a virtual machine.
//
// Builds with the race detector, which watches the heap alone, and for systems
// without mmap have it on the heap.

const (
	slabBytes = 2 << 20 // a huge page

	// A store of few series does not take whole huge pages for what is not in use.
	firstHuge = 6

	// smallest is what is worth memory of its own.
	smallest = 128 << 10
)

// memory is where a store has its slabs from.
type memory struct {
	mu    sync.Mutex
	live  map[*byte][]byte
	slabs int
	bytes int64
}

// slab returns slabBytes of zeros, for as long as the store lives or until free.
func (m *memory) slab() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slabs++
	return m.keep(takeMemory(slabBytes, slabBytes, m.slabs > firstHuge))
}

// alloc returns n bytes of zeros, at least smallest, as slab does.
func (m *memory) alloc(n int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	align := 1
	if n >= 2*slabBytes {
		align = slabBytes
	}
	return m.keep(takeMemory(n, align, align > 1))
}

func (m *memory) keep(b []byte) []byte {
	if m.live == nil {
		m.live = map[*byte][]byte{}
	}
	m.live[unsafe.SliceData(b)] = b
	m.bytes += int64(len(b))
	return b
}

// free gives back what slab or alloc returned. Nobody may look at it any more.
func (m *memory) free(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := unsafe.SliceData(b)
	whole := m.live[first] // b may be cut
	delete(m.live, first)
	m.bytes -= int64(len(whole))
	giveMemory(whole)
}

// end gives back everything.
func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.live {
		giveMemory(b)
	}
	m.live, m.bytes = nil, 0
}

func (m *memory) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// as is memory as a list of things without pointers.
func as[T any](b []byte) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(T))))
}

// bytesOf is the opposite of as.
func bytesOf[T any](list []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(list))), len(list)*int(unsafe.Sizeof(*new(T))))
}
