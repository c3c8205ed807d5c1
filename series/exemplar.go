package series

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// checkExemplar says what is wrong with the labels of an exemplar, or "".
func checkExemplar(labels []byte) string {
	runes := 0
	var names [][]byte
	for i := 0; i < len(labels); {
		name, value, size := scanPair(labels[i:])
		switch {
		case size == 0:
			return "its labels cannot be read"
		case len(name) == 0 || !utf8.Valid(name) || !utf8.Valid(value) || bytes.IndexByte(name, 0) >= 0 || bytes.IndexByte(value, 0) >= 0:
			return "a label is empty, or not valid UTF-8 without NUL"
		case slices.ContainsFunc(names, func(n []byte) bool { return bytes.Equal(n, name) }):
			return fmt.Sprintf("label %.40q appears twice", name)
		}
		names = append(names, name)
		runes += utf8.RuneCount(name) + utf8.RuneCount(value)
		if runes > exemplarRunes {
			return fmt.Sprintf("its labels have more than %d characters", exemplarRunes)
		}
		i += size
	}
	return ""
}

// insertExemplar returns a new list with e in its place by time, at most
// maxExemplars long, the oldest left out. The same exemplar twice counts once.
func insertExemplar(list []Exemplar, e Exemplar) []Exemplar {
	at := len(list)
	for at > 0 && exemplarLess(e, list[at-1]) {
		at--
	}
	if at > 0 && !exemplarLess(list[at-1], e) {
		return list
	}
	list = slices.Insert(slices.Clone(list), at, e)
	return list[max(0, len(list)-maxExemplars):]
}

// exemplarLess is a total order, so that the result does not depend on the order
// of arrival.
func exemplarLess(a, b Exemplar) bool {
	if a.Time != b.Time {
		return a.Time < b.Time
	}
	if x, y := math.Float64bits(a.Value), math.Float64bits(b.Value); x != y {
		return x < y
	}
	return bytes.Compare(a.Labels, b.Labels) < 0
}
