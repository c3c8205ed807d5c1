// Package exposition shows the live series of a [series.Store] to a scraper: it
// knows formats, escaping, selectors and compression, and nothing of how series
// came in.
//
// A page is streamed: series are copied into a buffer in turns of some ten
// microseconds under the store's read lock, and written to the network without
// any. So a page takes the same memory for any number of series, and a slow
// scraper holds nobody up. After its first byte a page ends complete or its
// connection is aborted.
package exposition
