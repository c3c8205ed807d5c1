.DEFAULT_GOAL := help
BENCH ?= .
REF ?= main

.PHONY: help build run test race fuzz lint e2e faults long sampling bench bench-compare bench-peers bench-loads bench-journal ci

help: ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-15s %s\n", $$1, $$2}'

build: ## the binary, in ./bin
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

run: ## the relay with its defaults
	go run ./cmd/relay

test: ## all tests that need nothing but Go
	go test ./...

race: ## the same under the race detector
	go test -race ./...

fuzz: ## each fuzz target for a minute
	@for dir in $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./...); do \
	  for target in $$(go test $$dir -list '^Fuzz' | grep '^Fuzz'); do \
	    go test $$dir -run '^$$' -fuzz "^$$target\$$" -fuzztime 1m -fuzzminimizetime 1s || exit 1; \
	  done; \
	done

lint: ## vet and staticcheck
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.7.0 ./...

e2e: ## real Prometheus, vmagent, Telegraf and nats-server on loopback; see CONTRIBUTING.md
	RELAY_E2E=1 go test ./cmd/relay -run 'TestProcess|TestCluster|TestCrash' -count=1

sampling: ## what the centre misses at equal and half intervals, 12 minutes
	RELAY_SAMPLING=12m go test ./cmd/relay -run TestSampling -count=1 -timeout 30m -v

faults: ## full, broken, hanging and read-only disks, loss of power; takes strace
	scripts/test-faults

long: ## the crash test, 200 rounds
	RELAY_CRASH_ROUNDS=200 go test ./cmd/relay -run TestCrash -count=1 -timeout 2h -v

bench: ## Go benchmarks; BENCH=regexp
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./series ./ingest ./exposition ./journal

bench-compare: ## benchmarks of REF and of this tree, side by side
	scripts/bench-compare "$(REF)" "$(BENCH)"

bench-peers: ## the relay, Prometheus and VictoriaMetrics under the same load
	scripts/bench-peers

bench-loads: ## the relay alone: sizes up to 10M series, orders, churn, edges, latency
	scripts/bench-loads

bench-journal: ## the relay with its journal and without, side by side
	scripts/bench-journal

ci: ## what a change must pass
	.ci/run
