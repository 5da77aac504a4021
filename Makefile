# Every target does the set-up it needs; `make help` lists them.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEAM := $(VENV)/.installed-team

# uv does not read pip's find-links setting: hand it over, so that a machine's own wheels are found.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Telemetry of every tool is off.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
# Where a machine forbids it, every start of a stage would compile its libraries anew.
unexport PYTHONDONTWRITEBYTECODE
# What MLflow loads is never unpickled.
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false

.DEFAULT_GOAL := help
.PHONY: help setup team demo test test-fast lint format lock profile plots ui doctor clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v == (3, 11) else f"Python 3.11 is needed, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11 ...")'
	@# One that was interrupted in the making has no pip.
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==0.13.8"
	@# install, not sync: where torch is the build for GPUs, it brings its own CUDA packages.
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	@touch $@

setup: $(STAMP) ## Make .venv and install requirements.lock into it
	@echo "Ready. Next: make demo (a distilled student in minutes) or make test."

$(TEAM): requirements-team.lock $(STAMP)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements-team.lock
	@touch $@

team: $(TEAM) ## Add what a team's stores need: Postgres and S3 clients, MLflow's login, SeaweedFS

demo: $(STAMP) ## Distil, evaluate, export, register and promote a student with the current params.yaml
	@python -m flows.demo

# By file: tests of one file share a server or a project, and two files at a time fill two cores.
test: $(STAMP) $(TEAM) ## Run every test
	@python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: $(STAMP) ## Run the tests that need no server and no pipeline
	@python -m pytest -m "not slow"

lint: $(STAMP) ## Check style, types and spelling
	ruff check .
	ruff format --check .
	mypy
	codespell

format: $(STAMP) ## Rewrite the code in the house style
	ruff check --fix .
	ruff format .

# The local label of a machine's own torch build is dropped, so that the lock fits every machine.
lock: $(STAMP) ## Pin everything in requirements.in and requirements-team.in again
	$(BIN)/uv pip compile --quiet --python-version 3.11 --no-annotate --no-header requirements.in | sed 's/^torch==\([0-9.]*\)+.*/torch==\1/' > requirements.lock.new
	printf 'uv==0.13.8\n' >> requirements.lock.new
	mv requirements.lock.new requirements.lock
	$(BIN)/uv pip compile --quiet --python-version 3.11 --no-annotate --no-header requirements-team.in | grep --invert-match --line-regexp --fixed-strings --file requirements.lock > requirements-team.lock

profile: $(STAMP) ## Switch params.yaml to a profile: make profile NAME=local-glue
	@python -m stages.params use "$(NAME)"

plots: $(STAMP) ## Draw DVC's plots on a page that needs no network: reports/plots/index.html
	@python -m stages.report.dvc_plots --out reports/plots

ui: $(STAMP) ## Start the Prefect and MLflow pages on loopback (Ctrl-C stops both)
	@python -m flows.ui

doctor: $(STAMP) ## Check everything a run needs: packages, settings, disk, ports, stores
	@python -m flows.doctor

clean: ## Delete checkpoints of unfinished runs, and caches; keeps data, models, reports and mlruns
	rm -rf .scratch .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
