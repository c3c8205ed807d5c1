//go:build !(amd64 || arm64)

package series

func prefetch(*uintptr, int) {}

func prefetchToWrite(*uintptr, int) {}
