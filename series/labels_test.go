package series

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

// hashLabels takes a short way through most labels: what it says of them is what
// the long way says, whatever the bytes.
func TestHashLabelsTakesNoShortCutTooMany(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	d := newDict(&memory{})
	names := []string{"", "a", "a\x00", "aa", "instance", "instance_", "instance\x00", "__ttl__", "__name__", string(bytes.Repeat([]byte("n"), 200))}
	for range 50_000 {
		var b []byte
		for range rng.IntN(5) {
			b = AppendPair(b, names[rng.IntN(len(names))], string(bytes.Repeat([]byte("v"), rng.IntN(3)*rng.IntN(70))))
		}
		if len(b) > 0 && rng.IntN(2) == 0 {
			b[rng.IntN(len(b))] = byte(rng.UintN(256))
		}
		_, canonical, ok := d.hashLabels(b)
		wantCanonical, wantOK := true, true
		var last []byte
		for rest := b; len(rest) > 0; {
			name, value, size := scanPair(rest)
			if size == 0 {
				wantCanonical, wantOK = false, false
				break
			}
			if len(value) == 0 || bytes.Compare(last, name) >= 0 || string(name) == ttlLabel {
				wantCanonical = false
			}
			last, rest = name, rest[size:]
		}
		if canonical != wantCanonical || ok != wantOK {
			t.Fatalf("seed %d: %q: canonical %v, in packed form %v, want %v, %v", seed, b, canonical, ok, wantCanonical, wantOK)
		}
	}
}

func TestFormatLabels(t *testing.T) {
	pack := func(pairs ...string) (b []byte) {
		for i := 0; i < len(pairs); i += 2 {
			b = AppendPair(b, pairs[i], pairs[i+1])
		}
		return b
	}
	for want, labels := range map[string][]byte{
		`up{job="node"}`:              pack("__name__", "up", "job", "node"),
		`up`:                          pack("__name__", "up"),
		`"a.b"{"c.d"="\n"}`:           pack("__name__", "a.b", "c.d", "\n"),
		`{instance="i",job="backup"}`: pack("instance", "i", "job", "backup"), // as a group has them
		`{}`:                          nil,
	} {
		if got := FormatLabels(labels); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
