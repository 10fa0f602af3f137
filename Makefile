# Osslo's house: `make run` serves, `make test` proves. `make help` lists the rest.
# Everything installs into $(VENV); nothing needs root, a GPU, Docker or Node.

SHELL := /bin/sh
VENV ?= .venv
PYTHON_BIN := $(VENV)/bin/python
PIP := $(PYTHON_BIN) -m pip --disable-pip-version-check
PYTEST_ARGS ?=

# torch is a test dependency only. Its CPU build lives on an index of its own; where that index is
# out of reach pip says so and takes what the other indexes have.
TORCH := torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

NATIVE_SOURCES := CMakeLists.txt $(shell find csrc -type f 2>/dev/null)
BUILT := $(VENV)/.osslo-built
# A new compiler's new warning stops CI, but not a stranger's first build.
STRICT_BUILD := $(if $(CI),--config-settings=cmake.define.OSSLO_WARNINGS_AS_ERRORS=ON)
DEV := $(VENV)/.osslo-dev

.PHONY: help setup build run test test-slow test-model check lint format type docs \
	asan bench fault-injection bench-peers bench-depth small-machine count-instructions \
	agreement synth bfcl bench-accounts conformance clean screenshots
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- install and build ---------------------------------------------------------------------------

$(PYTHON_BIN):
	@python=$$(sh scripts/find_python.sh) && echo "osslo: creating $(VENV) with $$python" \
		&& { "$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; }

$(BUILT): pyproject.toml $(NATIVE_SOURCES) | $(PYTHON_BIN)
	@echo "osslo: installing, and building the kernels (a minute or two)"
	@$(PIP) install -qq "scikit-build-core>=1.0" "nanobind>=3.1" "cmake>=3.20" ninja
	@$(PIP) install -qq --no-build-isolation $(STRICT_BUILD) -e .
	@touch $@

$(DEV): pyproject.toml | $(BUILT)
	@echo "osslo: installing what tests need"
	@$(PIP) install -qq --no-deps --retries 1 --timeout 20 --extra-index-url $(TORCH_INDEX) $(TORCH)
	@$(PIP) install -qq --no-build-isolation -e '.[dev]'
	@touch $@

build: $(BUILT) ## create .venv, install Osslo and build its kernels
setup: $(BUILT) $(DEV) ## build, and install what tests need

# --- use -----------------------------------------------------------------------------------------

run: $(BUILT) ## serve on 127.0.0.1:8000 (OSSLO_PORT, OSSLO_API_KEY, OSSLO_MODEL)
	@exec $(VENV)/bin/osslo serve

synth: $(BUILT) ## write a full-size gpt-oss-20b of random weights (12 GB) under build/synth
	@mkdir -p build/synth
	@$(VENV)/bin/osslo synth build/synth/gpt-oss-20b.gguf --preset gpt-oss-20b --format gguf

bench: $(BUILT) ## measure a model on this machine: make bench MODEL=gpt-oss-20b
	@$(VENV)/bin/osslo bench $(MODEL)

# Full-size rows and the stand-in's come from separate processes so that page caches do not mix.
bench-peers: $(BUILT) ## measure against llama.cpp, interleaved; writes build/bench-peers.json
	@$(PYTHON_BIN) bench/peers.py $(PEERS_ARGS) --out build/bench-peers.json

bench-depth: $(BUILT) ## the same at depths 16k and 32k; writes build/bench-depth.json
	@$(PYTHON_BIN) bench/peers.py --rows decode_16384,decode_32768 --out build/bench-depth.json

count-instructions: $(DEV) ## instructions of the hot kernels, beside what is recorded (valgrind)
	@$(PYTHON_BIN) -m bench.instructions.counting

bench-accounts: $(DEV) ## what keys and the ledger add to a request; writes build/bench-accounts.json
	@$(PYTHON_BIN) -m bench.accounts --out build/bench-accounts.json

agreement: $(BUILT) ## compare logits with llama.cpp's; writes build/agreement.json
	@$(PYTHON_BIN) bench/agreement.py --out build/agreement.json

small-machine: $(BUILT) ## root: the packed model PACKED=... in 15 GiB, page cache counted
	@$(PYTHON_BIN) bench/small_machine.py $(PACKED) --out build/small-machine.json

fault-injection: $(DEV) ## kill servers under load and audit the ledger; writes build/fault-injection.json
	@$(PYTHON_BIN) -m bench.faults $(FAULTS_ARGS) --out build/fault-injection.json

screenshots: $(DEV) ## a picture of every page of the console, in build/screenshots
	@$(PYTHON_BIN) -m tests.console.screenshots $(ONLY)

# Training takes and frees big blocks at each step: in huge pages their first touch costs little.
train-stand-in: $(DEV) ## go on training the stand-in from its last checkpoint
	@OMP_NUM_THREADS=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(PYTHON_BIN) -m recipes.stand_in.train $(TRAIN_ARGS)

eval-stand-in: $(DEV) ## held-out prompts through MODEL=...; writes build/stand-in-eval.json
	@$(PYTHON_BIN) -m bench.stand_in_eval --model $(or $(MODEL),stand-in)

bfcl: $(DEV) ## BFCL's questions with and without grammar: MODEL=, COUNT=; writes build/bfcl.json
	@$(PYTHON_BIN) -m bench.bfcl --model $(or $(MODEL),stand-in) $(if $(COUNT),--count $(COUNT))

# --- prove ---------------------------------------------------------------------------------------

lint: $(DEV) ## ruff: rules and format, edits nothing
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

format: $(DEV) ## ruff: mend what can be mended
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

type: $(DEV) ## mypy, strict
	@$(VENV)/bin/mypy

test: $(BUILT) $(DEV) lint type ## install, then lint, types, architecture and all quick tests
	@$(PYTHON_BIN) -m pytest -m "not slow" $(PYTEST_ARGS)

check: test ## what CI runs

test-model: $(BUILT) $(DEV) ## only the tests that run the stand-in model
	@$(PYTHON_BIN) -m pytest -m "model and not slow" $(PYTEST_ARGS)

test-slow: $(BUILT) $(DEV) ## the tests that take minutes
	@$(PYTHON_BIN) -m pytest -m slow $(PYTEST_ARGS)

asan: $(BUILT) $(DEV) ## build with the address and undefined-behaviour sanitizers; test the kernels
	@$(PYTHON_BIN) scripts/sanitize.py

conformance: $(DEV) ## hold the API against the world: ROWS=, SCALE=, SEED=; build/conformance.json
	@$(PYTHON_BIN) -m bench.conformance $(if $(ROWS),--rows $(ROWS)) $(if $(SCALE),--scale $(SCALE)) \
		$(if $(SEED),--seed $(SEED))

docs: $(DEV) ## write docs/cli.md from the commands' own help
	@$(PYTHON_BIN) scripts/cli_docs.py

clean: ## remove build/ (synthetic models too) and caches; .venv stays
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
