# One command for each thing a person does here. `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test inf1 soak bench bench-queue bench-serve compare-serve bench-pairs bench-score flips bench-inf1 bench-backfill bench-env real-input lint advisories models build libtorch test-env training-env test-training test-cdk cdk-tools bundle bench-store test-dynamodb-local

# Replicas bring their own threads; two levels of them halve the speed.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(TARGET_DIR)/release/catalog-labels
MINISTACK := $(CURDIR)/.venv-ministack/bin/ministack

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: build ## label the sample catalog end to end on this machine
	$(BINARY) demo

# What tests need is downloaded while the crates are built.
test: ## run every test
	$(MAKE) --jobs build test-env training-env cdk-tools
	CATALOG_LABELS_MINISTACK=$(MINISTACK) cargo test --release --locked --workspace
	python3 scripts/cost.py --check
	$(MAKE) test-training
	$(MAKE) test-cdk

test-training: build training-env ## check what prepares the data, and all up to the call of the Neuron compiler
	cd models/training && CATALOG_LABELS_BINARY=$(abspath $(BINARY)) ../../.venv-training/bin/python -m unittest

test-cdk: build test-env cdk-tools ## check the stacks, what they hand the worker, and what runs on a host
	cd cdk && npm run --silent check && CATALOG_LABELS_BINARY=$(abspath $(BINARY)) npm test --silent

test-dynamodb-local: libtorch ## the store's contract against the official local engine (Java 17, npm; a licence of its own)
	scripts/test-dynamodb-local.sh

bundle: ## pack what `cdk deploy` uploads into dist/ (docs/DEPLOY.md)
	scripts/bundle.sh

bench: build ## measure events/s and pairs/s on the sample catalog
	$(BINARY) demo --quiet --local .local/bench

soak: build test-env ## kill workers every few seconds over 20,000 events, and compare the tables
	CATALOG_LABELS_MINISTACK=$(MINISTACK) cargo test --release --locked --workspace --test soak -- --ignored --nocapture

bench-queue: build test-env ## the worker without scoring, beside a bare receive-and-delete loop
	CATALOG_LABELS_MINISTACK=$(MINISTACK) cargo bench --locked --workspace --bench consume

# A gzipped CSV whose second column is a title.
TITLES ?= ../shared/data/load/pricerunner_aggregate.csv.gz
bench-store: libtorch ## what one event reads and writes at 10,000, 100,000 and a million products (16 GB of memory)
	cargo build --profile bench --locked --workspace --example flat_cost
	$(TARGET_DIR)/release/examples/flat_cost $(TITLES) 10000 100000 1000000

# The sample's queries, unless QUERIES names a TSV file with columns text and source, and SOURCE one of its sources.
bench-serve: build bench-env ## latency against load over HTTP, beside a plain onnxruntime server
	cargo build --profile bench --locked --workspace --example bench_serve
	QUERIES="$(QUERIES)" SOURCE="$(SOURCE)" $(TARGET_DIR)/release/examples/bench_serve

# The build in this folder with one copy of the model and with two, unless SERVES says what to compare: options of the
# example, such as --serve 'old=/tmp/old/catalog-labels serve --artifact A --without-tables' --rate 6000 --rounds 9.
SERVE := $(BINARY) serve --artifact models/artifacts/minilm-l6-v6 --without-tables --deadline 60s
SERVES ?= --serve 'one=$(SERVE) --online-replicas 1' --serve 'two=$(SERVE) --online-replicas 2'
compare-serve: build ## builds or settings of `serve` in turn: capacity, latency, and CPU a query
	cargo build --profile bench --locked --workspace --example compare_serve
	QUERIES="$(QUERIES)" SOURCE="$(SOURCE)" $(TARGET_DIR)/release/examples/compare_serve --share 0.7 $(SERVES)

bench-pairs: build bench-env ## pairs a second of a core, beside other engines, on the sets in PAIRS=FOLDER
	@test -d "$(PAIRS)" || { echo "PAIRS must be a folder of sets: abt-buy, amazon-google, walmart-amazon"; exit 1; }
	cargo build --profile bench --locked --workspace --example bench_pairs
	$(TARGET_DIR)/release/examples/bench_pairs "$(PAIRS)"

flips: build ## what bf16 and int8 decide otherwise than fp32, on the sets in PAIRS=FOLDER and QUERIES=FILE
	@test -d "$(PAIRS)" && test -f "$(QUERIES)" || { echo "PAIRS must be a folder of sets, QUERIES a TSV file of text and label"; exit 1; }
	cargo build --profile bench --locked --workspace --example flips
	$(TARGET_DIR)/release/examples/flips "$(PAIRS)" "$(QUERIES)"

bench-score: libtorch ## what a core scores by numeric path, and its arithmetic peak (criterion)
	cargo bench --locked --package catalog-labels-models --bench score

bench-inf1: build test-env ## whether the host keeps 16 NeuronCores busy, over a stand-in with batches of 5 ms; with SET=FOLDER also its share of a pair
	cargo bench --locked --workspace --bench neuron
	$(if $(SET),CATALOG_LABELS_MINISTACK=$(MINISTACK) cargo bench --locked --workspace --bench host -- "$(abspath $(SET))")

bench-backfill: build ## whether backfill keeps the scorer busy, on the tables of SET=FOLDER, and what 5 million rows take of memory
	@test -d "$(SET)" || { echo "SET must be a folder with tableA.csv and tableB.csv"; exit 1; }
	cargo build --profile bench --locked --workspace --example bench_backfill --example backfill_memory
	$(TARGET_DIR)/release/examples/bench_backfill "$(SET)"
	$(TARGET_DIR)/release/examples/backfill_memory

real-input: build test-env ## send the tables of SET=FOLDER through SQS, worker and DynamoDB, and judge the labels
	@test -d "$(SET)" || { echo "SET must be a folder with tableA.csv, tableB.csv and valid.csv"; exit 1; }
	cargo build --profile bench --locked --workspace --example real_input
	CATALOG_LABELS_MINISTACK=$(MINISTACK) $(TARGET_DIR)/release/examples/real_input "$(SET)"

# Advisories change without a commit, and their database is on GitHub: a person asks for them.
# cargo-deny is built in a third of the time where it is not optimised, and runs for seconds either way.
lint: libtorch ## check format, lints, and licences
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || cargo install --quiet --debug --locked cargo-deny@0.20.2
	cargo deny --log-level error check bans licenses sources

advisories: ## look the dependencies up in RustSec's database
	cargo deny check advisories

# The libtorch of PyPI's wheel, in a target folder of its own.
INF1 := LIBTORCH=$(CURDIR)/.local/inf1/libtorch LIBTORCH_CXX11_ABI=0 CARGO_TARGET_DIR=$(TARGET_DIR)/inf1 \
	LD_LIBRARY_PATH=$(CURDIR)/.local/inf1/libtorch/lib

inf1: ## build for the libtorch of inf1's wheels (old C++ ABI), and run the tests of NeuronCores with it
	@scripts/install-inf1.sh
	$(INF1) cargo build --release --locked --workspace --bins --test neuron
	$(INF1) cargo test --release --locked --workspace --test neuron

models: ## print the commands that train and export the shipped model
	@sed -n '/^## Train it again/,/^## /p' docs/MODELS.md | sed -n '/^```sh/,/^```/p' | grep -v '^```'

build: libtorch
	cargo build --release --locked --workspace --bins

libtorch:
	@scripts/install-libtorch.sh

cdk-tools: ## install node modules and linters of the CDK app, as pinned
	@scripts/install-cdk-tools.sh

training-env: ## make the virtual environment that trains and exports the model (2 GB of wheels)
	@scripts/install-training.sh

bench-env: ## make the virtual environment of the benches' peers, with the shipped weights
	@scripts/install-bench.sh

# After libtorch, since both may call apt.
test-env: | libtorch ## install what the tests start: ministack, and the SDKs of the snippets
	@scripts/install-ministack.sh
	@scripts/install-snippets.sh
