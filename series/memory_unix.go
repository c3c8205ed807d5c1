//go:build unix && !race

package series

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// takeMemory maps n bytes, at a multiple of align, in huge pages where the system
// has them.
func takeMemory(n, align int, huge bool) []byte {
	n = (n + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
	room := n
	if align > 1 {
		room += align
	}
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(room), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		// As when the heap cannot grow: there is no going on.
		panic(fmt.Sprintf("series: no %d bytes of memory: %v", n, err))
	}
	if align > 1 {
		head := -uintptr(p) & uintptr(align-1)
		if head > 0 {
			unix.MunmapPtr(p, head)
		}
		p = unsafe.Add(p, head)
		if tail := uintptr(align) - head; tail > 0 {
			unix.MunmapPtr(unsafe.Add(p, n), tail)
		}
	}
	b := unsafe.Slice((*byte)(p), n)
	if huge {
		adviseHuge(b)
	}
	return b
}

func giveMemory(b []byte) {
	if err := unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b))); err != nil {
		panic(fmt.Sprintf("series: cannot give memory back: %v", err))
	}
}
