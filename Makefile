# Everything a developer does has a target here; `make` lists them.
# Needs Python 3.11 or newer, its venv module, and a package index.

VENV  ?= .venv
PROTO_VENV ?= .venv-proto
OLDEST_VENV ?= .venv-oldest
PEERS_VENV ?= .venv-peers
BIN    = $(VENV)/bin
# The first interpreter that is new enough; `make dev PYTHON=...` overrides it.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
# Where `make run` keeps its data, and how many workers it starts.
DATA    ?= data-local
WORKERS ?= 2
PORT    ?= 7700
# What `make proto-breaking` compares with: the last release.
BASE    ?= $(shell git describe --tags --abbrev=0 --match 'v*' 2>/dev/null)
# Further arguments: `make test ARGS="-k merge -x"`.
ARGS    ?=

# Complete environments carry a stamp, so that a half-made one is made again.
SERVER_STAMP = $(VENV)/.server
DEV_STAMP   = $(VENV)/.complete
PROTO_STAMP = $(PROTO_VENV)/.complete
OLDEST_STAMP = $(OLDEST_VENV)/.complete
PEERS_STAMP = $(PEERS_VENV)/.complete

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help dev demo run test test-long test-oldest check format proto proto-check proto-breaking \
	sync sync-check examples bench bench-peers bench-report bench-scaling bench-targets clean \
	deploy-tools chart-schema dashboards image-requirements

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: $(DEV_STAMP)  ## Make the environment in .venv: the server, the client and the tools, editable

# What runs Shoal is there in seconds; the tools of its developers are large, and come when needed.
$(SERVER_STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "Shoal needs Python 3.11 or newer; python3 here is: $$(python3 --version 2>&1)." >&2; \
		echo "Install one, or name it: make dev PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make an environment: its venv module is missing (Debian: apt install python3-venv)." >&2; exit 1; }
	@echo "installing Shoal into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server]'
	@touch $@

$(DEV_STAMP): pyproject.toml $(SERVER_STAMP)
	@echo "installing Shoal's tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,dev]'
	@touch $@

demo: $(SERVER_STAMP)  ## Start a cluster, load real data, search it, kill a worker, show that nothing is lost
	$(BIN)/python -m shoal_local.demo $(ARGS)

run: $(SERVER_STAMP)  ## Run a cluster on this machine until Ctrl-C (DATA=data-local WORKERS=2 PORT=7700)
	$(BIN)/shoal up --data $(DATA) --workers $(WORKERS) --port $(PORT) $(ARGS)

test: dev  ## Run the tests, without the long ones
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: dev  ## Run all tests
	$(BIN)/python -m pytest $(ARGS)

# The ranges of the client's dependencies are wide; `make test` runs on their newest.
$(OLDEST_STAMP): pyproject.toml tools/oldest-requirements.txt | $(DEV_STAMP)
	@test -x $(OLDEST_VENV)/bin/python || $(BIN)/python -m venv $(OLDEST_VENV)
	@$(OLDEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint tools/oldest-requirements.txt --editable '.[server,dev]'
	@touch $@

test-oldest: $(OLDEST_STAMP)  ## Run the tests on the oldest packages that the client accepts
	$(OLDEST_VENV)/bin/python -m pytest -m "not long" $(ARGS)

check: dev proto-check proto-breaking sync-check  ## Check format, lint, types, imports, protos and generated files
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint

format: dev  ## Format the code, and fix what the linter can fix
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

# The stubs come from an older generator than the packages we run on (see
# tools/generate_protos.py), which therefore has an environment of its own.
$(PROTO_STAMP): tools/proto-requirements.txt | $(DEV_STAMP)
	@test -x $(PROTO_VENV)/bin/python || $(BIN)/python -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

proto: $(PROTO_STAMP)  ## Generate the stubs in sdk/shoal from protos/
	$(PROTO_VENV)/bin/python -m tools.generate_protos

proto-check: $(PROTO_STAMP)  ## Fail if the committed stubs are not those of protos/
	$(PROTO_VENV)/bin/python -m tools.generate_protos --check

proto-breaking: dev  ## Fail if protos/ breaks what the last release promises (BASE=main: what main has)
	@if [ -n "$(BASE)" ]; then echo "comparing protos/ with $(BASE)"; $(BIN)/buf breaking --against '.git#ref=$(BASE)'; \
	else echo "there is no release yet that protos/ could break"; fi

sync: dev  ## Generate the blocking client in sdk/shoal/_sync from sdk/shoal/_async
	$(BIN)/python -m tools.generate_sync

sync-check: dev  ## Fail if the blocking client is not the one of sdk/shoal/_async
	$(BIN)/python -m tools.generate_sync --check

deploy-tools: dev  ## Bring promtool, prometheus and helm for the tests of deploy/ (ARGS=--image: buildah, too; ARGS=--s3: an S3 server)
	$(BIN)/python -m tools.deploy_tools $(ARGS)

chart-schema: dev  ## Write the roles' settings into the chart's values.schema.json
	$(BIN)/python -m tools.generate_chart_schema

dashboards: dev  ## Write Grafana's dashboards from deploy/grafana/dashboards.yaml
	$(BIN)/python -m tools.generate_dashboards

image-requirements: dev  ## Pin what the image runs on to the newest packages
	$(BIN)/python -m tools.image_requirements

examples: dev  ## Run the examples in all languages whose toolchain is here (ARGS="python go" for some)
	$(BIN)/python -m examples.run $(ARGS)

bench: dev  ## Measure Shoal beside raw USearch, some minutes: see benchmarks/README.md
	$(BIN)/python -m benchmarks $(ARGS)

bench-targets: dev  ## Measure every target, and say which are met (ARGS=--quick: a rehearsal)
	$(BIN)/python -m benchmarks.targets --peers $(PEERS_VENV)/bin $(ARGS)

bench-scaling: dev  ## Measure how cost grows with shards, workers, records, collections
	$(BIN)/python -m benchmarks.scaling --output benchmarks/results/scaling.json $(ARGS)

bench-report: dev  ## Write benchmarks/RESULTS.md and its plots from the raw files
	$(BIN)/python -m benchmarks.report $(ARGS)

# What Shoal is compared with pulls in hundreds of packages, which have no business in .venv. What
# does not install is left out, and named as skipped.
$(PEERS_STAMP): $(wildcard benchmarks/peers/requirements/*.txt) | $(DEV_STAMP)
	@test -x $(PEERS_VENV)/bin/python || $(BIN)/python -m venv $(PEERS_VENV)
	@for file in $^; do \
		$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $$file || \
		echo "$$file does not install here: measured without" >&2; done
	@touch $@

bench-peers: dev $(PEERS_STAMP)  ## Measure beside other stores: see benchmarks/README.md
	$(BIN)/python -m benchmarks.peers --peers $(PEERS_VENV)/bin --output benchmarks/results/peers.json $(ARGS)

clean:  ## Remove the environments and caches (data directories stay)
	rm -rf $(VENV) $(PROTO_VENV) $(OLDEST_VENV) $(PEERS_VENV) .deploy-tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
