# mlkit: everything a newcomer and CI need. Only Python 3.11+ and make are taken for granted.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
LOCAL_UV := .uv/bin/uv
# An installed uv of 0.9 or later serves; otherwise one is put into .uv, and nowhere else.
UV := $(shell uv --version 2>/dev/null | awk '{split($$2, v, "."); if (v[1] > 0 || v[2] >= 9) print "uv"}')
ifeq ($(UV),)
UV := $(LOCAL_UV)
BOOTSTRAP := $(LOCAL_UV)
endif
LIGHT := .venv-light

.PHONY: help setup demo test lint format docs types light lock clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(LOCAL_UV):
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9'

setup: $(BOOTSTRAP) ## Install all packages and what develops them into .venv.
	$(UV) sync --quiet

demo: setup ## Train, evaluate and report on embedded data: demo/run/report.html.
	$(UV) run --no-sync mlkit demo angioseg --out demo $(if $(wildcard demo),--resume)

test: lint light ## Lint, then run every test; what CI runs.
	$(UV) run --no-sync pytest -n 2 -q

lint: setup ## Check style and formatting.
	$(UV) run --no-sync ruff check --quiet .
	$(UV) run --no-sync ruff format --check --quiet .

format: setup ## Format, and fix what can be fixed.
	$(UV) run --no-sync ruff format .
	$(UV) run --no-sync ruff check --fix .

docs: setup ## Refresh the tables and files in the docs from the code.
	$(UV) run --no-sync python tools/docs_tables.py

types: setup ## Check types: strict for core's light half and the CLI.
	$(UV) run --no-sync pyright

light: setup ## Run core's and the CLI's light tests where torch is not installed.
	UV_PROJECT_ENVIRONMENT=$(LIGHT) $(UV) sync --quiet --package mlkit-cli --no-default-groups --group light
	$(LIGHT)/bin/python -c "import importlib.util as u; assert not u.find_spec('torch')"
	$(LIGHT)/bin/python -m pytest -q packages/core/tests/light packages/cli/tests/light

lock: $(BOOTSTRAP) ## Write requirements.lock: versions and hashes, no addresses.
	$(UV) lock --quiet
	$(UV) export --quiet --no-emit-workspace --no-header --no-annotate --output-file requirements.lock

clean: ## Remove environments and what tests and runs left behind.
	rm -rf .venv $(LIGHT) .uv dist demo runs .pytest_cache .ruff_cache
