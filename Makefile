# The two commands of the README are `make demo` and `make test`; both set up what they need.

PYTHON ?= python3
BACKEND ?= auto
DEMO_ARGS ?=
JOBS ?= $(shell expr $$(nproc 2>/dev/null || echo 1) + 1)
BIN := .venv/bin
# Debian's packages that the project uses where they are missing and root may install them.
NEEDED := bwrap:bubblewrap busybox:busybox cc:gcc
GUEST_SOURCES := $(wildcard pool/guest/*.c pool/guest/*.h) hatch_build.py

.DEFAULT_GOAL := help
.PHONY: help setup system daemon demo test lint check bench bench-data soak format clean

help:
	@echo "make demo [BACKEND=auto|docker|local]   run the built-in tasks in 16 sandboxes"
	@echo "make test                               run everything that checks the project"
	@echo "make lint | check | bench | bench-data | soak | format | clean"

setup: system .venv/installed

system:
	@missing=""; for pair in $(NEEDED); do command -v "$${pair%%:*}" >/dev/null 2>&1 || missing="$$missing $${pair#*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    case "$$missing" in *gcc*) missing="$$missing libc6-dev";; esac; \
	    echo "installing$$missing from Debian's packages"; \
	    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; } \
	      || echo "could not install$$missing; 'codecraft doctor' tells what that costs"; \
	  else echo "missing:$$missing (install them as root; 'codecraft doctor' tells what that costs)"; fi; fi

.venv/made: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	  || { echo "no virtual environment could be made (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "installing the locked dependencies into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/installed: .venv/made pyproject.toml $(GUEST_SOURCES)
	@echo "building the guest and installing codecraft_async into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/codecraft demo --backend $(BACKEND) $(DEMO_ARGS)

# The two type checkers take the longest, and a processor each.
lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright & pyright=$$!; status=0; $(BIN)/mypy || status=1; wait $$pyright || status=1; exit $$status
	@$(BIN)/lint-imports

# In CI the tests of containers must run: an engine that is installed there and stopped is started.
daemon:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && command -v dockerd >/dev/null 2>&1 \
	    && ! timeout 20 docker version >/dev/null 2>&1; then \
	  echo "starting the container daemon"; \
	  service docker start >/dev/null 2>&1 \
	    && for _ in $$(seq 30); do timeout 5 docker version >/dev/null 2>&1 && exit 0; sleep 1; done; \
	  (setsid dockerd >/dev/null 2>&1 </dev/null &); \
	  for _ in $$(seq 30); do timeout 5 docker version >/dev/null 2>&1 && exit 0; sleep 1; done; \
	  echo "the container daemon does not start; the tests that need it will fail"; fi

# Tests wait more than they compute, so there is one worker more than there are processors.
check: setup daemon
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

# Both parts run even when the first fails, and the test runner's closing line comes last.
test: setup
	@status=0; $(MAKE) --no-print-directory lint || status=1; $(MAKE) --no-print-directory check || status=1; exit $$status

bench: setup
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-data: setup
	@$(BIN)/python -m benchmarks.intercode $(BENCH_ARGS)

soak: setup
	@status=0; for backend in local docker; do \
	  $(BIN)/python -m benchmarks --soak --backend $$backend $(SOAK_ARGS) || status=1; done; exit $$status

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build pool/codecraft_pool/_guest benchmarks/.peers
