# Every target sets itself up: python3, make and git are enough. Set-up runs again only when what it installs has changed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# One thread: these models are small, and two torch threads on a busy two-core machine ran five times slower than one.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types build-embedded clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1|/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

$(READY): pyproject.toml requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "textenv needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose one: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV): about a minute, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-dev.txt
	@touch $@

setup: $(READY)  ## make the virtual environment in .venv and install everything into it

demo: $(READY)  ## train on the embedded world, offline, and show what was learned
	@$(BIN)/python examples/detox_demo.py

test: $(READY)  ## run the tests; SLOW=1 adds those of more than five seconds, ARGS='-k name' goes to pytest
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(if $(SLOW),,-m "not slow") $(ARGS)

lint: $(READY)  ## ruff
	@$(BIN)/ruff check .

types: $(READY)  ## mypy, strict
	@rm -rf .types && mkdir -p .types/textenv
	@ln -s $(CURDIR)/textenv/* $(CURDIR)/wrappers $(CURDIR)/agents .types/textenv/
	@$(BIN)/mypy -p textenv

build-embedded: $(READY)  ## rebuild the embedded texts, models and critic from their seed
	@$(BIN)/python -m textenv.embedded.build

clean:  ## remove what the targets made, .venv included
	@rm -rf $(VENV) .types build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
