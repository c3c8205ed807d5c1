package series

import "unsafe"

// ahead gathers addresses that will be read soon and asks for them together. Unlike
// a load, a prefetch keeps no place in the processor's queue while it waits for
// memory, so that dozens are under way at once and not the handful for which there
// is room among the instructions around them. It changes nothing but the time.
type ahead []uintptr

// of notes an address.
func (a *ahead) of(p unsafe.Pointer) { *a = append(*a, uintptr(p)) }

// slot notes both ends of a slot. To take the address of a field would read it: Go
// looks whether the pointer is nil.
func (a *ahead) slot(sl *slot) {
	a.of(unsafe.Pointer(sl))
	a.of(unsafe.Add(unsafe.Pointer(sl), unsafe.Sizeof(*sl)-1))
}

// fetch asks for what was noted.
func (a *ahead) fetch() {
	prefetch(unsafe.SliceData(*a), len(*a))
	*a = (*a)[:0]
}
