package series

import "unsafe"

// ahead gathers addresses that will be read soon and asks for them together. Unlike
// a load, a prefetch keeps no place in the processor's queue while it waits for
// memory, so that dozens are under way at once and not the handful for which there
// is room among the instructions around them. It changes nothing but the time.
type ahead []uintptr

// of notes an address.
func (a *ahead) of(p unsafe.Pointer) { *a = append(*a, uintptr(p)) }

// fetch asks for what was noted.
func (a *ahead) fetch() {
	prefetch(unsafe.SliceData(*a), len(*a))
	*a = (*a)[:0]
}
