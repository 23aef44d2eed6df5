# `make chat` and `make test` need python3 (3.11 or newer) and nothing else; they build .venv from requirements/*.txt.
PYTHON ?= python3
MODEL ?= nano

VENV := .venv
BIN := $(VENV)/bin
KERNELS := chatglm3/kernels/build.py $(wildcard chatglm3/kernels/src/*)

.PHONY: chat test check lint format clean help

help:
	@echo "make chat              talk with the embedded model, offline (MODEL=name for another one)"
	@echo "make test              the whole suite: ruff, mypy, import-linter, pytest"
	@echo "make check ARGS=...    the tests alone, with pytest's arguments (ARGS='tests/cli -k version')"
	@echo "make format            put the code into the house's format"
	@echo "make clean             remove .venv and every cache"

chat: $(VENV)/base.stamp
	@$(BIN)/chatglm3 chat $(MODEL)

test: lint
	$(BIN)/python -m pytest

check: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: chatglm3 needs Python 3.11 or newer, and '$(PYTHON)' is not; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: sudo apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# A stamp is newer than what it installed, so a second run installs nothing.
$(VENV)/base.stamp: $(VENV)/bin/python requirements/base.txt pyproject.toml hatch_build.py $(KERNELS)
	@echo "Installing into $(VENV) (once; PyTorch is the large part) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements/base.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements/dev.txt
	@touch $@
