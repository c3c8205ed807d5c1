//go:build amd64 || arm64

package series

// prefetch asks for n addresses to be brought into the processor's cache.
//
//go:noescape
func prefetch(at *uintptr, n int)

// prefetchToWrite is prefetch for addresses that will be written.
//
//go:noescape
func prefetchToWrite(at *uintptr, n int)
