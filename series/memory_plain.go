//go:build unix && !linux && !race

package series

func adviseHuge([]byte) {}
