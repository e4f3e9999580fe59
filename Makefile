# make help lists the verbs. Everything is pure Go: CGO is used only by the race detector.
GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.1
FUZZTIME ?= 10s

.PHONY: help build test lint bundle fuzz bench run demo soak clean

help: ## list the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

build: ## bin/vitalwatch, static
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/vitalwatch ./cmd/vitalwatch

test: ## all tests under the race detector; what is not installed (Mosquitto, Chromium) is skipped by name
	$(GO) test -race -timeout 40m ./...

lint: ## vet, staticcheck, gofmt, and the console's bundle
	@test -z "$$(gofmt -l .)" || { echo "gofmt these:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run ./internal/consolebuild -check

bundle: ## rebuild the console's bundle from its TypeScript
	$(GO) run ./internal/consolebuild

fuzz: ## every fuzz target for FUZZTIME each
	sh internal/fuzzall.sh $(FUZZTIME)

bench: build ## the figures of docs/performance.md on this machine
	bin/vitalwatch bench

run: build ## a server with the defaults, data in ./data
	bin/vitalwatch serve

demo: build ## a server with simulated patients
	bin/vitalwatch demo

soak: ## the crash test for SOAK (default 10m): kills, restarts, compares; then InfluxDB away for an hour at OUTAGE (1000) readings/s
	VITALWATCH_SOAK=$${SOAK:-10m} $(GO) test -run 'TestCrash' -v -timeout 24h ./cmd/vitalwatch
	VITALWATCH_OUTAGE=$${OUTAGE:-1000} $(GO) test -run 'TestEndToEnd_InfluxDB_away_for_an_hour' -v -timeout 24h ./cmd/vitalwatch

clean: ## remove what was built
	rm -rf bin
