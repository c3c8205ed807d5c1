# prometheus_client, the library for Python. Those for Go, Java, Ruby and Node.js
# push to the same address.
from prometheus_client import CollectorRegistry, Gauge, push_to_gateway
from prometheus_client.exposition import default_handler

def with_ttl(url, method, timeout, headers, data):
    return default_handler(url, method, timeout, headers + [("X-Relay-TTL", "90s")], data)

registry = CollectorRegistry()
Gauge("disk_free_bytes", "Free space.", registry=registry).set(12884901888)
push_to_gateway("http://relay.example.com:10091", job="backup", registry=registry,
                grouping_key={"instance": "shop-17"}, handler=with_ttl)
