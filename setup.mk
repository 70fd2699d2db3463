# Installing, a first run and JupyterLab: what the editions of the course need too.
SHELL := /bin/bash
.DEFAULT_GOAL := help

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
# the first of these that is there and supported
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3 python, \
    $(shell $(name) -c '$(SUPPORTED)' 2>/dev/null && echo $(name))) python3.11)
BIN := .venv/bin
STAMP := .venv/.installed
QUICKSTART := runs/quickstart
# seconds that a cell of it may take: make quickstart LIMIT=20000
LIMIT ?= 7200
EXTRAS ?= [notebooks,build]
LISTED ?= $(MAKEFILE_LIST)

# The environment's own kernelspec `python3` comes before one in the user's home.
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONNOUSERSITE := 1
# Beside other work, threads that spin while they wait take five times as long.
export GOMP_SPINCOUNT ?= 10000
# onnxruntime, where it is installed, asks no network.
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: help setup quickstart lab app

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(LISTED) | sed -E 's/^([a-z%-]+):.*## /  make \1\t/; s/%/NAME/' | expand -t 20

setup: $(STAMP) ## create .venv and install the pinned packages; a second run installs nothing

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
	    echo "Python 3.11, 3.12 or 3.13 is needed, but '$(PYTHON)' is missing or another version." >&2; \
	    echo "Install one, or say where it is: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into .venv (once; some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@# compiled when it is imported: to compile all of it takes more than a minute
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile \
	    -c constraints.txt -e '.$(EXTRAS)'
	@touch $@

quickstart: setup ## erase a first concept: run notebooks/01_quickstart.ipynb
	@mkdir -p $(QUICKSTART)
	@echo "Running notebooks/01_quickstart.ipynb (a minute or two, on an old laptop many) ..."
	@$(BIN)/python -c "import sys; from pathlib import Path; from erase_lib.sweep import run_notebook as run; \
	    sys.exit(run(Path('notebooks/01_quickstart.ipynb'), Path('$(QUICKSTART)/01_quickstart.ipynb'), {}, $(LIMIT)).get('error'))"
	@test -s $(QUICKSTART)/before_after.png || { \
	    echo "The notebook ran but wrote no $(QUICKSTART)/before_after.png" >&2; exit 1; }
	@echo "Executed notebook:  $(QUICKSTART)/01_quickstart.ipynb"
	@echo "Before and after:   $(QUICKSTART)/before_after.png"

# course/lab: no news, and a text is shown, not its source
lab: setup ## JupyterLab on this machine only; it prints its address with the token
	JUPYTER_CONFIG_PATH="$(CURDIR)/course/lab$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
	    $(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) \
	    --LabApp.default_url=/lab/tree/notebooks/START_HERE.md

STUDIO = $(if $(MODEL),runs/app,notebooks)/15_studio.ipynb

app: setup ## the erasure studio as a page of its own, on this machine only, behind a token; MODEL=my-model: of your own
	$(if $(MODEL),@mkdir -p runs/app && $(BIN)/papermill --prepare-only --no-progress-bar \
	    notebooks/15_studio.ipynb $(STUDIO) -r model "$(MODEL)")
	$(BIN)/voila $(STUDIO) --Voila.ip=127.0.0.1 --token
