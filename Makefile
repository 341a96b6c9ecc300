# One target for everything; `make` alone lists them.
# Needs only make and Python 3.11 or newer. pip's own configuration decides where packages come from.

PYTHON ?= python3
VENV ?= .venv
UV ?= uv
TEST_PROCESSES ?= 2
ARGS ?=
MINUTES ?= 10

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTEST := $(BIN)/pytest -n $(TEST_PROCESSES)

# A stamp carries a checksum of what was installed, so a second run costs nothing and a changed lock is noticed
# whatever the clock or a git checkout did to the files' dates. The development lock contains the runtime lock.
checksum = $(shell cat $(1) | cksum | tr -d ' \n')
RUNTIME_STAMP := $(VENV)/.promptjobs-runtime-$(call checksum,pyproject.toml constraints.txt)
DEV_STAMP := $(VENV)/.promptjobs-dev-$(call checksum,pyproject.toml constraints.txt constraints-dev.txt)
INSTALLED := $(firstword $(wildcard $(DEV_STAMP)) $(RUNTIME_STAMP))

# A file in benchmarks/ is a benchmark when it can be run; the others are what benchmarks share.
BENCHMARKS = $(shell grep -l '^if __name__ == .__main__.:' benchmarks/*.py 2>/dev/null)

LOCK = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --no-header --quiet $(ARGS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install install-dev demo demo-mipro demo-experiment serve check format test test-slow chaos fuzz bench nightly lock clean

help:  ## List the targets
	@echo 'Usage: make TARGET [ARGS="..."] [PYTHON=python3.12] [VENV=.venv]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  %-15s %s\n", $$1, $$2 }'

install: $(INSTALLED)  ## Install promptjobs and its locked dependencies into VENV

install-dev: $(DEV_STAMP)  ## Install the development tools as well, into the same VENV

demo: install  ## Run a whole optimization on this machine: no key, no network, no database to set up
	$(BIN)/promptjobs demo $(ARGS)

demo-mipro: install  ## The same with MIPRO, for a program that calls its model twice
	$(BIN)/promptjobs demo --algorithm mipro $(ARGS)

demo-experiment: install  ## Twelve jobs at once: GEPA against MIPRO, on two models, in one table
	$(BIN)/promptjobs demo --experiment $(ARGS)

serve: install  ## Start the service on this machine
	$(BIN)/promptjobs serve $(ARGS)

check: install-dev  ## Format, lint, types and import contracts; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install-dev  ## Format the code and apply the safe lint fixes
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

test: install-dev  ## Run the tests, except the slow ones
	$(PYTEST) -m "not slow" $(ARGS)

# pytest's exit status 5 means that no test was selected, which is a failure of the fast suite only.
test-slow: install-dev  ## Run the slow tests
	$(PYTEST) -m slow $(ARGS) || [ $$? -eq 5 ]

chaos: install-dev  ## Kill, freeze and starve a whole installation at random for MINUTES, then check what must hold
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(ARGS)

fuzz: install-dev  ## Let schemathesis try every operation for MINUTES, as two organisations
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

bench: install-dev  ## Run every benchmark, or those in BENCHMARKS="benchmarks/one.py"
	@test -n "$(BENCHMARKS)" || { echo "benchmarks/ holds nothing to run" >&2; exit 1; }
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; done

nightly: test-slow chaos fuzz bench  ## What is too slow for every commit: slow tests, a soak, fuzzing, the benchmarks

lock:  ## Write both constraints files anew (needs uv; ARGS=--upgrade for newer versions)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: pip install uv, or UV=/path/to/uv" >&2; exit 1; }
	$(LOCK) --extra build pyproject.toml --output-file constraints.txt
	$(LOCK) --extra dev --constraint constraints.txt pyproject.toml --output-file constraints-dev.txt

# Only a directory that is a virtual environment is removed, so a mistyped VENV costs nothing.
clean:  ## Remove VENV, caches and build products, but no data
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
	find src tests benchmarks migrations -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) was not found: make install PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info < (3, 11) and sys.exit("promptjobs needs Python 3.11 or newer, but \
	$(PYTHON) is %d.%d. Choose another: make install PYTHON=python3.12" % tuple(sys.version_info[:2]))'
	"$(PYTHON)" -m venv "$(VENV)"

# The old stamps go first: an installation that was interrupted is not taken for a finished one.
$(RUNTIME_STAMP): | $(BIN)/python
	@rm -f $(VENV)/.promptjobs-*
	@echo "Installing the locked packages into $(VENV) (about a minute the first time)"
	@$(PIP) install --quiet --require-hashes -r constraints.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): | $(BIN)/python
	@rm -f $(VENV)/.promptjobs-*
	@echo "Installing the locked development packages into $(VENV) (about a minute the first time)"
	@$(PIP) install --quiet --require-hashes -r constraints-dev.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
