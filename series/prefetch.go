package series

import "unsafe"

// ahead gathers addresses that will be read or written soon and asks for them
// together. Unlike a load, a prefetch keeps no place in the processor's queue while
// it waits for memory, so that dozens are under way at once and not the handful for
// which there is room among the instructions around them. It changes nothing but the
// time.
type ahead struct{ reads, writes []uintptr }

// read notes an address that will be read.
func (a *ahead) read(p unsafe.Pointer) { a.reads = append(a.reads, uintptr(p)) }

// write notes an address that will be written: no other processor is to keep it.
func (a *ahead) write(p unsafe.Pointer) { a.writes = append(a.writes, uintptr(p)) }

// slot notes both ends of a slot, and the lock of its block. To take the address of a
// field would read it: Go looks whether the pointer is nil.
func (a *ahead) slot(sl *slot, b *block) {
	a.write(unsafe.Pointer(sl))
	a.write(unsafe.Add(unsafe.Pointer(sl), unsafe.Sizeof(*sl)-1))
	a.write(unsafe.Pointer(b))
}

// fetch asks for what was noted.
func (a *ahead) fetch() {
	prefetch(unsafe.SliceData(a.reads), len(a.reads))
	prefetchToWrite(unsafe.SliceData(a.writes), len(a.writes))
	a.reads, a.writes = a.reads[:0], a.writes[:0]
}
