# Every target gets what it needs; `make` alone lists them.

# Where rustup and the installer of Go put their programs, if PATH does not have them.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin
# An error of a test already carries its causes.
export RUST_LIB_BACKTRACE ?= 0

# The programs of other projects that the demo runs, and those that the suites run besides.
DEMO_ASSETS := redis-server etcd kube-apiserver kubectl
ASSETS := $(DEMO_ASSETS) valkey-server faketime helm promtool monitoring-decode

# Runs a command and prints one line for it. `make V=1 ...` shows its output.
STEP := .ci/step

# A chart cannot reach beyond its folder.
CHART_CRDS := charts/tenure/files/crds

# `make image` takes a release of the programs by default; PROFILE=dev is built sooner, and is bigger and slower.
PROFILE ?= release
PROGRAMS := $(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# A test writes the conformance vectors, or compares them: it runs the scripts.
VECTORS := cargo test --quiet --workspace --lib -- --exact memory::tests::conformance::the_vectors_are_what_the_scripts_do
# So does the page of the command line.
CLI_PAGE := cargo test --quiet --workspace --bin tenure -- --exact reference::tests::the_page_is_what_the_definition_says
# What an image holds, without what only tests need of the library.
PACKAGED := --package tenure-cli --package tenure-controller --package tenure-examples
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# The oldest compiler that builds the workspace.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
CONTAINER_TOOL ?= docker

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tenure
DENY_VERSION := 0.20.2
TYPOS_VERSION := 1.52.0
STYLUA_VERSION := 2.6.0
MARKDOWNLINT_VERSION := 0.22.0
STYLUA := $(CACHE)/stylua-$(STYLUA_VERSION)/bin/stylua
TYPOS := $(CACHE)/typos-$(TYPOS_VERSION)/bin/typos
DENY := $(or $(shell command -v cargo-deny),$(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny)

# No target but bench names a package: cargo would build the dependencies anew with that package's features alone. For
# bench that is what we want: a release of the library's own dependencies, in a minute, and not of a Kubernetes client.

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: cargo ## Show the main job on real servers, step by step
	@$(STEP) 'building the demo, the controller and the worker' \
		cargo build --bin demo --bin assets --bin tenure-controller --bin tenure-worker
	@cargo run --quiet --bin assets -- $(DEMO_ASSETS)
	@cargo run --quiet --bin demo

servers: cargo ## Start a Redis and a Kubernetes API server to try things on; Ctrl-C stops them
	@$(STEP) 'building the servers' cargo build --bin servers --bin assets
	@cargo run --quiet --bin assets -- $(DEMO_ASSETS)
	@cargo run --quiet --bin servers

test: setup ## Run the whole suite on real servers
	cargo test --workspace

matrix: build ## Run the library's suites on every server that can be had; MATRIX=valkey-9.1 names one
	@cargo build --workspace --all-targets
	@cargo run --quiet --bin matrix -- $(MATRIX)

chart-test: setup ## Check the chart: lint, refusals, snapshots, and a real API server
	cargo test --workspace --test suites -- chart::

image: cargo ## Build the container images; IMAGE_LOAD, PROFILE: see the head of Containerfile
ifdef IMAGE_LOAD
	cargo build --profile $(PROFILE) $(if $(filter dev,$(PROFILE)),--workspace --bins,$(PACKAGED))
	@mkdir -p $(PROGRAMS)/image
	@for program in tenure tenure-controller tenure-worker tenure-handover; do \
		strip --strip-debug -o $(PROGRAMS)/image/$$program $(PROGRAMS)/$$program; \
	done
	$(IMAGE_LOAD) docker.io/library/tenure-controller:$(VERSION) $(PROGRAMS)/image/tenure-controller
	$(IMAGE_LOAD) docker.io/library/tenure-cli:$(VERSION) $(PROGRAMS)/image/tenure
	$(IMAGE_LOAD) docker.io/library/tenure-worker:$(VERSION) $(PROGRAMS)/image/tenure-worker $(PROGRAMS)/image/tenure-handover
else
	$(CONTAINER_TOOL) build --target controller --tag tenure-controller:$(VERSION) --file Containerfile .
	$(CONTAINER_TOOL) build --target cli --tag tenure-cli:$(VERSION) --file Containerfile .
	$(CONTAINER_TOOL) build --target worker --tag tenure-worker:$(VERSION) --file Containerfile .
endif

e2e: build ## Run the chart on the cluster that KUBECONFIG names; E2E_ARGS: see the head of tests/bin/e2e/main.rs
	@cargo run --quiet --bin assets -- kubectl helm
	@cargo run --quiet --bin e2e -- $(E2E_ARGS)

bench: cargo ## Measure what it costs, on a real Redis, in ratios and counts; BENCH_ARGS=load, instructions or cli
	$(if $(filter cli,$(BENCH_ARGS)),cargo build --release --package tenure-cli)
	cargo run --release --package tenure-tests --no-default-features --bin bench -- $(BENCH_ARGS)

bench-controller: cargo ## Measure the controller with many objects, or, with BENCH_ARGS=killed, its clients while it is killed; settings: see the head of tests/bin/bench/controller.rs
	@$(STEP) 'building the controller' cargo build --release --package tenure-controller --package tenure-tests --bin tenure-controller --bin assets --bin bench
	@cargo run --quiet --release --bin assets -- redis-server etcd kube-apiserver kubectl
	@cargo run --quiet --release --package tenure-tests --bin bench -- $(or $(BENCH_ARGS),controller)

check: format lint features drift deny docs scripts spelling ## All checks that need no server

build: cargo ## Build all programs
	@$(STEP) 'building all programs' cargo build --workspace --bins

setup: build ## Find, install, download or build the servers that the suites run
	@cargo run --quiet --bin assets -- $(ASSETS)

conformance: cargo ## Replay the conformance vectors on the server at URL, or on a redis-server of its own
	@cargo run --quiet --bin conformance -- $(URL)

generate: cargo ## Write the bundles of scripts, the conformance vectors, the page of the command line, and the resource definitions
	.ci/lua
	TENURE_GENERATE=1 $(VECTORS)
	TENURE_GENERATE=1 $(CLI_PAGE)
	cargo run --bin crdgen
	cargo run --bin crdgen -- --dir $(CHART_CRDS)

format: cargo $(STYLUA) ## Is all code formatted?
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	cargo fmt --all --check
	$(STYLUA) --check lua/*.lua lua/lib

lint: cargo ## Does clippy find nothing?
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	cargo clippy --workspace --all-targets -- -D warnings

# The lint above checks all features together, and this each set of the library's own.
features: cargo ## Does clippy find nothing with each set of the library's features?
	@for features in '' metrics tls memory metrics,tls metrics,memory tls,memory; do \
		$(STEP) "checking tenure with features '$$features'" \
			cargo clippy --package tenure --no-default-features --features "$$features" -- -D warnings || exit 1; \
	done

msrv: cargo ## Does the workspace build with the rust-version of Cargo.toml?
	@rustup toolchain list | grep -q '^$(MSRV)-' || rustup toolchain install $(MSRV) --profile minimal
	@$(STEP) 'checking with Rust $(MSRV)' cargo +$(MSRV) check --workspace --all-targets --locked

scripts: ## Do shellcheck and luacheck find nothing?
	@.ci/scripts

spelling: $(TYPOS) ## Do typos and the count of hard English find nothing?
	$(TYPOS)
	@.ci/english

# No part of `check`: it needs Node, which other checks do not. CI runs it as a step of its own.
markdown: ## Does markdownlint find nothing? Needs Node 20 or newer
	@command -v npx >/dev/null || { echo 'npx is not in PATH: install Node 20 or newer, https://nodejs.org' >&2; exit 1; }
	@npx --yes --cache $(CACHE)/npm markdownlint-cli2@$(MARKDOWNLINT_VERSION)

drift: cargo ## Are the generated files what their sources say?
	.ci/lua --check
	$(VECTORS)
	$(CLI_PAGE)
	cargo run --bin crdgen -- --check
	cargo run --bin crdgen -- --check --dir $(CHART_CRDS)

deny: $(DENY) ## Are licences, sources and versions of dependencies as deny.toml says?
	$(DENY) check licenses bans sources
	@if [ -d "$${CARGO_HOME:-$$HOME/.cargo}/advisory-dbs" ]; then \
		$(DENY) --offline check advisories; \
	else \
		echo "advisories are NOT checked: their database is not on this machine; with access to GitHub, get it with: $(DENY) fetch db"; \
	fi

docs: cargo ## Are the docs without warnings?
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

$(TYPOS):
	python3 -m venv $(CACHE)/typos-$(TYPOS_VERSION)
	$(CACHE)/typos-$(TYPOS_VERSION)/bin/pip install --quiet typos==$(TYPOS_VERSION)

$(DENY): | cargo
	cargo install --locked --root $(CACHE)/cargo-deny-$(DENY_VERSION) cargo-deny@$(DENY_VERSION)

# A debug build takes half the time of a release, and checks the scripts in less than a second.
$(STYLUA): | cargo
	cargo install --locked --debug --root $(CACHE)/stylua-$(STYLUA_VERSION) stylua@$(STYLUA_VERSION)

cargo:
	@command -v cargo >/dev/null || { echo 'cargo is not in PATH: install Rust, https://rustup.rs' >&2; exit 1; }

.PHONY: help demo servers test matrix chart-test image e2e bench bench-controller conformance check build setup generate format lint features msrv \
	scripts spelling markdown drift deny docs cargo
