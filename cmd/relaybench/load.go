package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/golang/snappy"
)

// A fleet is what the senders have: machines of 40 series each, every series with
// ten labels or more, as a kubelet's are. Series are numbered; a generation
// replaces every series by one with another pod name.
type fleet struct {
	series, labels int
	generation     int
}

const perMachine = 40

// each calls add for each label of series i, sorted by name.
func (f *fleet) each(i int, add func(name, value string)) {
	pod, m := i/perMachine, i%perMachine
	add("__name__", fmt.Sprintf("container_metric_%02d_total", m))
	add("cluster", "production-eu-west-1")
	add("container", fmt.Sprintf("app-%d", pod%50))
	add("endpoint", "https-metrics")
	for l := 10; l < f.labels; l++ {
		add(fmt.Sprintf("extra_%02d", l), fmt.Sprintf("value-%d", pod%(l+1)))
	}
	add("id", fmt.Sprintf("/kubepods/burstable/pod%08x", pod))
	add("image", fmt.Sprintf("images.example.com/team/app-%d:v1.%d", pod%50, pod%7))
	add("instance", fmt.Sprintf("10.%d.%d.%d:10250", pod>>16&255, pod>>8&255, pod&255))
	add("job", "kubelet")
	add("namespace", fmt.Sprintf("ns-%d", pod%100))
	add("pod", fmt.Sprintf("app-%d-%d-%08x", pod%50, f.generation, pod))
}

// An encoder makes the bodies of one connection. It keeps its buffers.
type encoder struct {
	fleet    *fleet
	protocol int
	raw, msg []byte
	out      []byte

	symbols map[string]uint32
	table   []string
}

// body encodes one sample of each of the series at time t (ms), compressed. The
// slice is good until the next call.
func (e *encoder) body(series []int32, t int64) []byte {
	e.raw = e.raw[:0]
	if e.protocol == 2 {
		e.v2(series, t)
	} else {
		e.v1(series, t)
	}
	if n := snappy.MaxEncodedLen(len(e.raw)); cap(e.out) < n {
		e.out = make([]byte, n)
	}
	return snappy.Encode(e.out[:cap(e.out)], e.raw)
}

// value of a counter that moves slowly and is now and then no integer.
func (e *encoder) value(i int32, t int64) float64 {
	v := float64(int64(i)*7 + t/1000%100_000)
	if i%4 == 0 {
		v += 0.25
	}
	return v
}

func (e *encoder) v1(series []int32, t int64) {
	for _, i := range series {
		m := e.msg[:0]
		e.fleet.each(int(i), func(name, value string) {
			m = append(m, 0x0a)
			m = binary.AppendUvarint(m, uint64(field(name)+field(value)))
			m = appendString(m, 0x0a, name)
			m = appendString(m, 0x12, value)
		})
		s := make([]byte, 0, 24)
		s = append(s, 0x09)
		s = binary.LittleEndian.AppendUint64(s, math.Float64bits(e.value(i, t)))
		s = append(s, 0x10)
		s = binary.AppendUvarint(s, uint64(t))
		m = append(m, 0x12, byte(len(s)))
		m = append(m, s...)
		e.msg = m
		e.raw = append(e.raw, 0x0a)
		e.raw = binary.AppendUvarint(e.raw, uint64(len(m)))
		e.raw = append(e.raw, m...)
	}
}

func (e *encoder) v2(series []int32, t int64) {
	if e.symbols == nil {
		e.symbols = map[string]uint32{}
	}
	clear(e.symbols)
	e.table = append(e.table[:0], "")
	ref := func(s string) uint64 {
		n, ok := e.symbols[s]
		if !ok {
			n = uint32(len(e.table))
			e.symbols[s] = n
			e.table = append(e.table, s)
		}
		return uint64(n)
	}
	var body, refs, msg []byte
	body = e.msg[:0]
	for _, i := range series {
		refs = refs[:0]
		e.fleet.each(int(i), func(name, value string) {
			refs = binary.AppendUvarint(refs, ref(name))
			refs = binary.AppendUvarint(refs, ref(value))
		})
		msg = append(msg[:0], 0x0a)
		msg = binary.AppendUvarint(msg, uint64(len(refs)))
		msg = append(msg, refs...)
		s := make([]byte, 0, 24)
		s = append(s, 0x09)
		s = binary.LittleEndian.AppendUint64(s, math.Float64bits(e.value(i, t)))
		s = append(s, 0x10)
		s = binary.AppendUvarint(s, uint64(t))
		msg = append(msg, 0x12, byte(len(s)))
		msg = append(msg, s...)
		msg = append(msg, 0x2a, 2, 0x08, 1) // metadata: a counter
		body = append(body, 0x2a)
		body = binary.AppendUvarint(body, uint64(len(msg)))
		body = append(body, msg...)
	}
	e.msg = body
	for _, s := range e.table {
		e.raw = appendString(e.raw, 0x22, s)
	}
	e.raw = append(e.raw, body...)
}

// field is the length of a string field with its tag.
func field(s string) int { return 1 + len(binary.AppendUvarint(nil, uint64(len(s)))) + len(s) }

func appendString(b []byte, tag byte, s string) []byte {
	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// order is in which order a round sends the series.
func order(how string, n int, rng *rand.Rand, last []int32) []int32 {
	if last == nil {
		last = make([]int32, n)
		for i := range last {
			last[i] = int32(i)
		}
		if how == "stable" {
			return last
		}
	}
	switch how {
	case "random": // every series anew, every round
		rng.Shuffle(len(last), func(i, j int) { last[i], last[j] = last[j], last[i] })
	case "shuffled": // machines anew, the series of one stay together
		machines := len(last) / perMachine
		rng.Shuffle(machines, func(i, j int) {
			for k := range perMachine {
				a, b := i*perMachine+k, j*perMachine+k
				last[a], last[b] = last[b], last[a]
			}
		})
	}
	return last
}
