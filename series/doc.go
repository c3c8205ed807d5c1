// Package series holds the latest sample of every series for as long as its
// time to live (TTL) says, and nothing longer.
//
// There are only a few types: a [Store] holds the series; a [Batch] carries one
// accepted request into it; [Store.Scan] shows what is live. Everything about
// identity, hashing, locks, memory layout, TTLs and the order of samples is
// decided here, and nothing about HTTP, protobuf or exposition formats.
//
// # Life of a series
//
// A series is its full label set; a label with an empty value is absent and the
// order in which labels were sent does not matter. Of all samples sent for it,
// the greatest in a total order is kept: sample time, then stale marker before
// any value, then the greater bits, then the earlier deadline. The merge is
// commutative and idempotent, so retries, duplicates and reordering are
// harmless.
//
// A sample is shown until its deadline,
//
//	min(received + ttl, sample time + ttl + lag tolerance)
//
// and a stale marker ends its series at once. What expired, was ended or was
// deleted stays as a hidden watermark until
//
//	max(sample time, received) + ttl + lag tolerance
//
// so that only a newer sample revives the series. Expiry needs neither traffic
// nor a sweep: every scan compares deadlines with its own now. The sweep frees
// memory and never changes an answer.
//
// # Time
//
// The package has no clock. What depends on the time takes a now, a time.Time
// with its monotonic reading: sample times are compared with its wall clock,
// deadlines run on its monotonic clock, so a clock step moves no deadline.
//
// # Memory
//
// The parts that grow with the number of series hold no pointers, and the large
// ones are not on the Go heap (see memory.go): label pairs
// are interned once in packed form (see [AppendPair]), a series is a fixed-size
// slot plus one 32-bit reference per label, slots lie in arrival order in blocks
// of 1024, and an index from a keyed hash to slots is touched only where the
// order prediction fails. Each slot remembers which slot came after it in the
// previous request of its sender; a request that keeps its order is recognised
// by comparing its bytes with the predicted slot, exactly, without hashing.
package series
