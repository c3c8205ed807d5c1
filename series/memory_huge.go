//go:build linux && !race

package series

import "golang.org/x/sys/unix"

// adviseHuge asks for huge pages; a kernel without them goes on without.
func adviseHuge(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
