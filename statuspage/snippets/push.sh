#!/bin/sh
# What any program that speaks HTTP can do, as to a Pushgateway. The path names the
# group: job and instance. The first line is its TTL; without it the relay's own.
cat <<END | curl --fail-with-body --data-binary @- http://relay.example.com:10091/metrics/job/backup/instance/shop-17
#!set stale_timeout = 90s
# TYPE disk_free_bytes gauge
disk_free_bytes 12884901888
END
