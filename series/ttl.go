package series

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A TTL is how long a series may live without a newer sample, in milliseconds.
// It is positive; [Forever] never ends. The zero TTL means "not given".
type TTL int64

// Forever is the TTL of a series that only a newer sample or a delete ends.
const Forever TTL = math.MaxInt64

// maxFiniteTTL is the longest TTL that a slot can hold besides Forever: what is
// longer (68 years) saturates to Forever.
const maxFiniteTTL = TTL(math.MaxInt32-1) * 1000

// ParseTTL reads the one grammar in which a TTL is given everywhere (header,
// query, label, flag, directive): a Go duration ("90s", "1h30m"), plain seconds
// ("90", "0.5"), or "inf" or "null" for [Forever]. It refuses zero, negative and
// unreadable values, and those under a millisecond. Values too large to hold
// become Forever.
func ParseTTL(s string) (TTL, error) {
	t := strings.TrimSpace(s)
	switch strings.ToLower(t) {
	case "inf", "+inf", "null":
		return Forever, nil
	}
	var ms float64
	if sec, err := strconv.ParseFloat(t, 64); err == nil && !strings.ContainsAny(t, "xXpP_") {
		if ms = sec * 1000; ms >= 1 {
			ms = math.Round(ms) // 1.001 s is not quite 1001 ms
		}
	} else if d, err := time.ParseDuration(t); err == nil {
		if ms = float64(d.Milliseconds()); ms == 0 { // a long one in ns has more digits than a float
			ms = float64(d) / float64(time.Millisecond)
		}
	} else {
		return 0, fmt.Errorf("cannot read TTL %.40q: want a duration such as 90s, seconds such as 90, or inf", s)
	}
	switch {
	case math.IsNaN(ms) || ms <= 0:
		return 0, fmt.Errorf("TTL %.40q is not positive", s)
	case ms < 1:
		return 0, fmt.Errorf("TTL %.40q is under a millisecond", s)
	case ms > float64(maxFiniteTTL):
		return Forever, nil
	}
	return TTL(ms), nil
}

// TTLOf is the TTL of a positive duration; zero and negative ones are "not given".
func TTLOf(d time.Duration) TTL {
	return max(0, TTL(d.Milliseconds()))
}

// Duration is the TTL as a duration; Forever is the longest one there is.
func (t TTL) Duration() time.Duration {
	if t > TTL(math.MaxInt64/int64(time.Millisecond)) {
		return math.MaxInt64
	}
	return time.Duration(t) * time.Millisecond
}

// String writes the TTL in the grammar of [ParseTTL].
func (t TTL) String() string {
	if t == Forever {
		return "inf"
	}
	return t.Duration().String()
}

// clamp bounds t and reports whether it had to.
func (t TTL) clamp(lo, hi TTL) (TTL, bool) {
	c := min(max(t, lo), hi)
	return c, c != t
}

// packedTTL is a TTL in 32 bits: milliseconds up to 24.8 days, whole seconds
// (rounded up) above with the top bit set, all ones for Forever.
type packedTTL uint32

const packedForever = packedTTL(math.MaxUint32)

func packTTL(t TTL) packedTTL {
	switch {
	case t > maxFiniteTTL:
		return packedForever
	case t <= math.MaxInt32:
		return packedTTL(t)
	}
	return packedTTL(1<<31 | uint32((t+999)/1000))
}

func (p packedTTL) ttl() TTL {
	switch {
	case p == packedForever:
		return Forever
	case p>>31 == 0:
		return TTL(p)
	}
	return TTL(p&math.MaxInt32) * 1000
}

// addMs adds without wrapping around.
func addMs(a, b int64) int64 {
	s := a + b
	switch {
	case a > 0 && b > 0 && s < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && s >= 0:
		return math.MinInt64
	}
	return s
}
