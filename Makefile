# Prerequisites: Go >= 1.26, Node >= 20 with npm, make. `make test` also wants a
# C compiler, for the race detector.

# Nothing that the machine sets for Go may change what is built here. To pass
# flags of your own: make GOFLAGS=...
GOFLAGS := -buildvcs=false
GOWORK := off
export GOFLAGS GOWORK

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOLANGCI_LINT ?= go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
HELM ?= go run helm.sh/helm/v3/cmd/helm@v3.22.0
CYCLONEDX ?= go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
FUZZTIME ?= 20s
# Suites that run on chains of their own, or need to control how blocks are made.
NOT_ON_FORK = ^(TestCrash|TestEveryCrash|TestCommand|TestMany|TestOfficialSDK)
# Most integration tests wait for blocks: more of them run at once than there are
# cores. BUSY is go test's -parallel.
BUSY ?= 4
RACE ?= $(shell test "$$(go env CGO_ENABLED)" = 1 && echo -race)

.DEFAULT_GOAL := help
.PHONY: help tools tools/prometheus build demo dev test test/short test/long lint fmt docs deploy/check sbom fuzz fuzz/verify bench bench/settle bench/verify tidy clean

help: ## Show this list
	@echo 'Needs Go >= 1.26 and Node >= 20 with npm.'
	@echo
	@awk -F ':.*## ' '/^[a-z\/]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

tools: ## Install what tests and the dev command run: a chain node, Postgres, the official SDKs
	@$(INSTALL_TOOLS)

tools/prometheus: ## Fetch the Prometheus that tests run (Debian's; elsewhere from PATH)
	@sh tools/prometheus.sh $${FACILITATOR_TOOLS:-tools}

build: ## Build bin/facilitator
	@mkdir -p bin
	go build -trimpath -ldflags='-s -w -buildid= -X main.version=$(VERSION)' -o bin/facilitator ./cmd/facilitator

demo: tools build ## Start everything on this machine, pay for one purchase and stop
	@bin/facilitator dev --purchase

dev: tools build ## Start a facilitator with a chain and a Postgres of its own
	@bin/facilitator dev

test: tools tools/prometheus ## Run all tests, with the race detector where there is a C compiler
	@test -n "$(RACE)" || echo 'No C compiler: testing without the race detector.'
	go test $(RACE) -parallel $(BUSY) -shuffle=on -timeout 15m ./...
	@echo 'The integration suite again, on a fork (FORK_RPC_URL: of a real Base; else of a local one)'
	TEST_FORK=1 go test $(RACE) -parallel $(BUSY) -shuffle=on -timeout 15m -skip '$(NOT_ON_FORK)' ./test

test/short: ## Run the tests that take no time
	go test -short -shuffle=on -timeout 5m ./...

test/long: tools ## Kill, lie and cut for hours, then audit; SEED=N repeats a run (docs/testing.md)
	TEST_LONG=1 TEST_SEED=$(SEED) go test -count=1 -v -timeout 10h ./test/long

lint: ## Check style and layering
	$(GOLANGCI_LINT) run

fmt: ## Format the code
	$(GOLANGCI_LINT) fmt

docs: tools ## Rewrite the generated parts of docs/, and what this build says to the database
	go test ./internal/config -run '^TestReference$$' -update
	go test ./internal/app -run '^TestMetricsReference$$' -update
	go test ./internal/store -run '^TestStatementsOfEarlierBuildsPrepare$$' -update

deploy/check: ## Check the Helm chart, the Compose file, the systemd unit and that builds repeat
	TEST_DEPLOY=1 HELM='$(HELM)' go test -count=1 -timeout 20m ./test/deploy

sbom: build ## Write bin/facilitator.cdx.json: what the program is made of (CycloneDX)
	$(CYCLONEDX) bin -json -licenses -std -version '$(VERSION)' -output bin/facilitator.cdx.json bin/facilitator

fuzz: ## Run each fuzz target for FUZZTIME (20s)
	@grep -rl --include='*_test.go' --exclude-dir=node_modules '^func Fuzz' . | sort | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$$file"); do \
			echo "$$(dirname "$$file") $$target"; \
			go test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) "$$(dirname "$$file")" </dev/null || exit 1; \
		done; \
	done

fuzz/verify: tools ## Verify mutated payments for FUZZTIME, each valid one checked on chain; SEED=N repeats a run
	FUZZTIME=$(FUZZTIME) TEST_SEED=$(SEED) go test -count=1 -v -timeout 10h -parallel 8 -run '^TestVerifyOfMutants$$' ./test

bench: ## Run the benchmarks of the Go packages
	go test -run='^$$' -bench=. -benchmem ./...

bench/settle: tools build ## Measure /settle (15 min), and write docs/benchmarks.md; flags: BENCH=...
	$(RUN_BENCH)

bench/verify: tools build ## Measure /verify (15 min), and write docs/benchmarks.md; flags: BENCH=...
	$(RUN_BENCH)

define RUN_BENCH
go build -o bin/bench ./test/bench
@bin/bench -suite $(@F) -service bin/facilitator -commit '$(VERSION)' -docs docs/benchmarks.md $(BENCH)
endef

tidy: ## Bring go.mod and go.sum up to date
	go mod tidy

clean: ## Remove what was built; installed tools stay
	rm -rf bin dist coverage.*

# Installs tools/ when its lock file is newer than what is installed. npm writes
# node_modules/.package-lock.json last, so an interrupted install is repeated.
# Of several makes side by side one installs and the others wait; a lock whose
# owner is gone is taken over. FACILITATOR_TOOLS names tools that stand elsewhere.
define INSTALL_TOOLS
set -eu; \
test -z "$${FACILITATOR_TOOLS:-}" || exit 0; \
installed=tools/node_modules/.package-lock.json; lock=tools/.cache/install.lock; \
stale() { test ! -e $$installed || test tools/package-lock.json -nt $$installed; }; \
stale || exit 0; \
command -v npm >/dev/null || { echo 'npm is missing: install Node >= 20.' >&2; exit 1; }; \
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo 'Node is too old: install Node >= 20.' >&2; exit 1; }; \
mkdir -p tools/.cache; \
waiting=; \
until mkdir $$lock 2>/dev/null; do \
	test -n "$$waiting" || echo "Waiting for another make that installs tools/ (no other? rm -r $$lock)"; \
	waiting=yes; sleep 1; \
	owner=$$(cat $$lock/pid 2>/dev/null) || continue; \
	kill -0 "$$owner" 2>/dev/null || rm -rf $$lock; \
done; \
echo $$$$ >$$lock/pid; trap 'rm -rf $$lock' EXIT; trap 'exit 130' HUP INT TERM; \
stale || exit 0; \
echo 'Installing tools/ (npm ci)'; \
(cd tools && npm ci --loglevel=error --no-progress)
endef
