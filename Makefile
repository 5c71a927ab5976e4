# Everything is run from here, by people and by CI alike. `make help` lists the targets.
#
# Needed beforehand: make and Python 3.11 or newer with its venv module. Everything else comes,
# pinned by hash, from the Python package registry into .venv.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

CANDIDATES := python3.11 python3.12 python3.13 python3
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c '$(USABLE)' 2>/dev/null && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
READY := $(VENV)/.package
KSERVE_VENV := .venv-kserve
KSERVE_READY := $(KSERVE_VENV)/.packages
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-strip-extras --custom-compile-command "make lock"

# A process for each core, one torch thread each; a file's tests share what they set up, so stay together.
PARALLEL := --numprocesses=logical --maxprocesses=8 --dist=loadfile

# The CUDA wheels are large: a slow connection must not fail the installation.
export UV_HTTP_TIMEOUT ?= 300
# pyright would ask a registry whether a newer version exists: the locked one is wanted.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

## Environment

$(VENV)/.bootstrap: requirements/bootstrap.txt
	@[[ -n "$(PYTHON)" ]] || { echo "No usable Python found (tried $(CANDIDATES)):" \
		"install Python 3.11 or newer with its venv module, or pass PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c '$(USABLE)' || { echo "$(PYTHON) is not usable:" \
		"Python 3.11 or newer with its venv module is needed" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Bytecode is compiled once here, because many tests start processes that import torch, and where Python is told
# not to write bytecode each would compile it anew (twenty seconds of a core).
$(VENV)/.packages: requirements/dev.txt $(VENV)/.bootstrap
	$(UV) pip sync --compile-bytecode --python $(BIN)/python --require-hashes $<
	@touch $@

$(READY): pyproject.toml $(VENV)/.packages
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# KServe's client, for the tests that let it talk to the service.
$(KSERVE_READY): requirements/kserve.txt $(VENV)/.bootstrap
	$(UV) venv --quiet --clear --python "$(PYTHON)" $(KSERVE_VENV)
	$(UV) pip sync --quiet --python $(KSERVE_VENV)/bin/python --require-hashes $<
	@touch $@

.PHONY: setup
setup: $(READY) ## Create .venv with everything in it

# The peers that benchmarks/serving compares with. torch and timm come from .venv by a .pth file.
$(VENV)-peers/.packages: requirements/peers.txt $(READY)
	$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)-peers
	$(UV) pip sync --python $(VENV)-peers/bin/python --require-hashes $<
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(VENV)-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main-venv.pth"
	@touch $@

.PHONY: peers
peers: $(VENV)-peers/.packages ## Create .venv-peers with the servers to compare with

# A newer bootstrap.txt makes .venv anew, so it is written only if it changes.
.PHONY: lock
lock: $(VENV)/.bootstrap ## Resolve pyproject.toml into requirements/ again (ARGS=--upgrade for the newest)
	cp requirements/bootstrap.txt $(VENV)/bootstrap.txt
	$(COMPILE) --group bootstrap --output-file $(VENV)/bootstrap.txt $(ARGS)
	cmp --silent $(VENV)/bootstrap.txt requirements/bootstrap.txt || cp $(VENV)/bootstrap.txt requirements/
	$(COMPILE) --group kserve --output-file requirements/kserve.txt $(ARGS)
	$(COMPILE) pyproject.toml --extra otel --output-file requirements/runtime.txt $(ARGS)
	$(COMPILE) pyproject.toml --extra otel --group dev --constraint requirements/runtime.txt \
		--output-file requirements/dev.txt $(ARGS)
	$(COMPILE) --group peers --output-file requirements/peers.txt $(ARGS)

## Use

.PHONY: demo
demo: $(READY) ## Train, ensemble and classify on this machine, start to end
	$(BIN)/hgprompt demo $(ARGS)

.PHONY: up
up: $(READY) ## Serve on this machine (ARGS="--port 8000")
	$(BIN)/hgprompt up $(ARGS)

.PHONY: weights
weights: $(READY) ## Fetch the backbone (HGPROMPT_BACKBONE) into its cache
	$(BIN)/python -m backbones.fetch

.PHONY: bench-fit
bench-fit: $(READY) ## Measure the speed of a fit
	$(BIN)/python -m benchmarks.fit_speed $(ARGS)

.PHONY: bench-tasks
bench-tasks: $(READY) ## Fetch and build the suite's labelled tasks
	$(BIN)/python -m benchmarks.tasks --out data/tasks $(ARGS)

.PHONY: bench-suite
bench-suite: $(READY) ## Every method on every task, leave one out (ARGS="--shard 1/2")
	$(BIN)/python -m benchmarks.suite run --tasks data/tasks --prompts examples/prompts \
		--out data/suite $(ARGS)

.PHONY: bench-report
bench-report: $(READY) ## Tables and plots of what bench-suite has finished
	$(BIN)/python -m benchmarks.suite report --results data/suite \
		--out benchmarks/suite/results $(ARGS)

.PHONY: bench-serving-limit
bench-serving-limit: $(READY) ## The service against the backbone in a bare loop
	$(BIN)/python -m benchmarks.serving limit $(ARGS)

.PHONY: bench-serving-tune
bench-serving-tune: $(READY) $(VENV)-peers/.packages ## Find the peers' best configurations
	$(BIN)/python -m benchmarks.serving tune $(ARGS)

.PHONY: bench-serving-peers
bench-serving-peers: $(READY) $(VENV)-peers/.packages ## The service against other servers
	$(BIN)/python -m benchmarks.serving peers $(ARGS)

.PHONY: bench-serving-fairness
bench-serving-fairness: $(READY) ## A tenant's latency beside a greedy one
	$(BIN)/python -m benchmarks.serving fairness $(ARGS)

.PHONY: bench-serving-growth
bench-serving-growth: $(READY) ## Time and memory against what grows
	$(BIN)/python -m benchmarks.serving growth $(ARGS)

## Development

.PHONY: test
test: $(READY) $(KSERVE_READY) ## Run the tests (ARGS="tests/jobs -k cancel"; -n0 for one process)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) --durations=20 --durations-min=5 $(ARGS)

.PHONY: check
check: $(READY) ## Lint, types, layers, locks and container files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(UV) pip check --quiet --python $(BIN)/python
	$(BIN)/python -m pytest --quiet tests/deploy

.PHONY: format
format: $(READY) ## Format and apply the linter's safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: clean
clean: ## Remove .venv and every cache in this folder
	rm -rf $(VENV) $(VENV)-peers $(KSERVE_VENV) .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache \
		*.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
