//go:build !unix || race

package series

func takeMemory(n, _ int, _ bool) []byte { return make([]byte, n) }

func giveMemory([]byte) {}
