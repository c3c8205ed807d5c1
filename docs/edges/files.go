// Package senders holds the configurations beside it, for the status page: it shows
// the very files that the tests load into their programs.
package senders

import "embed"

// Files are the configurations by file name. In each the relay is
// http://relay.example.com:10091, the edge shop-17 and its TTL 90s.
//
//go:embed *.alloy *.conf *.river *.sh *.yml
var Files embed.FS
