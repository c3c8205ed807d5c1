#!/bin/sh
# vmagent 1.151. It begins with zstd, is answered 415, and goes on with snappy; the
# last flag spares it the attempt.
exec vmagent \
  -promscrape.config=/etc/vmagent/scrape.yml \
  -remoteWrite.url=http://relay.example.com:10091/api/v1/write \
  -remoteWrite.headers='X-Relay-Edge:shop-17^^X-Relay-TTL:90s' \
  -remoteWrite.label=site=shop-17 \
  -remoteWrite.tmpDataPath=/var/lib/vmagent \
  -remoteWrite.forcePromProto
