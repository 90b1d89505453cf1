# Every target sets up what it needs (Debian 12 or later; sudo only where not root).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO := cargo
ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$(PATH)")
PREFIX ?= /usr/local

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

.PHONY: build
build: ## Build the release binary, target/release/alize
	@script/setup build
	$(CARGO) build --release -p alize

.PHONY: demo
demo: ## Show real servers and clients: shares, canaries, a live trace, sidecars beside it, in a minute
	@script/setup build test
	@$(CARGO) build --release --quiet -p alize -p alize-tests
	@$(ROOT) target/release/alize-demo

.PHONY: test
test: lint ## Lint, then run every ring of tests
	@script/test

.PHONY: lint
lint: ## Formatting, clippy, dependencies, C style
	@script/setup build test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	$(CARGO) deny --log-level error check bans licenses sources
	clang-format --dry-run -Werror $$(git ls-files '*.bpf.c' 'crates/datapath/bpf/*.h' 'crates/datapath/host/*.[ch]' 'crates/datapath/tests/host/*.[ch]')

.PHONY: proof
proof: ## Compare what the kernel counts with the servers' logs, for 1,000,000 requests
	@script/setup build test
	@$(ROOT) env ALIZE_PROOF_REQUESTS=1000000 $(CARGO) test --quiet -p alize-datapath --test observe_proof -- --nocapture

.PHONY: torture
torture: ## Random requests on the kernel path while everything is killed: ALIZE_TORTURE=1000000 of them (half an hour)
	@script/setup build test
	@$(CARGO) build --quiet --workspace --bins
	@$(ROOT) env ALIZE_TORTURE=$${ALIZE_TORTURE:-1000000} $(CARGO) test --quiet -p alize-tests --test torture -- --nocapture

.PHONY: test-kernels
test-kernels: ## Try every feature on other kernels, in virtual machines, and write docs/kernels.md
	@script/setup build test kernels
	@$(CARGO) build --quiet -p alize-tests --bin alize-kernels
	$(ROOT) target/debug/alize-kernels

.PHONY: test-arm64
test-arm64: ## Load every kernel program on an emulated ARM64 machine (minutes)
	@script/test-arm64

.PHONY: fuzz
fuzz: ## Fuzz every parser of foreign bytes for a while (FUZZ_SECONDS=300)
	@script/setup build test
	@script/fuzz $${FUZZ_SECONDS:-300}

.PHONY: bench
bench: ## Measure beside no mesh, proxies, iptables and nftables; write docs/benchmarks.md (a quarter of an hour)
	@script/setup build test bench
	@$(CARGO) build --release --quiet -p alize -p alize-bench
	@$(ROOT) target/release/alize bench --install-envoy --curves --out bench/out --write-docs
	@$(ROOT) target/release/alize-bench

.PHONY: endurance
endurance: ## Measure that no connection is lost: ALIZE_LIVE=10000 connections, ALIZE_ROUNDS=5, ALIZE_CYCLES=100
	@script/setup build test
	@$(CARGO) build --quiet --release --target-dir target/endurance -p alize -F alize-datapath/faults
	@$(CARGO) build --quiet --release --target-dir target/endurance -p alize-tests --bins
	@$(ROOT) env ALIZE_LIVE=$${ALIZE_LIVE:-10000} ALIZE_ROUNDS=$${ALIZE_ROUNDS:-5} ALIZE_CYCLES=$${ALIZE_CYCLES:-100} ALIZE_BIN=$(CURDIR)/target/endurance/release \
		bash -c 'ulimit -n 65536; exec "$$0" "$$@"' $(CARGO) nextest run --workspace --success-output final --retries 0 --config-file .config/endurance.toml \
		-E 'binary(lifecycle) & package(alize-tests) | test(nothing_grows_over_upgrades)'

.PHONY: install
install: build ## Install the binary, man pages, completions and the systemd unit below PREFIX
	install -D -m 755 target/release/alize $(DESTDIR)$(PREFIX)/bin/alize
	install -d $(DESTDIR)/etc/systemd/system
	sed 's,/usr/bin/alize,$(PREFIX)/bin/alize,' deploy/alize.service > $(DESTDIR)/etc/systemd/system/alize.service
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	target/release/alize man $(DESTDIR)$(PREFIX)/share/man/man1
	target/release/alize completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/alize
