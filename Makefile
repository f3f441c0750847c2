# make check is what CI runs; make help lists the rest.
GO       ?= go
FUZZTIME ?= 5s
TOOLS    := internal/tools
LINT     := bin/golangci-lint
MODULES  := . examples internal/bench

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: check
check: vet lint test fuzz curl clean-tree ## everything CI checks

.PHONY: test
test: ## the README's test command, under the race detector and in random order; what it makes slow once more without
	$(GO) test -race -shuffle=on -timeout 20m work
	$(GO) test -timeout 5m ./idempotency ./ratelimit
	cd internal/bench && GOWORK=off $(GO) test ./...

.PHONY: vet
vet: ## go vet in every module
	@for m in $(MODULES); do (cd $$m && GOWORK=off $(GO) vet ./...) || exit 1; done

.PHONY: lint
lint: $(LINT) ## formatting and linters, .golangci.yml
	@for m in $(MODULES); do (cd $$m && GOWORK=off $(CURDIR)/$(LINT) fmt --diff -c $(CURDIR)/.golangci.yml) || exit 1; done
	@for m in $(MODULES); do (cd $$m && GOWORK=off $(CURDIR)/$(LINT) run -c $(CURDIR)/.golangci.yml ./...) || exit 1; done

.PHONY: fmt
fmt: $(LINT) ## format the code
	@for m in $(MODULES); do (cd $$m && GOWORK=off $(CURDIR)/$(LINT) fmt -c $(CURDIR)/.golangci.yml) || exit 1; done

$(LINT): $(TOOLS)/go.mod $(TOOLS)/go.sum
	cd $(TOOLS) && GOWORK=off $(GO) build -o $(CURDIR)/$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@GO=$(GO) FUZZTIME=$(FUZZTIME) internal/scripts/fuzz

.PHONY: curl
curl: ## run the READMEs' curl transcripts against fresh servers
	@internal/scripts/transcript README.md examples/paymentserver/README.md

.PHONY: bench
bench: ## measure against the peers; docs/benchmarks.md holds the last run
	cd internal/bench && GOWORK=off $(GO) run . -o ../../docs/benchmarks.md

.PHONY: tidy
tidy: ## go mod tidy in every module
	@for m in $(MODULES) $(TOOLS); do (cd $$m && GOWORK=off $(GO) mod tidy) || exit 1; done

.PHONY: clean-tree
clean-tree: ## no check may have left or changed a file
	@git diff --exit-code --stat && test -z "$$(git status --porcelain)" || { git status --short; exit 1; }
