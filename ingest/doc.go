// Package ingest takes pushes over HTTP and puts what they bring into a
// [series.Store]. It knows the wire (remote write 1.0 and 2.0), what to answer to
// which sender, and how much of a stranger's request may be held in memory; it
// knows nothing of how series live or how they are shown.
//
// The answers are a contract, since senders drop, retry or block by them: see
// [Handler].
package ingest
